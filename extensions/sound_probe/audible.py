"""Masks: in which generated sounds each parameter of the program `layers` is audible.

A sound that is all noise has no pitch, one of bursts no onsets; a probe is fitted and scored where it is audible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vcrast.data.synth import control, oscillators, spectra
from vcrast.data.synth.control import Grid
from vcrast.data.synth.program import KINDS, LAYER, SCENE
from vcrast.data.synth.space import Space

QUIET = 10 ** (-20 / 20)  # gain; a tone, a noise or echoes further below the rest count as absent
FLAT = 10 ** (-2 / 20)  # gain; a formant, a mode or a swell that stands out by less counts as flat
STILL_SEMITONES = 0.25  # a vibrato below it counts as none
STEADY = 1.0  # a sparsity below it counts as a steady texture


class Part(NamedTuple):
    """One layer of n sounds, or their scene.

    Attributes:
        values: (n, size) of each parameter, in its unit.
        grid: length and rate of the sounds.
        num_layers: in each sound.
    """

    values: Mapping[str, Tensor]
    grid: Grid
    num_layers: int


Condition = Callable[[Part], Tensor]
"""-> (n, 1) bool, or (n, size) where the numbers of a vector differ: whether the parameter is audible."""


def bursts(layer: Part) -> Tensor:
    """(n, 1) the envelope is a row of bursts."""
    return layer.values["kind"] == KINDS.index("bursts")


def onsets(layer: Part) -> Tensor:
    """(n, 1) the envelope is single events."""
    return layer.values["kind"] == KINDS.index("onsets")


def swell(layer: Part) -> Tensor:
    """(n, 1) the envelope is a slow modulation."""
    return layer.values["kind"] == KINDS.index("slow modulation")


def deep_swell(layer: Part) -> Tensor:
    """(n, 1) a slow modulation of 2 dB at least."""
    return swell(layer) & (1 - layer.values["slow_depth"] <= FLAT)


def tone(layer: Part) -> Tensor:
    """(n, 1) the tone is at most 20 dB below the noise."""
    angle = torch.pi / 2 * layer.values["noise_share"]
    return angle.cos() >= QUIET * angle.sin()


def noise(layer: Part) -> Tensor:
    """(n, 1) the noise is at most 20 dB below the tone."""
    angle = torch.pi / 2 * layer.values["noise_share"]
    return angle.sin() >= QUIET * angle.cos()


def vibrato(layer: Part) -> Tensor:
    """(n, 1) there is a tone with a vibrato."""
    return tone(layer) & (layer.values["vibrato_semitones"] >= STILL_SEMITONES)


def harmonics(layer: Part) -> Tensor:
    """(n, 12) which of the first harmonics sound; none where only one does, as its level is scaled to 1."""
    p, grid = layer.values, layer.grid
    pitch = control.pitch_contour(p["f0_hz"], p["glide_octaves"], p["vibrato_hz"], p["vibrato_semitones"], grid)
    order = torch.arange(1, oscillators.NUM_PARTIALS + 1, device=pitch.device)
    sounds = order * pitch.amax(dim=1, keepdim=True) <= control.HIGHEST * grid.sample_rate
    return sounds & sounds[:, 1:2] & tone(layer)


def overtones(layer: Part) -> Tensor:
    """(n, 1) there is a tone of several harmonics."""
    return harmonics(layer)[:, 1:2]


def spectrum(layer: Part) -> Tensor:
    """(n, 1) there is noise, or a tone of several harmonics."""
    return noise(layer) | overtones(layer)


def formants(layer: Part) -> Tensor:
    """(n, 1) and the formants stand out by 2 dB at least."""
    share = layer.values["formant_share"]
    return spectrum(layer) & (1 - share + share * spectra.QUIETEST <= FLAT)


def texture(layer: Part) -> Tensor:
    """(n, 1) there is noise, of grains that differ."""
    return noise(layer) & (layer.values["sparsity"] >= STEADY)


def events(layer: Part) -> Tensor:
    """(n, 12) which of the onsets sound."""
    return onsets(layer) & (torch.arange(control.NUM_ONSETS, device=layer.grid.device) < layer.values["count"])


def several_events(layer: Part) -> Tensor:
    """(n, 12) which of the onsets sound; none where only one does, as its level is scaled to 1."""
    return events(layer) & (layer.values["count"] >= 2)


def gaps(layer: Part) -> Tensor:
    """(n, 1) the envelope falls to its floor."""
    return bursts(layer) | onsets(layer)


def several_layers(layer: Part) -> Tensor:
    """(n, 1) there are several layers: the level of one alone is that of the clip."""
    return torch.full_like(layer.values["layer_db"], layer.num_layers > 1, dtype=torch.bool)


def body(scene: Part) -> Tensor:
    """(n, 1) the body's modes stand out by 2 dB at least over the sound itself."""
    p = scene.values
    direct = (1 - p["body_share"]) * (1 - p["reverb_share"])
    return direct + p["body_share"] / p["modes_hz"].shape[1] >= direct / FLAT


