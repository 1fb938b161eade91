"""Draw every random number of a step as a pure function of (seed, step, name).

A step that reads its random numbers here does not depend on the number of ranks, workers or micro-batches, and a
resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Partners are chosen within runs of this many neighbours, so that a rank that holds a multiple of it finds all partners
# among its own clips. The loader has shuffled the clips, so a neighbour is as random a choice as any.
PARTNER_BLOCK = 2


class Draws:
    """The random numbers of one step for the clips [start, stop) of the global batch.

    Each name owns a stream seeded by blake2b of (seed, step, name): neither the order of the calls nor the other names
    matter. Numbers are drawn on the CPU for the global batch, cut by position and then moved, because a GPU generator
    gives other numbers for other shapes and devices.

    Args:
        seed: of the run.
        step: of the optimiser, from 0.
        batch_size: clips of the global batch, over all ranks and micro-batches.
        device: where the numbers are wanted.
        start: first global position of this part.
        stop: one past its last position; None means the end of the batch.

    Raises:
        ValueError: a range that does not lie in the batch.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        self.seed, self.step, self.batch_size = seed, step, batch_size
        self.device = torch.device(device)
        self.start, self.stop = start, batch_size if stop is None else stop
        if not 0 <= self.start < self.stop <= batch_size:
            raise ValueError(f"positions [{self.start}, {self.stop}) do not lie in a batch of {batch_size} clips")
        self._drawn: dict[str, tuple[tuple, NDArray[Any]]] = {}

    @property
    def size(self) -> int:
        """Number of clips of this part, b in the shapes below."""
        return self.stop - self.start

    def slice(self, start: int, stop: int) -> Draws:
        """The part [start, stop), counted from the first clip of this one; numbers already drawn are shared."""
        if not 0 <= start < stop <= self.size:
            raise ValueError(f"slice [{start}, {stop}) does not lie in a part of {self.size} clips")
        part = copy.copy(self)
        part.start, part.stop = self.start + start, self.start + stop
        return part

    def first(self) -> Draws:
        """The numbers of the batch's first clip, whatever part this is: for what the whole batch has in common."""
        part = copy.copy(self)
        part.start, part.stop = 0, 1
        return part

    def whole(self) -> Draws:
        """The numbers of the whole global batch: for what all processes must know of it, such as a total."""
        part = copy.copy(self)
        part.start, part.stop = 0, self.batch_size
        return part

    def uniform(self, name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(b, *shape) float32, uniform in [low, high)."""
        # Scaled before the move: a fused multiply-add on the GPU would round differently.
        return self.move(low + (high - low) * torch.from_numpy(self.host_uniform(name, *shape)))

    def normal(self, name: str, *shape: int) -> Tensor:
        """(b, *shape) float32, standard normal."""
        size = (self.batch_size, *shape)
        drawn = self._draw(name, ("normal", shape), lambda rng: rng.standard_normal(size, dtype=np.float32))
        return self.move(self._part(drawn))

    def shared_normal(self, name: str, *shape: int) -> Tensor:
        """(*shape) float32, standard normal, no axis of clips: the whole batch has it in common, on every rank alike.

        Neither the part nor the size of the batch matters to it.
        """
        draw = self._draw(name, ("shared normal", shape), lambda rng: rng.standard_normal(shape, dtype=np.float32))
        return self.move(torch.from_numpy(draw))

    def beta(self, name: str, a: float, b: float) -> Tensor:
        """(b,) float32, Beta(a, b) distributed."""
        drawn = self._draw(name, ("beta", a, b), lambda rng: rng.beta(a, b, self.batch_size).astype(np.float32))
        return self.move(self._part(drawn))

    def integers(self, name: str, high: int) -> Tensor:
        """(b,) int64, uniform in [0, high)."""
        return self.move(torch.from_numpy(self.host_integers(name, high)))

    def host_uniform(self, name: str, *shape: int) -> NDArray[np.float32]:
        """(b, *shape) in [0, 1) as NumPy, for choices that the CPU goes on to make: nothing waits for the device."""
        size = (self.batch_size, *shape)
        drawn = self._draw(name, ("uniform", shape), lambda rng: rng.random(size, dtype=np.float32))
        return drawn[self.start : self.stop]

    def host_integers(self, name: str, high: int, *shape: int) -> NDArray[np.int64]:
        """(b, *shape) uniform in [0, high) as NumPy; see `host_uniform`."""
        size = (self.batch_size, *shape)
        drawn = self._draw(name, ("integers", high, shape), lambda rng: rng.integers(high, size=size))
        return drawn[self.start : self.stop]

    def permutation(self, name: str) -> Tensor:
        """(b,) int64, for each clip the global position of its partner: another clip, unless the batch is one clip.

        A random cyclic order within each run of `PARTNER_BLOCK` neighbours; a shorter last run joins the one before.
        """
        return self.move(self._part(self._partners(name)))

    def partners(self, name: str) -> Tensor:
        """(b,) int64, the rows of this part's own clips that `permutation` names.

        A partner outside this part, possible where the part cuts a run of neighbours, is replaced by a clip of the
        part: only then does the result depend on how the batch is cut.
        """
        row = (self._part(self._partners(name)) - self.start) % self.size
        own = torch.arange(self.size)
        return self.move(torch.where(row == own, (own + 1) % self.size, row))

    def torch_seed(self) -> int:
        """Seed in [0, 2**63) for torch's own generator (dropout, drop path); parts that start elsewhere differ."""
        return self._number(f"torch/{self.start}") % 2**63

    def _number(self, name: str) -> int:
        digest = hashlib.blake2b(f"{self.seed}/{self.step}/{name}".encode(), digest_size=16).digest()
        return int.from_bytes(digest, "little")

    def _draw(self, name: str, recipe: tuple, draw: Callable[[np.random.Generator], NDArray[Any]]) -> NDArray[Any]:
        if name not in self._drawn:
            self._drawn[name] = (recipe, draw(np.random.default_rng(self._number(name))))
        known, drawn_before = self._drawn[name]
        if known != recipe:
            # Both would come from one stream and be correlated.
            raise ValueError(f"draw {name!r} is {known} and cannot also be {recipe}; give the second one its own name")
        return drawn_before

    def _partners(self, name: str) -> NDArray[Any]:
        return self._draw(name, ("permutation",), lambda rng: _cycles(rng.random(self.batch_size)))

    def _part(self, drawn: NDArray[Any]) -> Tensor:
        return torch.from_numpy(drawn[self.start : self.stop])

    def move(self, part: Tensor) -> Tensor:
        """A tensor of the CPU on the device of these draws, without waiting for it."""
        if self.device.type == "cuda":
            return part.pin_memory().to(self.device, non_blocking=True)
        return part.to(self.device)


def _cycles(scores: np.ndarray) -> np.ndarray:
    """(n,) random scores -> (n,) partners: the clip with the next higher score in the same run, the lowest last."""
    num_clips = len(scores)
    partners = np.arange(num_clips)
    num_blocks = max(1, num_clips // PARTNER_BLOCK)
    for block in range(num_blocks):
        first = block * PARTNER_BLOCK
        last = num_clips if block == num_blocks - 1 else first + PARTNER_BLOCK
        order = first + np.argsort(scores[first:last])
        partners[order] = np.roll(order, -1)
    return partners
