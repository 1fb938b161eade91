"""The program `layers`: tones and noises under envelopes, summed, in a body and a room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vcrast.config.registry import PROGRAMS
from vcrast.data.synth import control, oscillators, spectra
from vcrast.data.synth.control import Grid
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.sound import LEVEL, Layered
from vcrast.data.synth.space import Parameter, Space, decibels
from vcrast.data.synth.spectra import Bins

GRAINS_HZ = 250.0
KINDS = ("bursts", "onsets", "slow modulation")

LAYER = Space(
    [
        Parameter("kind", "structure", "choice", 0, len(KINDS), names=KINDS),
        Parameter("count", "structure", "choice", 1, control.NUM_ONSETS + 1),
        Parameter("f0_hz", "pitch", "log", 40, 4000),
        Parameter("glide_octaves", "pitch", "centred", -1.5, 1.5),
        Parameter("vibrato_hz", "pitch", "log", 2, 12),
        Parameter("vibrato_semitones", "pitch", "rare", 0, 3),
        Parameter("slope", "timbre", "linear", 0, 2.5),
        Parameter("even_db", "timbre", "linear", -30, 0),
        Parameter("partials_db", "timbre", "linear", -24, 0, size=oscillators.NUM_PARTIALS),
        Parameter("equaliser_db", "timbre", "linear", -40, 0, size=spectra.EQUALISER_POINTS),
        Parameter("formant_1_hz", "timbre", "log", 250, 900),
        Parameter("formant_2_hz", "timbre", "log", 800, 2500),
        Parameter("formant_3_hz", "timbre", "log", 2000, 3800),
        Parameter("formant_width_hz", "timbre", "log", 60, 400),
        Parameter("formant_share", "timbre", "ends", 0, 1),
        Parameter("grain_hz", "texture", "log", 5, GRAINS_HZ),
        Parameter("sparsity", "texture", "rare", 0, 20),
        Parameter("burst_hz", "envelope", "log", 0.5, 20),
        Parameter("burst_duty", "envelope", "linear", 0.1, 0.95),
        Parameter("burst_attack", "envelope", "rare", 0.01, 0.9),
        Parameter("burst_decay", "envelope", "linear", 0, 6),
        Parameter("onset_attack_s", "envelope", "log", 0.002, 0.2),
        Parameter("onset_decay_s", "envelope", "log", 0.01, 1),
        Parameter("onset_levels_db", "envelope", "linear", -24, 0, size=control.NUM_ONSETS),
        Parameter("slow_hz", "envelope", "log", 0.2, 8),
        Parameter("slow_depth", "envelope", "linear", 0, 1),
        Parameter("floor_db", "envelope", "linear", -80, -20),
        Parameter("start", "time", "linear", 0, 1, wraps=True),
        # Not later than 95 % of the clip: something sounds in every clip.
        Parameter("onset_times", "time", "linear", 0, 0.95, size=control.NUM_ONSETS),
        Parameter("noise_share", "mix", "ends", 0, 1),
        Parameter("layer_db", "mix", "linear", -18, 0),
    ]
)
"""Of one layer. A clip has several, whose parameters are independent."""

SCENE = Space(
    [
        Parameter("modes_hz", "space", "log", 80, 6000, size=4),
        Parameter("mode_decay_s", "space", "log", 0.002, 0.15),
        Parameter("body_share", "space", "ends", 0, 1),
        Parameter("reverb_s", "space", "log", 0.1, 1),
        Parameter("reverb_share", "space", "rare", 0, 0.8),
        LEVEL,
    ]
)
"""Of the whole clip."""


class Material(NamedTuple):
    """Random numbers of a clip besides its parameters; L layers.

    Attributes:
        noise: (n, L, bins) complex white spectra.
        grains: (n, L, grains) uniform loudness of the grains.
        room: (n, tail) standard normal, the echoes of a room.
    """

    noise: Tensor
    grains: Tensor
    room: Tensor


def layer(p: dict[str, Tensor], noise: Tensor, grain_values: Tensor, grid: Grid) -> Tensor:
    """Render one layer (n, S): envelope (cos(a) tone + sin(a) texture noise) at `layer_db`, a = pi / 2 noise_share.

    Tone and noise have mean square 1 before the envelope, whose highest point is 1.

    Args:
        p: values of `LAYER`.
        noise: (n, bins) white spectra.
        grain_values: (n, grains).
        grid: length and rate.
    """
    level = envelope(p, grid) * decibels(p["layer_db"])
    angle = torch.pi / 2 * p["noise_share"]
    texture = control.grains(p["grain_hz"], p["sparsity"], grain_values, grid)
    tone = tonal(p, grid) * grid.upsample(level * angle.cos())
    return torch.addcmul(tone, filtered_noise(p, noise, grid), grid.upsample(level * texture * angle.sin()))


def envelope(p: dict[str, Tensor], grid: Grid) -> Tensor:
    """Compute the envelope (n, points) of the layer's kind, peak 1, above its floor."""
    periodic = control.bursts(p["burst_hz"], p["burst_duty"], p["burst_attack"], p["burst_decay"], p["start"], grid)
    single = control.onsets(
        p["onset_times"], decibels(p["onset_levels_db"]), p["count"], p["onset_attack_s"], p["onset_decay_s"], grid
    )
    swelling = control.slow_modulation(p["slow_hz"], p["slow_depth"], p["start"], grid)
    chosen = torch.where(p["kind"] == 0, periodic, torch.where(p["kind"] == 1, single, swelling))
    return control.with_floor(control.peak_one(chosen), decibels(p["floor_db"]))


