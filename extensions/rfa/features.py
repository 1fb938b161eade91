"""Draw random directions; compute features whose inner products estimate the kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Shorter vectors are not brought to unit norm: below this their direction is rounding, and its gradient has no bound.
SHORTEST = 1e-3


def draw_directions(
    num_heads: int, num_features: int, head_dim: int, *, orthogonal: bool, generator: torch.Generator
) -> Tensor:
    """Random directions of unit-normal marginals, other ones for every head.

    Args:
        num_heads: H.
        num_features: R directions a head.
        head_dim: K.
        orthogonal: rows within each block of K are at right angles and have the lengths of independent normal vectors,
            chi(K); R need not be a multiple of K. Otherwise rows are independent.
        generator: on the CPU.

    Returns:
        (H, R, K) float32 on the CPU.

    Source: Yu et al. 2016, arXiv:1610.09072. The lengths are chi(K) whatever R is; the code released with Random
    Feature Attention takes chi(R), which is another kernel unless R = K.
    """
    blocks = math.ceil(num_features / head_dim)
    shape = (num_heads, blocks, head_dim, head_dim)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    if orthogonal:
        basis, triangle = torch.linalg.qr(normal)
        # QR alone prefers a sign; with the diagonal's sign moved over, every rotation is equally likely.
        basis = basis * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        lengths = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").norm(dim=-1, keepdim=True)
        normal = basis.transpose(-2, -1) * lengths
    return normal.flatten(1, 2)[:, :num_features].to(torch.float32).contiguous()


def unit(vectors: Tensor) -> Tensor:
    """(..., K) -> (..., K) of length 1; those shorter than `SHORTEST` are divided by that."""
    return F.normalize(vectors, dim=-1, eps=SHORTEST)


def fourier(vectors: Tensor, directions: Tensor) -> Tensor:
    """Sine and cosine of the projections: phi(x) phi(y) estimates exp(-|x - y|^2 / 2).

    Args:
        vectors: (B, H, N, K).
        directions: (H, R, K).

    Returns:
        (B, H, N, 2R); every row has length 1.

    Source: Rahimi and Recht 2007; Peng et al. 2021, arXiv:2103.02143, eq. 2, with the factor R^(-1/2) of the paper
    (its released code multiplies by 0.1 instead).
    """
    angles = vectors @ directions.transpose(-2, -1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1) * directions.shape[-2] ** -0.5


def positive(vectors: Tensor, directions: Tensor, *, over: tuple[int, ...]) -> Tensor:
    """exp(w x - |x|^2 / 2), never negative: phi(x) phi(y) is proportional to an estimate of exp(x y).

    Args:
        vectors: (B, H, N, K).
        directions: (H, R, K).
        over: dimensions whose largest exponent is subtracted. Numerator and denominator of attention carry the same
            factor as long as that is (-1,) for queries and (-2, -1) for keys, whose weights must stay comparable.

    Returns:
        (B, H, N, R), the largest of `over` being R^(-1/2).

    Source: FAVOR+, Choromanski et al. 2021, arXiv:2009.14794, eq. 7. No constant is added to the features: its code
    adds 1e-4, which mixes uniform attention into the estimate.
    """
    exponents = vectors @ directions.transpose(-2, -1) - vectors.square().sum(dim=-1, keepdim=True) / 2
    # Detached: the factor cancels, and so does its gradient.
    largest = exponents.detach().amax(dim=over, keepdim=True)
    return (exponents - largest).exp() * directions.shape[-2] ** -0.5


def centre_of(keys: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """Where a clip's keys lie, and how much the centred ones weigh; both without gradient, since both cancel.

    Args:
        keys: (B, H, N, K), not yet scaled.
        widths: (H, 1, K) or (1, 1, 1), the factor on queries and keys.

    Returns:
        (B, H, 1, K) their mean over the tokens, and (B, H, 1, 1) the logarithm of the mean of exp(|x|^2 / 2), x the
        centred and scaled keys.
    """
    with torch.no_grad():
        centre = keys.mean(dim=2, keepdim=True)
        halves = ((keys - centre) * widths).square().sum(dim=-1, keepdim=True) / 2
        return centre, halves.logsumexp(dim=2, keepdim=True) - math.log(keys.shape[2])


def key_weights(scaled: Tensor, level: Tensor) -> Tensor:
    """exp(|x|^2 / 2), which makes the Gaussian of x - y one of exp(x y) again, with mean 1 over the tokens.

    Args:
        scaled: (B, H, N, K) centred and scaled keys.
        level: (B, H, 1, 1) from `centre_of`.

    Returns:
        (B, H, N, 1).
    """
    return (scaled.square().sum(dim=-1, keepdim=True) / 2 - level).exp()
