"""The expander between a clip's vector and a two-view loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class Projector(nn.Module):
    """Linear, BatchNorm, ReLU for all widths but the last, then a linear map without bias.

    BatchNorm takes its statistics from the batch it is given: call it with the whole batch, one view at a time.

    Args:
        dim_in: D of the clip's vector.
        dims: the widths, for instance [4096, 4096, 4096]; the last is P.
        last_norm: BatchNorm behind the last map, without scale and shift.

    Raises:
        ValueError: no widths, or one that is not positive.

    Source: Bardes et al. 2022, arXiv:2105.04906, and the authors' code; `last_norm` arXiv:2605.14231 (AudioMosaic).
        The thesis's listing indents the last layer into the loop and so has four linear maps; its parameter counts fit
        three.
    """

    def __init__(self, dim_in: int, dims: Sequence[int], *, last_norm: bool = False) -> None:
        super().__init__()
        if not dims or min(dims) < 1:
            raise ValueError(f"objective.projector_dims={list(dims)}: give at least one positive width")
        self.dim_out = dims[-1]
        widths = [dim_in, *dims]
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths[:-1]):
            layers += [nn.Linear(narrow, wide), nn.BatchNorm1d(wide), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(widths[-2], widths[-1], bias=False))
        if last_norm:
            layers.append(nn.BatchNorm1d(widths[-1], affine=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, D) -> (B, P)."""
        return self.layers(vectors)
