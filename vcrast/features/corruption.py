"""Corrupt filterbanks by rectangles: silenced, or from another clip, up to an area."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vcrast.features.draws import Draws

MAX_RECTANGLES = 256
"""Drawn for each clip; with sides up to 0.3 an area of 0.7 needs 100 or so."""


class Corruption(NamedTuple):
    """How filterbanks are corrupted.

    Attributes:
        share: [lowest, highest] part of the area that is silenced.
        other_probability: of a clip whose rectangles come from another clip instead, and are not silenced.
        other_share: part of the area that then comes from it.
        largest_side: of a rectangle, as a part of the clip's length and of its mel bins.
        align: [frames, mel bins] of the grid on which rectangles begin and end; [1, 1] is any place.
    """

    share: tuple[float, float]
    other_probability: float
    other_share: float
    largest_side: float
    align: tuple[int, int]

    def check(self, setting: str) -> None:
        """Refuse options out of their range.

        Raises:
            ValueError: names the option under `setting`.
        """
        low, high = self.share
        if not 0 < low <= high < 1:
            raise ValueError(
                f"{setting}.share={list(self.share)}: give [lowest, highest] with 0 < lowest <= highest < 1"
            )
        if not 0 <= self.other_probability <= 1:
            raise ValueError(f"{setting}.other_probability={self.other_probability}: must lie in [0, 1]")
        for name in ("other_share", "largest_side"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{setting}.{name}={getattr(self, name)}: must lie between 0 and 1")
        if min(self.align) < 1:
            raise ValueError(f"{setting}.align={list(self.align)}: give two positive whole numbers")

    def apply(self, fbank: Tensor, draws: Draws, name: str) -> tuple[Tensor, Tensor]:
        """Corrupt each clip on its own.

        Args:
            fbank: (B, T, F) normalised, or (B, C, T, F).
            draws: of these clips; names that start with `name/` are read.
            name: of the view.

        Returns:
            The corrupted filterbank, and (B, T, F) bool, True where it was changed.

        Source: group masked model learning of Ahmed et al. 2022, arXiv:2211.13189 (ASiT), Sec. 3.
        """
        other = draws.uniform(f"{name}/corrupt_other") < self.other_probability
        low, high = self.share
        share = torch.where(other, self.other_share, draws.uniform(f"{name}/corrupt_share", low=low, high=high))
        hidden = self.rectangles(fbank.shape[-2:], share, draws, name)
        partner = fbank[draws.partners(f"{name}/corrupt_partner")]
        taken, mask = (
            value if fbank.ndim == 3 else value.unsqueeze(1) for value in (hidden & other[:, None, None], hidden)
        )
        return torch.where(taken, partner, fbank.masked_fill(mask, 0.0)), hidden

    def rectangles(self, size: torch.Size, share: Tensor, draws: Draws, name: str) -> Tensor:
        """(B, T, F) bool: random rectangles of each clip, one more after the other until they cover `share` (B,).

        A rectangle's sides are uniform whole numbers from 1 to `largest_side` of the clip's, its place is uniform where
        it fits, in units of `align`. How many a clip needs is found by halving, since more never cover less.
        """
        cells = tuple(max(1, length // unit) for length, unit in zip(size, self.align, strict=True))
        starts, stops = [], []
        for axis, count in zip(("time", "freq"), cells, strict=True):
            longest = max(1, int(self.largest_side * count))
            width = 1 + (draws.uniform(f"{name}/corrupt_{axis}_side", MAX_RECTANGLES) * longest).long()
            width = width.clamp(max=longest)
            room = count - width
            start = (draws.uniform(f"{name}/corrupt_{axis}_place", MAX_RECTANGLES) * (room + 1)).long()
            starts.append(torch.minimum(start, room))
            stops.append(starts[-1] + width)
        wanted = share * (cells[0] * cells[1])
        few, many = (
            torch.zeros_like(share, dtype=torch.int64),
            torch.full_like(share, MAX_RECTANGLES, dtype=torch.int64),
        )
        for _ in range(MAX_RECTANGLES.bit_length()):
            middle = (few + many) // 2
            enough = covered(starts, stops, middle, cells).sum(dim=(1, 2)) >= wanted
            few, many = (
                torch.where(enough, few, middle + 1).clamp(max=MAX_RECTANGLES),
                torch.where(enough, middle, many),
            )
        hidden = covered(starts, stops, many, cells)
        for number, (length, unit) in enumerate(zip(size, self.align, strict=True)):
            place = (torch.arange(length, device=hidden.device) // unit).clamp(max=cells[number] - 1)
            hidden = hidden.index_select(number + 1, place)
        return hidden


def covered(starts: list[Tensor], stops: list[Tensor], number: Tensor, cells: tuple[int, ...]) -> Tensor:
    """(B, t, f) bool: what the first `number` (B,) of rectangles cover.

    Args:
        starts: (B, R) along time and along frequency, first cell of each rectangle.
        stops: likewise, one past its last cell.
        number: rectangles that count.
        cells: (t, f).
    """
    time, frequency = cells
    counted = (torch.arange(starts[0].shape[1], device=number.device) < number.unsqueeze(1)).to(torch.int32)
    corners = torch.zeros(len(number), (time + 1) * (frequency + 1), dtype=torch.int32, device=number.device)
    # Of a rectangle only its corners are marked; sums along both axes then count the rectangles over each cell.
    for down, sign_down in ((starts[0], 1), (stops[0], -1)):
        for right, sign_right in ((starts[1], 1), (stops[1], -1)):
            corners.scatter_add_(1, down * (frequency + 1) + right, sign_down * sign_right * counted)
    grid = corners.unflatten(1, (time + 1, frequency + 1)).cumsum(dim=1).cumsum(dim=2)
    return grid[:, :-1, :-1] > 0
