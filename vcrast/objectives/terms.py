"""The three terms of the VCR loss, and the floor that a batch cannot go below.

The VICReg authors' code is the reference; where it differs from the paper, the docstrings say so.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

STD_EPS = 1e-4


def invariance_term(za: Tensor, zb: Tensor) -> Tensor:
    """Mean squared difference of two views' (B, P) projections, over clips and dimensions.

    The paper's equation lacks the 1/P; the thesis's eq. 4.5 has 1 over the sum.
    """
    return F.mse_loss(za, zb)


def std_of(z: Tensor) -> Tensor:
    """(P,) standard deviation over the clips of (B, P), unbiased, with 1e-4 added to the variance."""
    # eps inside the root: at zero variance the gradient would be 0 * inf, NaN.
    return (z.var(dim=0) + STD_EPS).sqrt()


def variance_term(z: Tensor) -> Tensor:
    """Mean over dimensions of max(0, 1 - std) of one view's (B, P) projections.

    The loss takes half the sum over the two views, as the authors' code and the thesis's Algorithm 1; the paper's
    equation has no half.
    """
    return F.relu(1 - std_of(z)).mean()


def covariance_term(z: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances of one view's (B, P) projections, over P; the loss sums both views.

    Equal in value and gradient, the smaller matrix is built: with n clips below P dimensions the n x n products of
    clips, whose squared norm is that of the covariance; at P = 4096 and n = 96 this is over 100 times faster. With more
    clips than dimensions the direct form, because the difference of two nearly equal numbers would cancel.
    """
    num_clips, dims = z.shape
    z = z - z.mean(dim=0)
    if num_clips < dims:
        squares = (z @ z.T).square().sum() - z.square().sum(dim=0).square().sum()
        return squares / (num_clips - 1) ** 2 / dims
    covariance = z.T @ z / (num_clips - 1)
    return (covariance - covariance.diagonal().diag_embed()).square().sum() / dims


def crowding(num_clips: int, dims: int) -> float:
    """The least covariance term that one view with all stds 1 can have: k = P / (n - 1) - 1, or 0.

    The covariance of n clips has rank n - 1 at most; P unit variances squeezed into fewer directions must correlate.
    """
    return max(0.0, dims / (num_clips - 1) - 1)


def reachable_covariance_weight(num_clips: int, dims: int, variance_weight: float = 25.0) -> float:
    """The largest covariance weight, up to 1, at which the loss's minimum still has std 1: variance weight / (8 k)."""
    k = crowding(num_clips, dims)
    return min(1.0, variance_weight / (8 * k)) if k > 0 else 1.0


def reachable_std(num_clips: int, dims: int, weights: Mapping[str, float]) -> float:
    """The common std of all dimensions at which the loss of a batch is least; arguments as in `vcr_floor`."""
    pull, push = weights["variance"], weights["covariance"] * crowding(num_clips, dims)
    return min(1.0, (pull / (8 * push)) ** (1 / 3)) if push > 0 else 1.0


def vcr_floor(num_clips: int, dims: int, weights: Mapping[str, float]) -> float:
    """The least value that the loss of a batch can take, whatever the encoder: L*(n, P).

    With a common std s, the variance term is 1 - s and the covariance terms of both views together 2 k s^4; the sum is
    least at s = (variance weight / (8 k covariance weight))^(1/3), or 1. Losses of other batch sizes or widths have
    other floors and do not compare: only the part above the floor does. The 1e-4 under the root is neglected, so a loss
    can end up below by that much: about 0.01 of 21.19 for 12 clips in 4096 dimensions.

    Args:
        num_clips: n, the batch of the loss.
        dims: P.
        weights: of `variance` and `covariance`; the invariance term can always be 0.
    """
    pull, push = weights["variance"], weights["covariance"] * crowding(num_clips, dims)
    std = reachable_std(num_clips, dims, weights)
    return pull * (1 - std) + 2 * push * std**4
