"""Check whitening against scikit-learn, and its neighbours against plain ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vcrast.evaluation.base import Features
from vcrast.evaluation.embedding import Embedded
from vcrast.evaluation.knn import NearestNeighbours
from vcrast.evaluation.whitened_knn import WhitenedNeighbours, fit_whitening


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=25)
@given(num=st.integers(2, 60), dim=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_the_covariance_is_that_of_scikit_learn(num, dim, seed):
    covariance = pytest.importorskip("sklearn.covariance", reason="needs scikit-learn")
    vectors = randn(num, dim, seed=seed) @ randn(dim, dim, seed=seed + 1) + 10 * randn(dim, seed=seed + 2)
    whitening = fit_whitening(vectors)
    expected, _ = covariance.ledoit_wolf(vectors.numpy())
    back = np.linalg.inv(whitening.matrix.numpy())
    np.testing.assert_allclose(back @ back, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(whitening.mean, vectors.mean(dim=0))


def test_whitened_vectors_have_mean_zero_and_almost_the_identity_as_covariance():
    vectors = randn(4000, 7, seed=0) @ torch.diag(torch.logspace(-0.5, 0.5, 7, dtype=torch.float64)) + 5
    white = fit_whitening(vectors)(vectors)
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-9)
    found = white.T @ white / len(white)
    torch.testing.assert_close(found, torch.eye(7, dtype=torch.float64), rtol=0, atol=0.05)


@pytest.mark.parametrize("vectors", [torch.ones(6, 3), torch.full((9, 4), 0.1), torch.zeros(5, 2), torch.ones(1, 4)])
def test_vectors_that_are_all_alike_are_only_centred(vectors):
    white = fit_whitening(vectors)
    torch.testing.assert_close(white.matrix, torch.eye(vectors.shape[1], dtype=torch.float64))
    assert white(vectors).abs().max() < 1e-6


def features(scale, common, seed):
    """Two classes told apart along the first of three directions, which `scale` makes small beside the others."""
    label = torch.arange(240) % 2
    vectors = randn(240, 3, seed=seed) * 0.5
    vectors[:, 0] += 4.0 * (label - 0.5)
    vectors[:, 0] *= scale
    half = [
        Embedded(vectors[part].float() + common, torch.eye(2)[label[part]], torch.arange(120))
        for part in (slice(0, 120), slice(120, 240))
    ]
    return Features(*half, False)


def test_it_sees_a_direction_that_the_cosine_does_not():
    given = features(0.05, 30.0, seed=3)
    plain = NearestNeighbours(k=10, temperature=0.07).measure(given)["knn_accuracy"]
    white = WhitenedNeighbours(k=10, temperature=0.07)
    assert white.measure(given)["whitened_knn_accuracy"] > 0.9 > plain + 0.2
    assert white.right(given)["whitened_knn_accuracy"].float().mean() > 0.9


def test_it_is_the_plain_one_where_features_are_white_already():
    vectors = randn(500, 4, seed=1)
    vectors = (vectors - vectors.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(vectors.T.cov(correction=0)).T)
    embedded = Embedded(vectors.float(), torch.eye(3)[torch.arange(500) % 3], torch.arange(500))
    plain, white = NearestNeighbours(k=7, temperature=0.1), WhitenedNeighbours(k=7, temperature=0.1)
    plain.measure(Features(embedded, embedded, False))
    white.measure(Features(embedded, embedded, False))
    torch.testing.assert_close(white.score, plain.score, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("option", "value"), [("k", 0), ("temperature", 0.0), ("temperature", float("nan"))])
def test_a_wrong_option_is_named(option, value):
    with pytest.raises(ValueError, match=rf"evaluation\.whitened_knn\.{option}="):
        WhitenedNeighbours(**{"k": 10, "temperature": 0.07, option: value})
