"""Quadratic reference of RFA: every N x N matrix written out, for tests and for reading."""

from __future__ import annotations

import torch
from torch import Tensor


def fourier_kernel(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """Mean over r of cos(w_r (x - y)), which is what sin sin + cos cos sums to.

    Args:
        x: (B, H, N, K).
        y: (B, H, M, K).
        directions: (H, R, K).

    Returns:
        (B, H, N, M).
    """
    difference = x.unsqueeze(3) - y.unsqueeze(2)
    return torch.einsum("bhnmk,hrk->bhnmr", difference, directions).cos().mean(dim=-1)


def positive_kernel(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """Mean over r of exp(w_r (x + y) - |x|^2 / 2 - |y|^2 / 2); arguments and result as in `fourier_kernel`."""
    x, y = x.unsqueeze(3), y.unsqueeze(2)
    exponents = torch.einsum("bhnmk,hrk->bhnmr", x + y, directions)
    return (exponents - (x.square().sum(dim=-1) + y.square().sum(dim=-1)).unsqueeze(-1) / 2).exp().mean(dim=-1)


def gate_weights(keep: Tensor, *, two_sided: bool) -> Tensor:
    """What each token weighs every other by, as products of keep factors.

    Args:
        keep: (B, H, N) g in (0, 1).
        two_sided: also over later tokens.

    Returns:
        (B, H, N, N): row t, column j.
    """
    num_tokens = keep.shape[-1]
    rows = []
    for t in range(num_tokens):
        row = []
        for j in range(num_tokens):
            between = keep[..., j + 1 : t + 1] if j <= t else keep[..., t:j]
            weight = (1 - keep[..., j]) * between.prod(dim=-1)
            row.append(weight if j <= t or two_sided else torch.zeros_like(weight))
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


def attend(kernel: Tensor, v: Tensor) -> Tensor:
    """Weighted mean of the values: (B, H, N, M) and (B, H, M, K) -> (B, H, N, K)."""
    return kernel @ v / kernel.sum(dim=-1, keepdim=True)


def exact_attention(q: Tensor, k: Tensor, v: Tensor, *, sigma: float = 1.0) -> Tensor:
    """What random features estimate: softmax of the cosines of q and k over sigma^2, times v."""
    q, k = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    return (q @ k.transpose(-2, -1) / sigma**2).softmax(dim=-1) @ v
