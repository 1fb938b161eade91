"""Compute the memory of a step on a T4, by formula, and the cut of the plan.

python benchmarks/memory.py        # prints the table of docs/t4.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vcrast.config.compose import compose
from vcrast.models.backbone import build_backbone
from vcrast.models.projector import Projector
from vcrast.training.exact import Split
from vcrast.training.plan import GIB, MARGIN, Footprint, Plan, choose

T4_BYTES = round(14.7 * GIB)  # what PyTorch sees of the nominal 16 GB
CONTEXT_BYTES = round(0.5 * GIB)  # of CUDA itself, outside PyTorch's allocator
HALF, FULL = 2, 4  # bytes of a number in fp16 and in fp32
VIEWS, MEL_BINS = 2, 128
ADAMW_BYTES = 16  # a parameter: weight, gradient and two running means, all fp32
HEADER = ("model", "frames", "batch", "projector", "patch_drop", "whole batch", "cut", "peak", "extra compute")


def block_bytes(embed_dim: int, num_heads: int, mlp_ratio: float, num_tokens: int) -> int:
    """Activations that one block keeps for the backward, of one view of a clip, with fused attention under fp16.

    Per token and channel: the two norms' fp32 inputs (the residual stream), the norms' outputs in fp16, q, k, v, the
    mixed values, and the MLP's hidden layer before and after GELU. Per token besides: mean and deviation of two norms,
    and one logarithm per head that the attention kernel keeps.
    """
    channels = 2 * FULL + 2 * HALF + 4 * HALF + 2 * mlp_ratio * HALF
    return round(num_tokens * (embed_dim * channels + 4 * FULL + num_heads * FULL))


def view_bytes(model: Mapping[str, Any], num_frames: int, num_tokens: int) -> int:
    """Activations that the encoder keeps, of one view of a clip."""
    dim = model["embed_dim"]
    blocks = model["depth"] * block_bytes(dim, model["num_heads"], model["mlp_ratio"], num_tokens)
    final_norm = num_tokens * (dim * FULL + 2 * FULL)
    return blocks + final_norm + num_frames * MEL_BINS * HALF


def footprint(
    model: Mapping[str, Any], *, num_frames: int, batch_size: int, projector_dims: list[int], patch_drop: float
) -> Footprint:
    """The memory model of a pretraining step with AdamW in fp16; the same quantities that the plan measures on a GPU.

    Gradients on their way through a block count as one block's activations; so does nothing else that is temporary.
    """
    with torch.device("meta"):
        encoder = build_backbone(
            model, attention={"name": "softmax"}, linear={"name": "real"}, num_mel_bins=MEL_BINS,
            num_frames=num_frames, num_channels=1, patch_stride=None,
        )  # fmt: skip
        projector = Projector(encoder.embed_dim, projector_dims)
    num_weights = sum(weight.numel() for part in (encoder, projector) for weight in part.parameters())
    num_tokens = encoder.num_tokens(num_frames)
    kept_tokens = num_tokens - round(num_tokens * patch_drop)
    inputs = VIEWS * batch_size * num_frames * MEL_BINS * FULL
    # Each layer's output and its normalised form, of both views, and as much again for their gradients.
    loss = VIEWS * batch_size * FULL * 4 * sum(projector_dims)
    graph = VIEWS * view_bytes(model, num_frames, kept_tokens)
    moving = VIEWS * block_bytes(encoder.embed_dim, model["num_heads"], model["mlp_ratio"], kept_tokens)
    # Autocast's copies of the matrices: the patch convolution and the blocks' linear layers.
    copies = HALF * sum(weight.numel() for weight in encoder.parameters() if weight.ndim > 1)
    return Footprint(
        base=ADAMW_BYTES * num_weights + inputs + loss,
        run_fixed=copies, run_per_clip=graph + moving, graph_fixed=copies, graph_per_clip=graph,
    )  # fmt: skip


def row(name: str, *, num_frames: int, batch_size: int, projector: int = 4096, patch_drop: float = 0.0) -> list[str]:
    """One row of the table: what the whole batch would take, and the plan on a T4."""
    model = compose([f"model={name}"]).model
    found = footprint(
        model, num_frames=num_frames, batch_size=batch_size, projector_dims=[projector] * 3, patch_drop=patch_drop
    )
    available = T4_BYTES - CONTEXT_BYTES
    plan = Plan(batch_size, choose(found, batch_size, int(available * (1 - MARGIN))))
    size, num_kept = plan.split.micro_batch_size, plan.split.num_kept_graphs
    cut = f"{plan.num_micro_batches} x {size}, {num_kept} kept" if plan.num_micro_batches > 1 else "whole"
    return [
        name, str(num_frames), str(batch_size), str(projector), f"{patch_drop:g}",
        f"{found.peak(Split(batch_size, 1)) / GIB:.1f} GiB", cut, f"{found.peak(plan.split) / GIB:.1f} GiB",
        f"{plan.extra_compute:.0%}",
    ]  # fmt: skip


def rows() -> Iterator[list[str]]:
    """The table of docs/t4.md."""
    for name in ("base", "small", "tiny"):
        for num_frames in (512, 1024):
            for batch_size in (48, 96):
                yield row(name, num_frames=num_frames, batch_size=batch_size)
    for num_frames in (512, 1024):
        yield row("base", num_frames=num_frames, batch_size=96, patch_drop=0.5)
    yield row("base", num_frames=1024, batch_size=96, projector=8192)


def table() -> list[str]:
    """Lines of Markdown."""
    lines = [HEADER, ("---",) * len(HEADER), *rows()]
    return [f"| {' | '.join(line)} |" for line in lines]


if __name__ == "__main__":
    print("\n".join(table()))
