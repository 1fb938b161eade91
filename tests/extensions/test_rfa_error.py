"""Measure the error of random features and the limits stated in docs/attention.md."""

import pytest
import torch
from shipped import shipped

from extensions.rfa.attention import RandomFeatureAttention
from extensions.rfa.features import draw_directions, fourier, positive, unit
from extensions.rfa.naive import exact_attention

WIDTH = 64


def directions(num_features, *, orthogonal=False, seed=0, num_heads=1):
    generator = torch.Generator().manual_seed(seed)
    return draw_directions(num_heads, num_features, WIDTH, orthogonal=orthogonal, generator=generator).double()


def vectors(seed, num_tokens=64):
    generator = torch.Generator().manual_seed(1000 + seed)
    return unit(torch.randn(1, 1, num_tokens, WIDTH, generator=generator, dtype=torch.float64))


def kernel_error(num_features, *, orthogonal, sigma=1.0, draws=8):
    """Root mean square error of the estimated Gaussian kernel."""
    x, y = vectors(1) / sigma, vectors(2) / sigma
    exact = (-torch.cdist(x, y).square() / 2).exp()
    errors = []
    for seed in range(draws):
        w = directions(num_features, orthogonal=orthogonal, seed=seed)
        errors.append((fourier(x, w) @ fourier(y, w).transpose(-2, -1) - exact).square().mean())
    return torch.stack(errors).mean().sqrt().item()


def test_fourier_features_estimate_the_gaussian_kernel():
    # By hand: at |x - y| = 1 the kernel is exp(-1/2); cos(w z) of one direction varies by (1 - exp(-1))^2 / 2.
    x, y = torch.zeros(1, 1, 1, WIDTH, dtype=torch.float64), torch.zeros(1, 1, 1, WIDTH, dtype=torch.float64)
    y[..., 0] = 1.0
    estimates = [
        (fourier(x, w) * fourier(y, w)).sum().item() for w in (directions(1000, seed=seed) for seed in range(40))
    ]
    found = torch.tensor(estimates)
    spread = ((1 - torch.tensor(-1.0).exp()) ** 2 / 2 / 1000) ** 0.5
    assert found.mean().item() == pytest.approx(0.60653, abs=4 * spread.item() / 40**0.5)
    assert found.std().item() == pytest.approx(spread.item(), rel=0.5)


def test_positive_features_estimate_the_exponential_kernel():
    x, y = vectors(1, 6), vectors(2, 6)
    w = directions(400_000)
    estimate = positive(x, w, over=(-2, -1)) @ positive(y, w, over=(-2, -1)).transpose(-2, -1)
    exact = (x @ y.transpose(-2, -1)).exp()
    torch.testing.assert_close(estimate / estimate.mean(), exact / exact.mean(), rtol=0.02, atol=0)


def test_the_kernels_error_falls_as_the_square_root_of_the_features():
    few, many = (kernel_error(number, orthogonal=False, draws=32) for number in (64, 1024))
    assert few / many == pytest.approx(4.0, rel=0.15)


def test_orthogonal_directions_help_at_mild_temperature():
    assert kernel_error(64, orthogonal=True) < 0.7 * kernel_error(64, orthogonal=False)


KINDS = {
    "plain": {"features": "fourier", "orthogonal": False},
    "orthogonal": {"features": "fourier", "orthogonal": True},
    "positive": {"features": "positive", "orthogonal": True},
}


@torch.no_grad()
def attention_error(kind, num_features, variance, *, num_tokens=256, num_heads=24):
    """Median over tokens and heads of |estimate - exact| / |exact|, for independent normal q, k and v."""
    generator = torch.Generator().manual_seed(7)
    q, k, v = torch.randn(3, 1, num_heads, num_tokens, WIDTH, generator=generator)
    torch.manual_seed(11)
    attention = RandomFeatureAttention(
        **shipped(
            "attention/rfa",
            num_heads=num_heads,
            head_dim=WIDTH,
            num_features=num_features,
            sigma=variance**0.5,
            **KINDS[kind],
        )
    )
    exact = exact_attention(q, k, v, sigma=variance**0.5)
    return ((attention(q, k, v) - exact).norm(dim=-1) / exact.norm(dim=-1)).median().item()


@pytest.mark.parametrize("kind", KINDS)
def test_error_against_softmax_falls_as_features_grow(kind):
    errors = [attention_error(kind, number, 1.0) for number in (16, 64, 256, 1024)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] / errors[-1] > 5  # 8 is the square root of 64 times the features
    assert errors[-1] < 0.07


def test_no_drop_in_for_sharp_softmax():
    # At 1 / sigma^2 = 8 (a mild one for trained softmax weights) no kind with 64 features is within half of the answer.
    errors = {
        (kind, variance): attention_error(kind, 64, variance) for kind in KINDS for variance in (1.0, 0.25, 0.125)
    }
    for kind in KINDS:
        assert errors[kind, 1.0] < errors[kind, 0.25] < errors[kind, 0.125]
        assert errors[kind, 1.0] < 0.25
        assert errors[kind, 0.125] > 0.5
    assert errors["orthogonal", 1.0] < 0.7 * errors["plain", 1.0]  # orthogonal halves the error where it is mild,
    assert errors["orthogonal", 0.125] > 0.8 * errors["plain", 0.125]  # and hardly helps where it is sharp;
    assert errors["positive", 0.125] < 0.8 * errors["orthogonal", 0.125]  # there positive features win,
    assert errors["positive", 1.0] > 1.3 * errors["orthogonal", 1.0]  # and lose where it is mild.


@torch.no_grad()
def test_sharp_fourier_denominators_turn_negative_and_positive_ones_never():
    q, k = (vectors(seed, 512) / 0.125**0.5 for seed in (1, 2))
    w = directions(64, orthogonal=True)
    sharp = (fourier(q, w) @ fourier(k, w).sum(dim=2, keepdim=True).transpose(-2, -1)).squeeze(-1)
    never = positive(q, w, over=(-1,)) @ positive(k, w, over=(-2, -1)).sum(dim=2, keepdim=True).transpose(-2, -1)
    assert 0.1 < (sharp < 0).double().mean() < 0.5
    assert (never > 0).all()
