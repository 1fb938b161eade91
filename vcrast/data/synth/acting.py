"""When a parameter acts: a sound that is all noise has no pitch, one of bursts no onsets. For probes of parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vcrast.data.synth import control, oscillators, spectra
from vcrast.data.synth.control import Grid
from vcrast.data.synth.program import KINDS, LAYER, SCENE
from vcrast.data.synth.space import Space

QUIET = 10 ** (-20 / 20)  # a tone, a noise or echoes 20 dB below what they sound with are taken for absent
FLAT = 10 ** (-2 / 20)  # and a formant, a mode or a swell that stands out by less than 2 dB for flat
STILL_SEMITONES = 0.25  # as is a vibrato below a quarter of a semitone
STEADY = 1.0  # and a texture below this sparsity, where grains only begin to differ


class Layer(NamedTuple):
    """What a condition sees of a layer, or of the scene: values (n, size) by name, the grid, layers in the clip."""

    values: Mapping[str, Tensor]
    grid: Grid
    num_layers: int


Condition = Callable[[Layer], Tensor]
"""(n, 1), or (n, size) where the numbers of a vector differ: whether the parameter acts."""


def bursts(layer: Layer) -> Tensor:
    """The envelope is a row of bursts."""
    return layer.values["kind"] == KINDS.index("bursts")


def onsets(layer: Layer) -> Tensor:
    """The envelope is events at times of their own."""
    return layer.values["kind"] == KINDS.index("onsets")


def swell(layer: Layer) -> Tensor:
    """The envelope swells slowly."""
    return layer.values["kind"] == KINDS.index("slow modulation")


def deep_swell(layer: Layer) -> Tensor:
    """It swells by 2 dB at least."""
    return swell(layer) & (1 - layer.values["slow_depth"] <= FLAT)


def tone(layer: Layer) -> Tensor:
    """The tone is at most 20 dB below the noise."""
    angle = torch.pi / 2 * layer.values["noise_share"]
    return angle.cos() >= QUIET * angle.sin()


def noise(layer: Layer) -> Tensor:
    """The noise is at most 20 dB below the tone."""
    angle = torch.pi / 2 * layer.values["noise_share"]
    return angle.sin() >= QUIET * angle.cos()


def vibrato(layer: Layer) -> Tensor:
    """There is a tone, and its pitch swings."""
    return tone(layer) & (layer.values["vibrato_semitones"] >= STILL_SEMITONES)


def harmonics(layer: Layer) -> Tensor:
    """(n, 12) which of the first harmonics sound, in a tone that has two at least: one alone is scaled to level 1."""
    p, grid = layer.values, layer.grid
    pitch = control.pitch_contour(p["f0_hz"], p["glide_octaves"], p["vibrato_hz"], p["vibrato_semitones"], grid)
    order = torch.arange(1, oscillators.NUM_PARTIALS + 1, device=pitch.device)
    sounds = order * pitch.amax(dim=1, keepdim=True) <= control.HIGHEST * grid.sample_rate
    return sounds & sounds[:, 1:2] & tone(layer)


def overtones(layer: Layer) -> Tensor:
    """There is a tone of several harmonics."""
    return harmonics(layer)[:, 1:2]


def spectrum(layer: Layer) -> Tensor:
    """There is something to colour: noise, or several harmonics."""
    return noise(layer) | overtones(layer)


def formants(layer: Layer) -> Tensor:
    """And the throat colours it by 2 dB at least, from a formant's peak to its foot."""
    share = layer.values["formant_share"]
    return spectrum(layer) & (1 - share + share * spectra.QUIETEST <= FLAT)


def texture(layer: Layer) -> Tensor:
    """The noise is made of grains that differ."""
    return noise(layer) & (layer.values["sparsity"] >= STEADY)


def events(layer: Layer) -> Tensor:
    """(n, 12) which of the onsets sound."""
    return onsets(layer) & (torch.arange(control.NUM_ONSETS, device=layer.grid.device) < layer.values["count"])


def several_events(layer: Layer) -> Tensor:
    """(n, 12) which of several onsets sound: the level of one alone is scaled to 1."""
    return events(layer) & (layer.values["count"] >= 2)


def gaps(layer: Layer) -> Tensor:
    """The envelope comes down to its floor."""
    return bursts(layer) | onsets(layer)


def several_layers(layer: Layer) -> Tensor:
    """The layer sounds with others: the level of one alone is that of the clip."""
    return torch.full_like(layer.values["layer_db"], layer.num_layers > 1, dtype=torch.bool)


def body(scene: Layer) -> Tensor:
    """The body's modes stand out by 2 dB at least over the sound itself."""
    p = scene.values
    direct = (1 - p["body_share"]) * (1 - p["reverb_share"])
    return direct + p["body_share"] / p["modes_hz"].shape[1] >= direct / FLAT


def reverb(scene: Layer) -> Tensor:
    """The echoes are at most 20 dB below the sound."""
    share = scene.values["reverb_share"]
    return share >= QUIET * (1 - share)


ACTS: dict[str, Condition] = {
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
"""By the parameter's name; those that are not here act in every sound."""


def acting(units: Tensor, num_layers: int, grid: Grid) -> Tensor:
    """(n, P) in [0, 1], columns of `Layers.space_of(num_layers)` -> (n, P) bool: whether it acts in the sound."""
    found = []
    for space, part in split(units, num_layers):
        layer = Layer(space.physical(part), grid, num_layers)
        for parameter in space.parameters:
            acts = ACTS[parameter.name](layer) if parameter.name in ACTS else torch.ones_like(part[:, :1]).bool()
            found.append(acts.expand(-1, parameter.size))
    return torch.cat(found, dim=1)


def canonical(units: Tensor, num_layers: int) -> Tensor:
    """(n, P) -> (n, P): the same sounds, with what has no order put in order.

    The modes of a body, and the onsets that sound, may change places without any change to the sound, so that no one
    could tell which is the first. Modes are sorted by frequency; onsets by time, their levels with them.
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
    """The columns of each layer, and of the scene at the end, with the space that they belong to."""
    sizes = [LAYER.size] * num_layers + [SCENE.size]
    spaces = [LAYER] * num_layers + [SCENE]
    return list(zip(spaces, units.split(sizes, dim=1), strict=True))
