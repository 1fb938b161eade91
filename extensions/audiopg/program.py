"""The program `audiopg`: tones, FM, waveforms and noise in events, bursts, background.

Rebuilt from the description of AudioPG, arXiv:2606.14791: additive tones with partials k^-gamma, FM, sawtooth, square
and triangle, pink noise; ADSR envelopes, several events in a clip, transient bursts, damping, background noise; f0 from
50 to 2,000 Hz. Everything else is ours: all ranges but that of f0, the laws, eight events at most of one pitch in a
layer, each layer one of the six waveforms, bursts and background as noise of any tilt, layers on top of each other. Its
sounds are single clips for a masked autoencoder; here parameters are declared in a `Space`, so that there are pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from vcrast.config.registry import PROGRAMS
from vcrast.data.synth import control, oscillators, spectra
from vcrast.data.synth.control import Grid
from vcrast.data.synth.sound import LEVEL, Layered, Material
from vcrast.data.synth.space import Parameter, Space, decibels
from vcrast.data.synth.spectra import Bins

from . import waveforms
from .events import events

WAVEFORMS = ("additive tone", "FM tone", *waveforms.SERIES, "pink noise")
ADDITIVE, FM, PINK = 0, 1, len(WAVEFORMS) - 1
NUM_EVENTS = 8
NUM_BURSTS = 6
BURST_ATTACK_S = 0.001

LAYER = Space(
    [
        Parameter("waveform", "structure", "choice", 0, len(WAVEFORMS), names=WAVEFORMS),
        Parameter("num_events", "structure", "choice", 1, NUM_EVENTS + 1),
        Parameter("f0_hz", "pitch", "log", 50, 2000),
        Parameter("gamma", "timbre", "linear", 0.5, 3),
        Parameter("num_partials", "timbre", "log", 1, waveforms.NUM_HARMONICS),
        Parameter("fm_ratio", "timbre", "log", 0.25, 4),
        Parameter("fm_index", "timbre", "linear", 0, 8),
        Parameter("attack_s", "envelope", "log", 0.004, 0.5),
        Parameter("decay_s", "envelope", "log", 0.01, 0.5),
        Parameter("sustain", "envelope", "linear", 0, 1),
        Parameter("hold_s", "envelope", "log", 0.02, 3),
        Parameter("release_s", "envelope", "log", 0.02, 1),
        Parameter("damping_hz", "envelope", "rare", 0, 30),
        Parameter("event_levels_db", "envelope", "linear", -18, 0, size=NUM_EVENTS),
        # Not later than 95 % of the clip: something sounds in every clip.
        Parameter("event_times", "time", "linear", 0, 0.95, size=NUM_EVENTS),
        Parameter("layer_db", "mix", "linear", -18, 0),
    ]
)
"""Of one layer. Of `f0_hz` to `fm_index`, a waveform uses those that it has."""

SCENE = Space(
    [
        Parameter("num_bursts", "structure", "choice", 0, NUM_BURSTS + 1),
        Parameter("burst_tilt", "texture", "linear", 0, 2),
        Parameter("burst_decay_s", "envelope", "log", 0.003, 0.03),
        Parameter("burst_levels_db", "envelope", "linear", -18, 0, size=NUM_BURSTS),
        Parameter("burst_times", "time", "linear", 0, 0.95, size=NUM_BURSTS),
        Parameter("bursts_db", "mix", "linear", -18, 0),
        Parameter("background_tilt", "texture", "linear", 0, 2),
        Parameter("background_db", "mix", "linear", -60, -20),
        LEVEL,
    ]
)
"""Of the whole clip. A tilt is the exponent of noise with power f^-tilt: 0 white, 1 pink, 2 brown."""


@PROGRAMS.register("audiopg")
class AudioPG(Layered):
    """This file as a program; arguments and errors as in `Layered`.

    A clip is sum over layers of layer_db envelope source, plus bursts_db bursts, plus background_db background. Every
    source has mean square 1 and every envelope peak 1, so that the levels compare.
    """

    layer_space, scene_space, scene_noises = LAYER, SCENE, ("bursts", "background")

    def layer(self, values: dict[str, Tensor], material: Material) -> Tensor:
        """See `Layered`."""
        return layer(values, self.layer_noise(material), self.grid)

    def scene(self, wave: Tensor, values: dict[str, Tensor], material: Material) -> Tensor:
        """Add bursts and background; see `Layered`."""
        bursts, background = material.noise[:, self.num_layers :].unbind(dim=1)
        wave = wave + transients(values, bursts, self.grid)
        noise = tilted(values["background_tilt"], background, self.grid)
        return torch.addcmul(wave, noise, decibels(values["background_db"]))

    def caption(self, values: Mapping[str, Tensor], row: int) -> str:
        """See `Program`."""
        return f"{super().caption(values, row)}; {_counted(float(values['num_bursts'][row, 0]), 'burst')}"

    def describe(self, value: Mapping[str, float]) -> str:
        """Say waveform, pitch and number of events; see `Layered`."""
        waveform = int(value["waveform"])
        pitch = "" if waveform == PINK else f" of {value['f0_hz']:.0f} Hz"
        return f"{WAVEFORMS[waveform]}{pitch}, {_counted(value['num_events'], 'event')}"


def layer(p: dict[str, Tensor], noise: Tensor, grid: Grid) -> Tensor:
    """Render one layer (n, S): its source under its events, at `layer_db`.

    Args:
        p: values of `LAYER`.
        noise: (n, bins) white spectra.
        grid: length and rate.
    """
    shape_s = (p["attack_s"], p["decay_s"], p["sustain"], p["hold_s"], p["release_s"])
    curve = events(p["event_times"], decibels(p["event_levels_db"]), p["num_events"], shape_s, p["damping_hz"], grid)
    level = control.peak_one(curve) * decibels(p["layer_db"])
    pink = tilted(torch.ones_like(p["gamma"]), noise, grid)
    return torch.where(p["waveform"] == PINK, pink, tone(p, grid)) * grid.upsample(level)


def tone(p: dict[str, Tensor], grid: Grid) -> Tensor:
    """Render the layer's waveform (n, S) at a steady pitch, mean square 1; of pink noise, a sine.

    All are one period read at a phase; FM is a sine read at f0 t + I / (2 pi) sin(2 pi f_m t) cycles.
    """
    f0_hz = p["f0_hz"]
    levels = torch.where(p["waveform"] == ADDITIVE, waveforms.power_law(p["gamma"], p["num_partials"]), _fixed(p))
    table = oscillators.period(waveforms.below_limit(levels, f0_hz, grid.sample_rate))
    modulator_hz, index = waveforms.modulation(f0_hz, p["fm_ratio"], p["fm_index"], grid.sample_rate)
    index = torch.where(p["waveform"] == FM, index, 0.0)
    phase = _cycles(f0_hz, grid)
    return oscillators.read_table(
        table, torch.addcmul(phase, torch.sin(math.tau * _cycles(modulator_hz, grid)), index / math.tau)
    )


def transients(p: dict[str, Tensor], noise: Tensor, grid: Grid) -> Tensor:
    """Render bursts (n, S) at `bursts_db`: tilted noise under sum_i g_i (1 - e^(-x / 1 ms)) e^(-x / decay), peak 1."""
    attack_s = torch.full_like(p["burst_decay_s"], BURST_ATTACK_S)
    levels = decibels(p["burst_levels_db"])
    curve = control.onsets(p["burst_times"], levels, p["num_bursts"], attack_s, p["burst_decay_s"], grid)
    level = control.peak_one(curve) * decibels(p["bursts_db"])
    return tilted(p["burst_tilt"], noise, grid) * grid.upsample(level)


def tilted(exponent: Tensor, noise: Tensor, grid: Grid) -> Tensor:
    """Filter white spectra (n, bins) to noise (n, S) with power f^-exponent, `exponent` (n, 1), mean square 1."""
    bins = Bins.of(grid)
    return spectra.coloured(noise, waveforms.tilt(exponent, bins), bins, grid.num_samples)


def _fixed(p: dict[str, Tensor]) -> Tensor:
    """Look up amplitudes (n, 144) of the waveforms without parameters: the three series, a sine for the others."""
    series = waveforms.series(p["waveform"].device)
    sine = torch.zeros_like(series[:1])
    sine[:, 0] = 1
    table = torch.cat([sine, sine, series, sine])
    return table[p["waveform"].long().squeeze(1)]


def _cycles(frequency_hz: Tensor, grid: Grid) -> Tensor:
    return oscillators.cycles(frequency_hz.expand(-1, grid.num_points), grid)


def _counted(number: float, what: str) -> str:
    return f"{number:.0f} {what}" + "s" * (number != 1)
