"""Order an epoch's clips: a function of (seed, epoch), for any ranks and workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vcrast.data.hashing import stable_hash


@dataclass(frozen=True, eq=False)
class Order:
    """Which clip stands at which place of which epoch.

    Every clip comes once an epoch, unless `chances` or `weights` say otherwise.

    Attributes:
        num_clips: n.
        seed: of the order.
        chances: (n,) float64 that add up to 1: every place is drawn by itself, so that clips may come several times, or
            not at all.
        block: (n,) numbers of the files that hold the clips.
        mixed_blocks: how many files are read from at a time; None is all. Fewer make long strides of a disk or store:
            a clip comes within so many files' worth of clips of the others in its file.
        part: (n,) numbers from 0 of the datasets of a mixture.
        weights: share of each dataset in an epoch; None is its share of the clips.
    """

    num_clips: int
    seed: int
    chances: Tensor | None = None
    block: np.ndarray | None = None
    mixed_blocks: int | None = None
    part: np.ndarray | None = None
    weights: Sequence[float] | None = None

    def epoch(self, epoch: int) -> Tensor:
        """Return the clips of an epoch, (n,) int64."""
        generator = torch.Generator().manual_seed(stable_hash(f"order {self.seed} {epoch}") >> 1)
        drawn = self._drawn(epoch, generator)
        if self.block is None or self.mixed_blocks is None:
            return torch.randperm(self.num_clips, generator=generator) if drawn is None else drawn
        return self._by_blocks(torch.arange(self.num_clips) if drawn is None else drawn, generator)

    def _drawn(self, epoch: int, generator: torch.Generator) -> Tensor | None:
        """The clips of an epoch in random order; None where each comes once."""
        if self.chances is not None:
            upper = self.chances.cumsum(dim=0)
            drawn = torch.rand(self.num_clips, generator=generator, dtype=torch.float64) * upper[-1]
            return torch.searchsorted(upper, drawn, right=True).clamp(max=self.num_clips - 1)
        if self.weights is None or self.part is None:
            return None
        members = [torch.from_numpy((self.part == number).nonzero()[0]) for number in range(len(self.weights))]
        counts = clips_by_weight(self.num_clips, self.weights)
        found = [
            clips[self._turns(number, len(clips), count * epoch, count)]
            for number, (clips, count) in enumerate(zip(members, counts, strict=True))
        ]
        every = torch.cat(found)
        return every[torch.randperm(len(every), generator=generator)]

    def _turns(self, part: int, size: int, first: int, count: int) -> Tensor:
        """Places first, ..., first + count - 1 of a dataset's own order: all its clips, and again, each time anew."""
        if not count:
            return torch.empty(0, dtype=torch.int64)
        if not size:
            raise ValueError(f"data.weights={list(self.weights or ())}: dataset {part + 1} has no clips to train on")
        rounds = []
        for turn in range(first // size, (first + count - 1) // size + 1):
            generator = torch.Generator().manual_seed(stable_hash(f"turn {self.seed} {part} {turn}") >> 1)
            rounds.append(torch.randperm(size, generator=generator))
        start = first % size
        return torch.cat(rounds)[start : start + count]

    def _by_blocks(self, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """Deal the clips of each file over a stretch as long as `mixed_blocks` files, the stretches in random order.

        The last stretches reach round to the beginning, so that clips are mixed as well there as anywhere.
        """
        assert self.block is not None
        assert self.mixed_blocks is not None
        names, block = np.unique(self.block, return_inverse=True)
        if len(names) <= self.mixed_blocks:
            return drawn[torch.randperm(len(drawn), generator=generator)]
        rank = torch.randperm(len(names), generator=generator)
        start = rank[torch.from_numpy(block)[drawn]].double()
        place = start + self.mixed_blocks * torch.rand(len(drawn), generator=generator, dtype=torch.float64)
        return drawn[torch.argsort(place % len(names), stable=True)]


def clips_by_weight(num_clips: int, weights: Sequence[float]) -> list[int]:
    """Share the places of an epoch: whole numbers that add up to `num_clips`, none off by 1 or more.

    >>> clips_by_weight(10, [1, 1, 1])
    [4, 3, 3]
    """
    total = math.fsum(weights)
    exact = [num_clips * weight / total for weight in weights]
    counts = [int(share) for share in exact]
    nearest = sorted(range(len(weights)), key=lambda i: (counts[i] - exact[i], i))
    for number in nearest[: num_clips - sum(counts)]:
        counts[number] += 1
    return counts
