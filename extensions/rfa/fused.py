"""Wrap the Triton kernels in one differentiable function, and tell where they run."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .features import SHORTEST, centre_of, unit

BLOCK = 32  # tokens; with 64 the backward's matrices leave the registers
SMALLEST = 1e-3  # of a denominator, before it is clamped
WIDTHS = (16, 32, 64)  # at 128 the backward needs more shared memory than most GPUs have
PROGRAMS = 512  # enough to fill a large GPU twice; fewer heads than this are cut into runs of token blocks


def why_not(q: Tensor, num_features: int) -> str:
    """Why the kernels cannot take these tensors; empty if they can."""
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"it computes in fp32, not {str(q.dtype).removeprefix('torch.')}"
    if q.shape[-1] not in WIDTHS or num_features not in WIDTHS:
        widths = ", ".join(str(width) for width in WIDTHS)
        return f"head width {q.shape[-1]} and num_features={num_features} must both be one of {widths}"
    if not q.is_cuda:
        # Triton's interpreter runs kernels on the CPU, slowly, for tests; it must be chosen before Triton is imported.
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return triton_missing() if interpreted else f"Triton has no kernels for {q.device.type}"
    major, minor = torch.cuda.get_device_capability(q.device)
    if major < 8:
        return f"Triton needs a GPU of capability 8 or newer, this is {major}.{minor}"
    if q.dtype == torch.float32:
        # Exact fp32 products leave the tensor cores and their operands the registers: slower than PyTorch's.
        return "on a GPU it takes bf16 and fp16, this is fp32"
    return triton_missing()


@functools.cache
def triton_missing() -> str:
    """Why Triton cannot be used; empty if it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    try:
        importlib.import_module(".kernel", __package__)
    except Exception as broken:  # an optional package that fails to import is one that is missing
        return f"triton does not import ({broken})"
    return ""


def attend(
    q: Tensor, k: Tensor, v: Tensor, directions: Tensor, widths: Tensor, normalize: bool, centre_keys: bool
) -> tuple[Tensor, Tensor]:
    """Ungated attention with Fourier features in two kernels, and three more backward.

    Args:
        q: (B, H, N, K).
        k: (B, H, N, K).
        v: (B, H, N, K).
        directions: (H, R, K) float32.
        widths: (H, 1, K) or (1, 1, 1) float32, the factor on q and k; directions and widths get gradients.
        normalize: bring q and k to unit norm.
        centre_keys: subtract the mean key; it is computed here, in PyTorch operations without gradient.

    Returns:
        (B, H, N, K) of v's dtype, and the denominators (B, H, N) before they were clamped, without gradient.
    """
    heads, _, head_dim = directions.shape
    centre, level = k.new_zeros(1, dtype=torch.float32), k.new_zeros(1, dtype=torch.float32)
    if centre_keys:
        with torch.no_grad():
            keys = unit(k.float()) if normalize else k.float()
        centre, level = centre_of(keys, widths)
    centre, level = (
        part.expand(k.shape[0], heads, 1, width).flatten(2).contiguous()
        for part, width in ((centre, head_dim), (level, 1))
    )
    flat = widths.expand(heads, 1, head_dim).squeeze(1)
    return Fused.apply(q, k, v, directions * widths, flat, centre, level, normalize, centre_keys)


