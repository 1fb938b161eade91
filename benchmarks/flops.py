"""Count the floating-point operations of a training step, by formula."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from vcrast.models.ast import AST


def embed_flops(encoder: AST, num_frames: int) -> int:
    """Patches of one clip: each of N patches is one product of its pixels with D columns; 2 operations a term."""
    time, frequency = encoder.patch_embed.patch_size
    return 2 * encoder.num_tokens(num_frames) * time * frequency * encoder.embed_dim


def block_flops(embed_dim: int, mlp_ratio: float, num_tokens: int) -> int:
    """One block of one clip: q, k, v and out 8 N D^2, the MLP 4 r N D^2, attention's two products 4 N^2 D."""
    linears = (8 + 4 * mlp_ratio) * num_tokens * embed_dim**2
    return round(linears + 4 * num_tokens**2 * embed_dim)


def encoder_flops(encoder: AST, num_frames: int, num_tokens: int | None = None) -> int:
    """The forward of one clip.

    Args:
        encoder: whose sizes count.
        num_frames: T of the clip.
        num_tokens: that reach the blocks, fewer than the clip has where patches are dropped; None means all.
    """
    options = encoder.options
    tokens = encoder.num_tokens(num_frames) if num_tokens is None else num_tokens
    blocks = options["depth"] * block_flops(encoder.embed_dim, options["mlp_ratio"], tokens)
    return embed_flops(encoder, num_frames) + blocks


def projector_flops(dim_in: int, dims: Sequence[int]) -> int:
    """The forward of one vector."""
    return sum(2 * narrow * wide for narrow, wide in pairwise([dim_in, *dims]))


def step_flops(
    encoder: AST,
    projector_dims: Sequence[int],
    *,
    batch_size: int,
    num_frames: int,
    num_tokens: int | None = None,
    num_views: int = 2,
) -> int:
    """Forward and backward of a batch.

    A backward is two forwards, except for the patches, whose input needs no gradient. Left out: the filterbank, norms,
    softmax, the loss and the optimiser, below 2 % for the sizes of the AST. Running a micro-batch a second time is not
    counted either: it is work that only the method needs, so it lowers the rate that is reached, as it should.
    """
    embed = embed_flops(encoder, num_frames)
    rest = encoder_flops(encoder, num_frames, num_tokens) - embed
    head = projector_flops(encoder.embed_dim, projector_dims)
    return batch_size * num_views * (2 * embed + 3 * rest + 3 * head)
