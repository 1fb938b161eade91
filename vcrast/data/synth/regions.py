"""Regions of a space of parameters, intervals in their units: classes of sounds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vcrast.config.words import suggest
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.space import INVERSES, Parameter, Space

# One value, or the lowest and the highest.
Span = float | tuple[float, float]
# A list has a span for each number of a vector; anything else is for all of them.
Spans = Mapping[str, Span | list[Span]]
EDGE = 1e-4  # of the place of a whole number, left out at both ends: rounding must not reach the next number


class Region:
    """A box in a space, from which parameters are drawn uniformly.

    The intervals of units become intervals of [0, 1] by the inverse of each parameter's law. Within them every place is
    equally likely, so the law still says how often a value comes: a pitch from 500 to 1000 Hz is uniform in octaves.

    Args:
        name: for messages.
        spans: parameters that the region narrows; the others keep their whole range.
        space: the parameters that there are.

    Raises:
        ValueError: no such parameter, or a span that is reversed or not within the parameter's range.
    """

    def __init__(self, name: str, spans: Spans, space: Space) -> None:
        self.name, self.spans, self.space = name, dict(spans), space
        unknown = [wrong for wrong in spans if wrong not in space.columns]
        if unknown:
            raise ValueError(f"region {name!r}: no parameter {unknown[0]!r}; {suggest(unknown[0], space.columns)}")
        self.places = [place for p in space.parameters for place in self._places(p, spans.get(p.name))]

    def _places(self, parameter: Parameter, spans: Span | list[Span] | None) -> list[tuple[float, float]]:
        if spans is None:
            return [(0.0, 1.0)] * parameter.size
        each = spans if isinstance(spans, list) else [spans] * parameter.size
        if len(each) != parameter.size:
            raise ValueError(
                f"region {self.name!r}: {parameter.name} has {parameter.size} numbers, {len(each)} spans are given"
            )
        return [self._place(parameter, span) for span in each]

    def _place(self, parameter: Parameter, span: Span) -> tuple[float, float]:
        low, high = span if isinstance(span, tuple) else (span, span)
        whole = parameter.law == "choice"
        top = parameter.high - 1 if whole else parameter.high
        if not parameter.low <= low <= high <= top:
            raise ValueError(
                f"region {self.name!r}: {parameter.name}=({low:g}, {high:g}) must go up and lie within "
                f"{parameter.low:g} to {top:g}"
            )
        if whole and (low % 1 or high % 1):
            raise ValueError(f"region {self.name!r}: {parameter.name}=({low:g}, {high:g}) must be whole numbers")
        inverse = INVERSES[parameter.law]
        first = inverse(low, parameter.low, parameter.high)
        if not whole:
            return first, inverse(high, parameter.low, parameter.high)
        edge = EDGE * (inverse(low + 1, parameter.low, parameter.high) - first)
        return first + edge, inverse(high + 1, parameter.low, parameter.high) - edge

    def draw(self, dice: Dice) -> Tensor:
        """Draw the parameters (n, units) in [0, 1] of the clips of `dice`."""
        low, high = torch.tensor(self.places, device=dice.keys.device).unbind(dim=1)
        return torch.lerp(low, high, dice.uniform("parameters", self.space.size))

    def apart(self, other: Region) -> tuple[str, ...]:
        """Name the parameters whose intervals are disjoint; of vectors, in at least one number."""
        columns = zip(self.places, other.places, strict=True)
        split = [ours[1] < theirs[0] or theirs[1] < ours[0] for ours, theirs in columns]
        return tuple(name for name, column in self.space.columns.items() if any(split[column]))