class Fused(torch.autograd.Function):
    """Forward and backward over the kernels; features are computed again in the backward."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, directions: Tensor, widths: Tensor, centre: Tensor, level: Tensor,
        normalize: bool, centre_keys: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `attend`; here directions have the widths (H, K) multiplied in."""
        kernel: Any = importlib.import_module(".kernel", __package__)
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        directions, widths = directions.contiguous(), widths.contiguous()
        grid, blocks, options = plan(v, directions, normalize)
        sums, totals = partial(grid, directions, 2, like=v)
        kernel.sum_keys[grid](
            k, v, directions, widths, centre, level, sums, totals, *strides(k), *strides(v), v.shape[1], v.shape[2],
            blocks, factor(v, directions), CENTRE=centre_keys, **options,
        )  # fmt: skip
        sums, totals = sums.sum(dim=1), totals.sum(dim=1)
        # (B, N, H, K) in memory: the heads are merged next.
        out = v.new_empty(v.shape[0], v.shape[2], v.shape[1], v.shape[3]).transpose(1, 2)
        denominator = torch.empty(v.shape[:3], dtype=torch.float32, device=v.device)
        per_block = (grid[0], -(-v.shape[2] // BLOCK))
        kernel.read_out[per_block](
            q, directions, sums, totals, out, denominator, *strides(q), *strides(out), v.shape[1], v.shape[2],
            SMALLEST=SMALLEST, **options,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, directions, widths, centre, level, sums, totals, denominator)
        ctx.normalize, ctx.centre_keys = normalize, centre_keys
        ctx.mark_non_differentiable(denominator)
        return out, denominator

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v, the directions and the widths."""
        kernel: Any = importlib.import_module(".kernel", __package__)
        q, k, v, directions, widths, centre, level, sums, totals, denominator = ctx.saved_tensors
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        grid, blocks, options = plan(v, directions, ctx.normalize)
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        grad_sums, grad_totals = partial(grid, directions, 2, like=v)
        of_queries, of_keys = (partial(grid, directions, 1, like=v)[0] for _ in range(2))
        of_widths = torch.empty(*grid, directions.shape[2], dtype=torch.float32, device=v.device)
        sizes = (v.shape[1], v.shape[2], blocks)
        kernel.back_queries[grid](
            q, directions, sums, totals, denominator, grad, grad_q, grad_sums, grad_totals, of_queries,
            *strides(q), *strides(grad), *strides(grad_q), *sizes, SMALLEST=SMALLEST, **options,
        )  # fmt: skip
        grad_sums, grad_totals = grad_sums.sum(dim=1), grad_totals.sum(dim=1)
        kernel.back_keys[grid](
            k, v, directions, widths, centre, level, grad_sums, grad_totals, grad_k, grad_v, of_keys, of_widths,
            *strides(k), *strides(v), *strides(grad_k), *strides(grad_v), *sizes, factor(v, directions),
            CENTRE=ctx.centre_keys, **options,
        )  # fmt: skip
        of_directions, of_widths = (
            part.unflatten(0, v.shape[:2]).sum(dim=(0, 2)) for part in ((of_queries + of_keys).squeeze(2), of_widths)
        )
        return grad_q, grad_k, grad_v, of_directions, of_widths, None, None, None, None


def plan(v: Tensor, directions: Tensor, normalize: bool) -> tuple[tuple[int, int], int, dict[str, Any]]:
    """(heads of all clips, parts of a clip), token blocks of a part, and what the kernels are compiled for."""
    heads, blocks = v.shape[0] * v.shape[1], -(-v.shape[2] // BLOCK)
    per_part = -(-blocks // min(blocks, -(-PROGRAMS // heads)))
    num_features, head_dim = directions.shape[1:]
    options = {
        "R": num_features,
        "K": head_dim,
        "BLOCK": BLOCK,
        "SHORTEST": SHORTEST,
        "NORMALIZE": normalize,
        "PRECISION": "ieee" if v.dtype == torch.float32 else "tf32",
        "num_warps": 8 if num_features * head_dim > 32 * 32 else 4,
        "num_stages": 1,
    }
    return (heads, -(-blocks // per_part)), per_part, options


def partial(grid: tuple[int, int], directions: Tensor, count: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Room for the sums of every program: (B * H, parts, count, R, K) and (B * H, parts, count, R), fp32."""
    num_features, head_dim = directions.shape[1:]
    matrices = torch.empty(*grid, count, num_features, head_dim, dtype=torch.float32, device=like.device)
    return matrices, torch.empty(*grid, count, num_features, dtype=torch.float32, device=like.device)


def factor(v: Tensor, directions: Tensor) -> float:
    """Makes the sums means over tokens, and the features' R^(-1/2) of both sides."""
    return 1 / (v.shape[2] * directions.shape[1])


def strides(x: Tensor) -> tuple[int, int, int]:
    """Of B, H and N."""
    return x.stride(0), x.stride(1), x.stride(2)