def formant_gain(p: dict[str, Tensor], hertz: Tensor) -> Tensor:
    """Compute the gain (n, bins) of the layer's formants at (bins,) or (n, bins) frequencies."""
    centres = torch.cat([p["formant_1_hz"], p["formant_2_hz"], p["formant_3_hz"]], dim=1)
    return spectra.formants(hertz, centres, p["formant_width_hz"], p["formant_share"])


def tonal(p: dict[str, Tensor], grid: Grid) -> Tensor:
    """Render the layer's harmonics (n, S), mean square 1; formants act at the harmonics' mean frequencies."""
    frequency = control.pitch_contour(p["f0_hz"], p["glide_octaves"], p["vibrato_hz"], p["vibrato_semitones"], grid)
    levels = oscillators.harmonic_levels(
        p["slope"], decibels(p["even_db"]), decibels(p["partials_db"]), frequency, grid.sample_rate
    )
    order = torch.arange(1, levels.shape[1] + 1, device=levels.device)
    levels = levels * formant_gain(p, order * frequency.mean(dim=1, keepdim=True))
    return oscillators.read_table(oscillators.period(levels), oscillators.cycles(frequency, grid))


def filtered_noise(p: dict[str, Tensor], noise: Tensor, grid: Grid) -> Tensor:
    """Filter the layer's noise (n, bins) by equaliser and formants; (n, S), mean square 1."""
    bins = Bins.of(grid)
    gain = spectra.equaliser(p["equaliser_db"], bins) * formant_gain(p, bins.hertz)
    return spectra.coloured(noise, gain, bins, grid.num_samples)


def add_body_and_room(wave: Tensor, p: dict[str, Tensor], room: Tensor, grid: Grid) -> Tensor:
    """Convolve (n, S) with the response of a body and a room; (n, S).

    The response is (1 - body) (1 - reverb) delta(t) + body ringing(t) + reverb echoes(t), with the two shares.
    """
    body, reverb = p["body_share"], p["reverb_share"]
    response = body * spectra.body_ringing(p["modes_hz"], p["mode_decay_s"], room.shape[1], grid.sample_rate)
    response = response + reverb * spectra.room_echoes(room, p["reverb_s"], grid.sample_rate)
    direct = torch.nn.functional.pad((1 - body) * (1 - reverb), (0, room.shape[1] - 1))
    return spectra.convolved(wave, response + direct)


@PROGRAMS.register("layers")
class Layers(Layered):
    """This file as a program; arguments and errors as in `Layered`."""

    layer_space, scene_space = LAYER, SCENE

    def draw_material(self, dice: Dice) -> Material:
        """See `Program`."""
        num_grains = control.max_grains(GRAINS_HZ, self.grid)
        return Material(
            self.draw_noise(dice),
            torch.stack([dice.uniform(f"{name}/grains", num_grains) for name in self.layer_names], dim=1),
            dice.normal("room", int(spectra.TAIL_S * self.grid.sample_rate)),
        )

    def layer(self, values: dict[str, Tensor], material: Material) -> Tensor:
        """See `Layered`."""
        return layer(values, self.layer_noise(material), material.grains.flatten(0, 1), self.grid)

    def scene(self, wave: Tensor, values: dict[str, Tensor], material: Material) -> Tensor:
        """Add the body and the room; see `Layered`."""
        return add_body_and_room(wave, values, material.room, self.grid)

    def describe(self, value: Mapping[str, float]) -> str:
        """Say what a layer is made of, and its pace; see `Layered`."""
        pace = {
            "bursts": f"bursts at {value['burst_hz']:.2g} Hz",
            "onsets": f"{value['count']:.0f} onset" + "s" * (value["count"] > 1),
            "slow modulation": f"swelling at {value['slow_hz']:.2g} Hz",
        }[KINDS[int(value["kind"])]]
        made_of = f"tone of {value['f0_hz']:.0f} Hz" if value["noise_share"] < 0.5 else "noise"
        if 0.1 < value["noise_share"] < 0.9:
            made_of = f"tone of {value['f0_hz']:.0f} Hz and noise"
        return f"{made_of}, {pace}"
