"""Check quality without labels: the papers' formulas, slowly, and limits by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped import shipped_options

from vcrast.evaluation.base import ViewedFeatures, measured
from vcrast.evaluation.embedding import Embedded
from vcrast.evaluation.metrics import effective_rank, entropy_rank
from vcrast.evaluation.quality import LIDAR_DELTA, Quality, lidar, spectrum_alpha


def make(**options):
    found = shipped_options("evaluation/quality")["quality"]
    return Quality(**{**{key: value for key, value in found.items() if key != "module"}, **options})


def slow_rank(values):
    """Garrido et al., eq. 3, and Thilak et al., eq. 3: shares plus 1e-7."""
    shares = values / np.abs(values).sum() + 1e-7
    return math.exp(-sum(share * math.log(share) for share in shares))


def slow_lidar(views):
    """Thilak et al., eq. 1 and 2, clip by clip and view by view."""
    views = views.numpy().astype(np.float64)
    num_clips, num_views, dim = views.shape
    centre = views.mean(axis=(0, 1))
    between, within = np.zeros((dim, dim)), np.zeros((dim, dim))
    for clip in views:
        own = clip.mean(axis=0)
        between += np.outer(own - centre, own - centre) / num_clips
        for view in clip:
            within += np.outer(view - own, view - own) / (num_clips * num_views)
    values, vectors = np.linalg.eigh(within + LIDAR_DELTA * np.eye(dim))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    return slow_rank(np.linalg.eigvalsh(root @ between @ root).clip(min=0))


def slow_alpha(embeddings, first, last):
    """A weighted straight line through the logarithms of the covariance's eigenvalues."""
    values = np.sort(np.linalg.eigvalsh(np.cov(embeddings.numpy().astype(np.float64), rowvar=False)))[::-1]
    number = np.arange(first, min(last, len(values)) + 1)
    slope, _ = np.polyfit(np.log(number), np.log(values[number - 1]), 1, w=number**-0.5)
    return -slope


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(num_clips=st.integers(2, 23), dim=st.integers(1, 9), views=st.integers(2, 5), seed=st.integers(0, 99))
def test_all_three_by_the_papers_formulas(num_clips, dim, views, seed):
    found = noise(num_clips, views, dim, seed=seed) * torch.logspace(0, -2, dim) + 3 * noise(num_clips, 1, dim)
    assert float(lidar(found)) == pytest.approx(slow_lidar(found), rel=1e-4)
    flat = found.flatten(0, 1)
    assert float(effective_rank(flat)) == pytest.approx(slow_rank(np.linalg.svd(flat.numpy())[1]), rel=1e-4)
    if dim >= 5 and len(flat) > dim + 2:
        assert float(spectrum_alpha(flat, 2, 7)) == pytest.approx(slow_alpha(flat, 2, 7), rel=1e-6)


def test_limits_by_hand():
    corners = torch.cat([torch.eye(6), -torch.eye(6)]).double()  # 12 clips, centred, equal in 6 directions
    line = torch.arange(1.0, 9).unsqueeze(1) * torch.tensor([1.0, 2, 3])
    assert float(effective_rank(corners)) == pytest.approx(6)
    assert float(effective_rank(line)) == pytest.approx(1)
    assert float(entropy_rank(torch.tensor([3.0, 3.0, 0.0]))) == pytest.approx(2)
    assert float(spectrum_alpha(corners, 1, 6)) == pytest.approx(0, abs=1e-9)
    # Views that scatter equally in all directions, by much or by little, leave the rank of the clips.
    scatter = corners.unsqueeze(0)  # (1, 12, 6)
    for size in (1e-3, 1.0):
        assert float(lidar(corners.unsqueeze(1) + size * scatter)) == pytest.approx(6)
    assert float(lidar((line / 9).unsqueeze(1) + scatter[:, :, :3])) == pytest.approx(1, abs=1e-3)
    assert float(lidar(scatter.expand(5, -1, -1))) == 0.0


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_an_exact_power_law_is_found(alpha):
    std = torch.arange(1, 31, dtype=torch.float64) ** (-alpha / 2)
    embeddings = torch.cat([torch.diag(std), -torch.diag(std)]) + 5
    assert float(spectrum_alpha(embeddings, 3, 100)) == pytest.approx(alpha)
    # A direction that a norm has emptied does not count.
    empty = torch.cat([embeddings, 1e-7 * noise(60, 1) + 2], dim=1)
    assert float(spectrum_alpha(empty, 3, 100)) == pytest.approx(alpha, rel=1e-3)


def test_lidar_falls_where_the_views_scatter_and_rankme_does_not():
    clips = torch.cat([3 * noise(200, 1, 4), torch.zeros(200, 1, 12)], dim=2)  # four directions tell clips apart
    found = clips + torch.cat([0.1 * noise(200, 6, 4, seed=1), noise(200, 6, 12, seed=2)], dim=2)
    assert float(effective_rank(found[:, 0])) > 11
    assert float(lidar(found)) < 5


def viewed(embedding, views):
    label = torch.eye(2)[torch.arange(len(embedding)) % 2]
    own = Embedded(embedding, label, torch.arange(len(embedding)))
    return ViewedFeatures(own, own, multilabel=False, views=views)


def test_what_cannot_be_measured_says_why():
    asked = []

    def views(num_clips, num_pairs):
        asked.append((num_clips, num_pairs))
        return noise(7, 4, 5)

    found = measured(make(clips=7, pairs=2), viewed(noise(40, 5), views), ("a", "b"))
    assert found.undefined == {}
    assert asked == [(7, 2)]
    assert set(measured(make(pairs=0), viewed(noise(40, 5), views), ("a", "b")).values) == {"rankme", "alpha"}

    found = measured(make(), viewed(noise(40, 5), lambda *_: noise(7, 1, 5).expand(-1, 4, -1)), ("a", "b"))
    assert "views of a clip are all alike" in found.undefined["lidar"]

    def refuse(*_):
        raise ValueError("it needs the whole grid")

    found = measured(make(), viewed(noise(40, 4), refuse), ("a", "b"))
    assert found.undefined["lidar"] == "it needs the whole grid"
    assert "40 clips, 4 dimensions) have fewer than 3" in found.undefined["alpha"]
    assert found.values["rankme"] > 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha_range": [5, 6]}, r"alpha_range=\[5, 6\]: give \[first, last\]"),
        ({"alpha_range": [0, 9]}, r"alpha_range=\[0, 9\]: give"),
        ({"clips": 1}, "clips=1: must be 2 or more"),
        ({"pairs": -1}, "pairs=-1: must not be negative"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=f"evaluation.quality.{message}"):
        make(**options)
