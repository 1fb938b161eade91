"""What a class of sounds is: a name, the ranges of its parameters and the formula that turns them into samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vcrast.registry import suggest
from vcrast.synth.counter import Dice


@dataclass(frozen=True)
class Range:
    """Where a parameter is drawn from: uniform in the value, or in its logarithm."""

    low: float
    high: float
    logarithmic: bool = False

    def draw(self, dice: Dice, name: str) -> Tensor:
        """(n, 1) float32."""
        if not self.logarithmic:
            return dice.one(name, self.low, self.high)
        return dice.one(name, math.log(self.low), math.log(self.high)).exp()


def linear(low: float, high: float) -> Range:
    """Uniform in [low, high)."""
    return Range(low, high)


def log(low: float, high: float) -> Range:
    """Uniform in the logarithm: every octave is equally likely."""
    return Range(low, high, logarithmic=True)


@dataclass(frozen=True)
class Scene:
    """What a formula gets besides its parameters."""

    dice: Dice
    num_samples: int
    sample_rate: int

    @property
    def duration_s(self) -> float:
        """Length of the clips."""
        return self.num_samples / self.sample_rate

    @property
    def time_s(self) -> Tensor:
        """(S,) times of the samples."""
        return torch.arange(self.num_samples, device=self.dice.keys.device) / self.sample_rate

    def per_beat(self, name: str, number: Tensor, low: float, high: float) -> Tensor:
        """(n, S) a value of its own for every beat, uniform in [low, high).

        Args:
            name: of the draw.
            number: (n, S) int64, counts the beats from 0, at most 64 a second.
            low: lowest value.
            high: highest value.
        """
        table = self.dice.uniform(name, 2 + int(64 * self.duration_s), low, high)
        return table.gather(1, number)


Parameters = dict[str, Tensor]
Formula = Callable[[Parameters, Scene], Tensor]


@dataclass(frozen=True)
class Sound:
    """One class: parameters are declared, so that drawing, listing and changing them needs no code per class."""

    name: str
    ranges: dict[str, Range]
    formula: Formula

    def draw(self, dice: Dice) -> Parameters:
        """The parameters of the clips of `dice`, each (n, 1)."""
        return {name: span.draw(dice, name) for name, span in self.ranges.items()}


SOUNDS: dict[str, Sound] = {}


def sound(name: str, **ranges: Range) -> Callable[[Formula], Formula]:
    """Decorator that enters a formula as the class `name` with these parameters."""

    def enter(formula: Formula) -> Formula:
        known = SOUNDS.get(name)
        if known is not None and known.formula.__qualname__ != formula.__qualname__:
            raise ValueError(f"sound {name!r} is defined twice")
        SOUNDS[name] = Sound(name, ranges, formula)
        return formula

    return enter


def find_sound(name: str) -> Sound:
    """The class called `name`.

    Raises:
        KeyError: no such class; the message lists them.
    """
    if name not in SOUNDS:
        raise KeyError(f"sound {name!r} does not exist; {suggest(name, SOUNDS)}")
    return SOUNDS[name]