def reverb(scene: Part) -> Tensor:
    """(n, 1) the echoes are at most 20 dB below the sound."""
    share = scene.values["reverb_share"]
    return share >= QUIET * (1 - share)


CONDITIONS: dict[str, Condition] = {
    "count": onsets,
    "f0_hz": tone,
    "glide_octaves": tone,
    "vibrato_hz": vibrato,
    "vibrato_semitones": tone,
    "slope": overtones,
    "even_db": overtones,
    "partials_db": harmonics,
    "equaliser_db": noise,
    "formant_1_hz": formants,
    "formant_2_hz": formants,
    "formant_3_hz": formants,
    "formant_width_hz": formants,
    "formant_share": spectrum,
    "grain_hz": texture,
    "sparsity": noise,
    "burst_hz": bursts,
    "burst_duty": bursts,
    "burst_attack": bursts,
    "burst_decay": bursts,
    "onset_attack_s": onsets,
    "onset_decay_s": onsets,
    "onset_levels_db": several_events,
    "onset_times": events,
    "slow_hz": deep_swell,
    "slow_depth": swell,
    "floor_db": gaps,
    "start": lambda layer: bursts(layer) | deep_swell(layer),
    "layer_db": several_layers,
    "modes_hz": body,
    "mode_decay_s": body,
    "reverb_s": reverb,
}
"""By the parameter's name; a parameter that is not here is audible in every sound."""


def audible(units: Tensor, num_layers: int, grid: Grid) -> Tensor:
    """Mark in which sounds each parameter is audible.

    Args:
        units: (n, units) parameters in [0, 1], columns of `Layers.space_of(num_layers)`.
        num_layers: of the sounds.
        grid: of the sounds.

    Returns:
        (n, units) bool.
    """
    found = []
    for space, columns in split(units, num_layers):
        part, everywhere = Part(space.physical(columns), grid, num_layers), torch.ones_like(columns[:, :1]).bool()
        for parameter in space.parameters:
            condition = CONDITIONS.get(parameter.name)
            mask = everywhere if condition is None else condition(part)
            found.append(mask.expand(-1, parameter.size))
    return torch.cat(found, dim=1)


def canonical(units: Tensor, num_layers: int) -> Tensor:
    """Sort what has no order, (n, units) -> (n, units): the sounds stay the same.

    Modes of a body are sorted by frequency, onsets that sound by time, their levels with them.
    """
    parts = []
    for space, part in split(units, num_layers):
        part = part.clone()
        if space is SCENE:
            modes = SCENE.columns["modes_hz"]
            part[:, modes] = part[:, modes].sort(dim=1).values
        else:
            times, levels = LAYER.columns["onset_times"], LAYER.columns["onset_levels_db"]
            heard = torch.arange(control.NUM_ONSETS, device=units.device) < LAYER.physical(part)["count"]
            # Those that are silent stay behind the others.
            order = torch.where(heard, part[:, times], torch.inf).argsort(dim=1, stable=True)
            part[:, times], part[:, levels] = part[:, times].gather(1, order), part[:, levels].gather(1, order)
        parts.append(part)
    return torch.cat(parts, dim=1)


def split(units: Tensor, num_layers: int) -> list[tuple[Space, Tensor]]:
    """Split (n, units) into the columns of each layer, then of the scene, each with its space."""
    sizes = [LAYER.size] * num_layers + [SCENE.size]
    spaces = [LAYER] * num_layers + [SCENE]
    return list(zip(spaces, units.split(sizes, dim=1), strict=True))
