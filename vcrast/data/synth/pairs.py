"""Generate endless pairs: two sounds of one recipe, the second's parameters shifted.

Pair (step, position in the batch) is the same in every run of a seed.

Source: the idea of pairs at a distance in a synthesizer's parameters is Cherep and Singh 2025, arXiv:2406.05923.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

import vcrast.data.synth.program  # noqa: F401  (enters PROGRAMS)
from vcrast.config.registry import PROGRAMS
from vcrast.config.words import suggest
from vcrast.data.synth.control import LOWEST_RATE, Grid
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.sound import Program
from vcrast.data.synth.spectra import mix_noise

SHORTEST_S = 0.5
NOISE = "noise"
# Clips rendered at once, aligned in the batch: on a CPU what fits its cache, else large enough to fill the device.
CHUNK = {"cpu": 8}
LARGE_CHUNK = 64


class Pairs(NamedTuple):
    """wavs (b, 2, S) float32 within [-1, 1]; units (b, 2, units) parameters in [0, 1], see `Doppelgangers.space`."""

    wavs: Tensor
    units: Tensor


class Doppelgangers:
    """An endless stream of pairs.

    A pair depends on (seed, step, position in the global batch) alone: any rank or micro-batch makes any part of any
    batch, nothing is stored, and a resumed run hears what the uninterrupted one would have heard.

    Args:
        num_samples: S.
        sample_rate: Hz.
        seed: of the stream.
        distance: standard deviation of the normal by which parameters in [0, 1] are shifted between the two sounds.
        distances: other values for some of `space.groups`, or for `noise`, where 0 means the same noise in both sounds
            and 1 independent noise. They keep their value whatever the schedule.
        final_distance: what `distance` becomes, in a straight line over the first steps; None keeps it.
        distance_steps: how many steps that takes.
        program: a name in `PROGRAMS`, what kind of sounds.
        num_layers: sounds on top of each other in a clip.
        device: where the sounds are made.

    Raises:
        KeyError: no such program.
        ValueError: an option out of its range, or a rate or length that the sounds do not fit into.
    """

    def __init__(
        self,
        *,
        num_samples: int,
        sample_rate: int,
        seed: int,
        distance: float,
        distances: Mapping[str, float],
        final_distance: float | None,
        distance_steps: int,
        program: str,
        num_layers: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.grid = Grid(num_samples, sample_rate, torch.device(device))
        self.program: Program = PROGRAMS.get(program)(num_layers=num_layers, grid=self.grid)
        self.space, self.num_layers, self.seed = self.program.space, num_layers, seed
        self.distance, self.own = distance, dict(distances)
        self.final_distance, self.distance_steps = final_distance, distance_steps
        self.chunk = CHUNK.get(self.grid.device.type, LARGE_CHUNK)
        self._check()

    def _check(self) -> None:
        grid = self.grid
        if grid.sample_rate < LOWEST_RATE:
            raise ValueError(
                f"data.sample_rate={grid.sample_rate}: generated sounds reach 7 kHz; set at least {LOWEST_RATE} Hz"
            )
        if grid.duration_s < SHORTEST_S:
            raise ValueError(
                f"a generated clip of {grid.duration_s:g} s: what sounds in it comes up to 2 s apart; "
                f"set source.duration_s or data.clip_duration_s to at least {SHORTEST_S:g}"
            )
        known = (*self.space.groups, NOISE)
        for name, value in {"distance": self.distance, "final_distance": self.final_distance, **self.own}.items():
            if name not in ("distance", "final_distance", *known):
                raise ValueError(f"source.distances.{name}: no such group of parameters; {suggest(name, known)}")
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"source: distance {name}={value} must be a number from 0")
        if self.distance_steps < 0 or (self.final_distance is not None) != (self.distance_steps > 0):
            raise ValueError(
                f"source.final_distance={self.final_distance}, source.distance_steps={self.distance_steps}: "
                "set both, or leave them at null and 0"
            )

    def distances(self, step: int) -> dict[str, float]:
        """Return the distance of every group, and of the noise, at a step."""
        common = self.distance
        if self.final_distance is not None:
            common += (self.final_distance - self.distance) * min(1.0, step / self.distance_steps)
        return {name: float(self.own.get(name, common)) for name in (*self.space.groups, NOISE)}

    def batch(self, step: int, batch_size: int, *, start: int = 0, stop: int | None = None) -> Pairs:
        """Render the pairs [start, stop) of the batch of `batch_size` pairs that belongs to `step`.

        Raises:
            ValueError: a range that does not lie in the batch.
        """
        stop = batch_size if stop is None else stop
        if not 0 <= start < stop <= batch_size:
            raise ValueError(f"positions [{start}, {stop}) do not lie in a batch of {batch_size} pairs")
        parts = [self._chunk(step, batch_size, first, start, stop) for first in self._firsts(start, stop)]
        return Pairs(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _firsts(self, start: int, stop: int) -> Iterator[int]:
        return iter(range(start - start % self.chunk, stop, self.chunk))

    def _chunk(self, step: int, batch_size: int, first: int, start: int, stop: int) -> Pairs:
        """Render one chunk of the batch, always whole: vectorised arithmetic rounds by the place in a tensor."""
        last = min(first + self.chunk, batch_size)
        numbers = torch.arange(first, last, device=self.grid.device) + step * batch_size
        pairs = self.render(numbers, self.distances(step))
        wanted = slice(max(start, first) - first, min(stop, last) - first)
        return Pairs(pairs.wavs[wanted], pairs.units[wanted])

    @torch.no_grad()
    def render(self, numbers: Tensor, distances: Mapping[str, float]) -> Pairs:
        """Render the pairs under some numbers of the stream.

        Args:
            numbers: (n,) int64 on the device.
            distances: of every group and of the noise.
        """
        dice = Dice.of(self.seed, "doppelganger", numbers)
        first = self.space.draw(dice)
        units = torch.stack([first, self.space.shift(first, dice, distances)], dim=1)
        material = self._material(numbers, dice, distances[NOISE])
        wavs = self.program.render(units.flatten(0, 1), material)
        return Pairs(wavs.unflatten(0, (-1, 2)), units)

    def _material(self, numbers: Tensor, dice: Dice, distance: float) -> Any:
        """Draw the material of both sounds, one after the other: shared but for the noise, as far apart as asked."""
        shared = self.program.draw_material(dice)
        other = shared.noise
        if distance > 0:
            own = Dice.of(self.seed, "doppelganger/second", numbers)
            other = mix_noise(shared.noise, self.program.draw_noise(own), distance)
        twice = {name: value.repeat_interleave(2, dim=0) for name, value in shared._asdict().items() if name != NOISE}
        return shared._replace(**twice, noise=torch.stack([shared.noise, other], dim=1).flatten(0, 1))
