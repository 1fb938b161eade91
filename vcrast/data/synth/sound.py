"""The contract of a kind of sound, `Program`, and `Layered`, a base for sums of layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from vcrast.data.synth.control import Grid
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.space import Parameter, Space, decibels, layered
from vcrast.data.synth.spectra import Bins

LEVEL = Parameter("level_db", "mix", "linear", -20, -1)
"""Of a clip's highest peak, 0 dB being 1."""


class Program(Protocol):
    """A kind of sound: parameters and chance -> waveforms. `PROGRAMS` builders take `num_layers` and `grid`.

    Attributes:
        space: the parameters, to be drawn and shifted.
    """

    space: Space

    def draw_material(self, dice: Dice) -> Any:
        """Draw what the n clips of `dice` need besides their parameters: a named tuple of (n, ...) tensors.

        Its `noise` is what `draw_noise` gives; the two sounds of a pair share everything else.
        """

    def draw_noise(self, dice: Dice) -> Tensor:
        """Draw (n, ...) spectra of white noise."""

    def render(self, units: Tensor, material: Any) -> Tensor:
        """Render parameters (n, units) in [0, 1] and the clips' material to (n, S) float32 within [-1, 1]."""

    def caption(self, values: Mapping[str, Tensor], row: int) -> str:
        """Describe one clip in words; `values` as `Space.physical` gives them."""


class Material(NamedTuple):
    """Random numbers of a clip besides its parameters.

    Attributes:
        noise: (n, L + M, bins) complex white spectra: of the L layers, then of the M `scene_noises`.
    """

    noise: Tensor


class Layered(ABC):
    """A `Program` whose clip is the sum of L layers of one kind, in a scene, at a level.

    A subclass declares `layer_space` and says in `layer` how a layer sounds. It may change all else.

    Args:
        num_layers: L.
        grid: length and rate of the clips.

    Attributes:
        layer_space: parameters of a layer; those of each are independent.
        scene_space: parameters of the whole clip, `level_db` among them.
        scene_noises: names of what sounds once in a clip and needs noise.

    Raises:
        ValueError: no layer.
    """

    layer_space: ClassVar[Space]
    scene_space: ClassVar[Space] = Space([LEVEL])
    scene_noises: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, num_layers: int, grid: Grid) -> None:
        self.space, self.num_layers, self.grid = self.space_of(num_layers), num_layers, grid
        self.layer_names = tuple(str(number + 1) for number in range(num_layers))

    @classmethod
    def space_of(cls, num_layers: int) -> Space:
        """Return all parameters of a clip; errors as in `layered`."""
        return layered(cls.layer_space, cls.scene_space, num_layers)

    @abstractmethod
    def layer(self, values: dict[str, Tensor], material: Any) -> Tensor:
        """Render all layers (n L, S), the L of the first clip before those of the second.

        Args:
            values: of `layer_space`, (n L, size).
            material: of the n clips; `layer_noise` has its noise in this order.
        """

    def scene(self, wave: Tensor, values: dict[str, Tensor], material: Any) -> Tensor:  # noqa: ARG002  (for others)
        """Process the sums of layers (n, S) once a clip; (n, S), here unchanged.

        Args:
            wave: the sums.
            values: of `scene_space`, (n, size).
            material: of the clips.
        """
        return wave

    def layer_noise(self, material: Any) -> Tensor:
        """Return the white spectra (n L, bins) of the layers."""
        noise: Tensor = material.noise[:, : self.num_layers]
        return noise.flatten(0, 1)

    def draw_material(self, dice: Dice) -> Any:
        """See `Program`."""
        return Material(self.draw_noise(dice))

    def draw_noise(self, dice: Dice) -> Tensor:
        """See `Program`; (n, L + M, bins)."""
        size = Bins.of(self.grid).size
        names = (*self.layer_names, *self.scene_noises)
        return torch.stack([dice.complex_normal(f"{name}/noise", size) for name in names], dim=1)

    def render(self, units: Tensor, material: Any) -> Tensor:
        """See `Program`; the highest peak is at `level_db`."""
        of_layers, of_scene = units.split([self.num_layers * self.layer_space.size, self.scene_space.size], dim=1)
        layers = self.layer_space.physical(of_layers.reshape(-1, self.layer_space.size))
        wave = self.layer(layers, material).unflatten(0, (len(units), self.num_layers)).sum(dim=1)
        values = self.scene_space.physical(of_scene)
        return at_level(self.scene(wave, values, material), values[LEVEL.name])

    def caption(self, values: Mapping[str, Tensor], row: int) -> str:
        """See `Program`; the layers one after the other."""
        return "; ".join(
            self.describe({name: float(values[f"{layer}/{name}"][row, 0]) for name in self.layer_space.columns})
            for layer in self.layer_names
        )

    def describe(self, value: Mapping[str, float]) -> str:
        """Describe one layer in words, here by its parameters.

        Args:
            value: of `layer_space`; of a vector, the first number.
        """
        return ", ".join(
            f"{p.name} {p.names[int(value[p.name])] if p.names else format(value[p.name], '.4g')}"
            for p in self.layer_space.parameters
            if p.size == 1
        )


def at_level(wave: Tensor, level_db: Tensor) -> Tensor:
    """Scale (n, S) so that the highest peak is at `level_db` (n, 1), 0 dB being 1; silence stays silence."""
    peak = wave.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    return wave * (decibels(level_db) / peak)
