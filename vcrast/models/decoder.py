"""Decode visible tokens into what stands at hidden places; whole or in local windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vcrast.config.registry import check_options
from vcrast.models.backbone import PLAIN, Backbone
from vcrast.models.block import NORM_EPS, Block
from vcrast.models.pos_embed import SinCosPositions


def build_decoder(options: Mapping[str, Any], encoder: Backbone) -> Decoder:
    """The decoder that `objective.decoder` describes; a missing, unknown or otherwise typed option is refused."""
    check_options("objective.decoder", Decoder, options, given=("encoder",))
    return Decoder(encoder=encoder, **options)


class Decoder(nn.Module):
    """A learned token at every hidden place, positions, blocks on all tokens, a norm; thrown away after pretraining.

    Its blocks are the encoder's, with the same kinds of attention and linear layers.

    Args:
        encoder: whose tokens are decoded; only its sizes are read.
        width: of the tokens over the encoder's, rounded to whole heads.
        depth: number of blocks.
        head_dim: K of each head; None is the encoder's.
        mlp_ratio: hidden width of the MLPs over that of the tokens.
        window: [time, frequency] patches; attention stays inside windows of that size, which in every second block
            begin half a window earlier in time. None: every token sees all.

    Raises:
        ValueError: an option out of its range.

    Source: He et al. 2022, arXiv:2111.06377; windows Huang et al. 2022, arXiv:2207.06405, who shift by (2, 0) of
        (4, 4), without a relative bias here. Where theirs are rolled round the ends and masked, ours are smaller there,
        which is the same without a mask; a grid that is no multiple of the window ends in smaller ones likewise.
    """

    def __init__(
        self,
        *,
        encoder: Backbone,
        width: float,
        depth: int,
        head_dim: int | None,
        mlp_ratio: float,
        window: list[int] | None,
    ) -> None:
        super().__init__()
        head = checked_head(head_dim, encoder)
        for name, value in (("width", width), ("depth", depth), ("mlp_ratio", mlp_ratio)):
            if not value > 0:
                raise ValueError(f"objective.decoder.{name}={value}: must be above 0")
        if window is not None and (len(window) != 2 or min(window) < 1):
            raise ValueError(
                f"objective.decoder.window={list(window)}: give [time, frequency] patches, or null for all"
            )
        num_heads = max(1, round(width * encoder.embed_dim / head))
        self.embed_dim = num_heads * head
        self.window = None if window is None else (window[0], window[1])
        self.checkpoint_blocks = False  # set by the engine, as the encoder's
        self.embed = nn.Linear(encoder.embed_dim, self.embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(self.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.positions = SinCosPositions(embed_dim=self.embed_dim)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim=self.embed_dim, num_heads=num_heads, mlp_ratio=mlp_ratio, drop_path=0.0,
                **{part: encoder.options.get(part, {"name": plain[0]}) for part, plain in PLAIN.items()},
            )
            for _ in range(depth)
        )  # fmt: skip
        self.norm = nn.LayerNorm(self.embed_dim, eps=NORM_EPS)

    def forward(self, tokens: Tensor, visible: Tensor, hidden: Tensor, grid: Sequence[int]) -> Tensor:
        """Decode clips.

        Args:
            tokens: (B, N - M, D) of the encoder.
            visible: (B, N - M) int64 places of these tokens.
            hidden: (B, M) int64 places to decode.
            grid: (t, f), time-major; N is their product.

        Returns:
            (B, M, width) at the hidden places.
        """
        seen = self.embed(tokens)
        whole = self.mask_token.to(seen.dtype).expand(len(seen), grid[0] * grid[1], -1)
        whole = whole.scatter(1, visible.unsqueeze(2).expand_as(seen), seen)
        whole = whole + self.positions(grid, (1, 1), (1, 1), like=whole)
        for number, block in enumerate(self.blocks):
            shift = 0 if self.window is None or number % 2 == 0 else self.window[0] // 2
            if self.checkpoint_blocks and torch.is_grad_enabled():
                whole = checkpoint(self.run, block, whole, grid, shift, use_reentrant=False)
            else:
                whole = self.run(block, whole, grid, shift)
        return self.norm(whole.gather(1, hidden.unsqueeze(2).expand(-1, -1, self.embed_dim)))

    def run(self, block: nn.Module, tokens: Tensor, grid: Sequence[int], shift: int) -> Tensor:
        """(B, N, width) -> the same, through one block."""
        if self.window is None:
            return block(tokens)
        planes = tokens.unflatten(1, (grid[0], grid[1]))
        return in_windows(block, planes, self.window, shift).flatten(1, 2)


def in_windows(block: nn.Module, planes: Tensor, window: tuple[int, int], shift: int) -> Tensor:
    """(B, t, f, D) through a block that sees one window at a time; the first in time has `shift` patches, if any."""
    rows = []
    for start, stop, height in runs(planes.shape[1], window[0], shift):
        row = []
        for low, high, width in runs(planes.shape[2], window[1], 0):
            part = planes[:, start:stop, low:high]
            inside = rearrange(part, "b (n h) (m w) d -> (b n m) (h w) d", h=height, w=width)
            n, m = part.shape[1] // height, part.shape[2] // width
            row.append(rearrange(block(inside), "(b n m) (h w) d -> b (n h) (m w) d", n=n, m=m, h=height, w=width))
        rows.append(torch.cat(row, dim=2))
    return torch.cat(rows, dim=1)


def runs(length: int, window: int, shift: int) -> Iterator[tuple[int, int, int]]:
    """Runs of equal windows along an axis, (start, stop, size): one of `shift`, whole ones, what is left.

    >>> list(runs(64, 4, 2))
    [(0, 2, 2), (2, 62, 4), (62, 64, 2)]
    """
    first = min(shift, length)
    last = first + (length - first) // window * window
    for start, stop, size in ((0, first, first), (first, last, window), (last, length, length - last)):
        if start < stop:
            yield start, stop, size


def checked_head(head_dim: int | None, encoder: Backbone) -> int:
    """K of a head.

    Raises:
        ValueError: no positive multiple of 4, which sin-cos positions need; or none is given and the encoder has none.
    """
    if head_dim is None and "num_heads" not in encoder.options:
        raise ValueError("objective.decoder.head_dim=null: this model has no heads; give a number such as 64")
    head = encoder.embed_dim // encoder.options["num_heads"] if head_dim is None else head_dim
    if head < 1 or head % 4:
        raise ValueError(
            f"objective.decoder.head_dim={head_dim}: {head} is no positive multiple of 4; give one, say 32"
        )
    return head
