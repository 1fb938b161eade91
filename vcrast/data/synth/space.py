"""Spaces of parameters: named numbers in [0, 1], laws that give them units, shifts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vcrast.config.words import suggest
from vcrast.data.synth.counter import Dice

# From u in [0, 1] to a value; `low` and `high` are what 0 and 1 mean. Uniform u makes the distribution of the value.
LAWS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    # Every value, or every octave, is equally likely.
    "linear": lambda u, low, high: low + (high - low) * u,
    "log": lambda u, low, high: low * (high / low) ** u,
    # Most sounds have little of it: half of them lie in the lowest eighth of the range.
    "rare": lambda u, low, high: low + (high - low) * u**3,
    # Most sounds lie near the middle of the range.
    "centred": lambda u, low, high: (low + high) / 2 + (high - low) / 2 * (2 * u - 1) ** 3,
    # Most sounds lie near one end of the range.
    "ends": lambda u, low, high: low + (high - low) * u * u * (3 - 2 * u),
    # Whole numbers from `low` up to, not including, `high`.
    "choice": lambda u, low, high: (low + (high - low) * u).floor().clamp_max(high - 1),
}
# From a value to the place u of it; of a whole number, the lowest place.
INVERSES: dict[str, Callable[[float, float, float], float]] = {
    "linear": lambda value, low, high: (value - low) / (high - low),
    "log": lambda value, low, high: math.log(value / low) / math.log(high / low),
    "rare": lambda value, low, high: math.cbrt((value - low) / (high - low)),
    "centred": lambda value, low, high: (1 + math.cbrt((2 * value - low - high) / (high - low))) / 2,
    # The middle root of u^2 (3 - 2 u) = x, by Viete's trigonometric formula.
    "ends": lambda value, low, high: 0.5 - math.sin(math.asin(1 - 2 * (value - low) / (high - low)) / 3),
    "choice": lambda value, low, high: (value - low) / (high - low),
}
STRUCTURE = "structure"


@dataclass(frozen=True)
class Parameter:
    """One named parameter, a vector if `size` is above 1.

    Attributes:
        name: with its unit, such as `f0_hz`.
        group: parameters of a group are shifted by the same distance; those of `structure` are never shifted.
        law: one of `LAWS`.
        low: what 0 means.
        high: what 1 means.
        size: numbers that it holds, all with this law.
        wraps: 0 and 1 mean the same, as for a phase; others are reflected at both ends.
        names: of the values 0, 1, ... of a choice, for people to read.
    """

    name: str
    group: str
    law: str
    low: float
    high: float
    size: int = 1
    wraps: bool = False
    names: tuple[str, ...] = ()


class Space:
    """Parameters side by side in the columns of one tensor (n, units).

    Args:
        parameters: in the order of their columns.

    Raises:
        ValueError: a name given twice, or a law that does not fit its range.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = tuple(parameters)
        self.columns: dict[str, slice] = {}
        self.size = 0
        for parameter in self.parameters:
            if parameter.name in self.columns:
                raise ValueError(f"parameter {parameter.name!r} is given twice")
            if parameter.law not in LAWS or (parameter.law == "log" and parameter.low <= 0):
                raise ValueError(f"parameter {parameter.name!r}: law {parameter.law!r} from {parameter.low}")
            self.columns[parameter.name] = slice(self.size, self.size + parameter.size)
            self.size += parameter.size

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that can be shifted, sorted."""
        return tuple(sorted({parameter.group for parameter in self.parameters} - {STRUCTURE}))

    def repeated(self, prefixes: Iterable[str]) -> list[Parameter]:
        """Repeat the parameters for each prefix, under `prefix/name`."""
        return [
            Parameter(**{**vars(parameter), "name": f"{prefix}/{parameter.name}"})
            for prefix in prefixes
            for parameter in self.parameters
        ]

    def draw(self, dice: Dice) -> Tensor:
        """Draw the parameters (n, units) of the clips of `dice`, uniform in [0, 1)."""
        return dice.uniform("parameters", self.size)

    def shift(self, units: Tensor, dice: Dice, distances: Mapping[str, float]) -> Tensor:
        """Shift each parameter by a normal of its group's distance, within [0, 1]; (n, units) -> (n, units).

        Args:
            units: (n, units) in [0, 1].
            dice: of the clips.
            distances: standard deviation for every group, `structure` apart; 0 leaves a group exactly as it is.
        """
        scale, wraps = self._per_column(units.device, distances)
        moved = units + scale * dice.normal("shift", self.size)
        return torch.where(wraps, wrapped(moved), reflected(moved))

    def physical(self, units: Tensor) -> dict[str, Tensor]:
        """Turn (n, units) in [0, 1] into the values of each parameter in its unit, (n, size)."""
        return {
            parameter.name: LAWS[parameter.law](units[:, self.columns[parameter.name]], parameter.low, parameter.high)
            for parameter in self.parameters
        }

    def units(self, default: float = 0.5, **values: float | Sequence[float]) -> Tensor:
        """Return (1, units) with the named parameters set to values in [0, 1], all others to `default`.

        Raises:
            KeyError: no parameter of that name.
        """
        units = torch.full((1, self.size), default)
        for name, value in values.items():
            if name not in self.columns:
                raise KeyError(f"no parameter {name!r}; {suggest(name, self.columns)}")
            units[:, self.columns[name]] = torch.as_tensor(value, dtype=torch.float32)
        return units

    def _per_column(self, device: torch.device, distances: Mapping[str, float]) -> tuple[Tensor, Tensor]:
        scale = [0.0 if p.group == STRUCTURE else distances[p.group] for p in self.parameters for _ in range(p.size)]
        wraps = [p.wraps for p in self.parameters for _ in range(p.size)]
        # Python numbers on their way to the device: nothing is read back.
        return torch.tensor(scale).to(device, non_blocking=True), torch.tensor(wraps).to(device, non_blocking=True)


def layered(layer: Space, scene: Space, num_layers: int) -> Space:
    """Join all parameters of a clip: those of each layer under `1/`, `2/`, ..., then those of the whole.

    Raises:
        ValueError: no layer.
    """
    if num_layers < 1:
        raise ValueError(f"source.num_layers={num_layers}: a sound needs at least 1 layer")
    return Space([*layer.repeated(str(number + 1) for number in range(num_layers)), *scene.parameters])


def reflected(moved: Tensor) -> Tensor:
    """Reflect numbers of any shape at 0 and at 1 into [0, 1]; those inside stay bit for bit."""
    folded = 1 - (moved % 2 - 1).abs()
    return torch.where((moved >= 0) & (moved <= 1), moved, folded).clamp(0.0, 1.0)


def wrapped(moved: Tensor) -> Tensor:
    """Wrap numbers of any shape around into [0, 1]; those inside stay bit for bit."""
    return torch.where((moved >= 0) & (moved <= 1), moved, moved % 1).clamp(0.0, 1.0)


def decibels(level_db: Tensor) -> Tensor:
    """Turn levels of any shape into amplitudes, 10 ** (dB / 20)."""
    return torch.exp(math.log(10) / 20 * level_db)
