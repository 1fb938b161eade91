"""Voices: a source of harmonics through the resonances of a throat."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vcrast.synth.blocks import TWO_PI, harmonics, hump, resonance_gain, rolloff, shape_spectrum, smooth_noise
from vcrast.synth.sound import Parameters, Scene, linear, log, sound

# First three formants in Hz of a, e, i, o, u: averages of men (Peterson and Barney 1952).
VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))


def through_vowel(source: Tensor, vowel: Tensor, throat: Tensor, sample_rate: int) -> Tensor:
    """(n, S) source -> (n, S) with three resonances of 60, 90 and 120 Hz half-width times `throat`, 6 dB apart.

    Args:
        source: glottal wave.
        vowel: (n, 1) row of `VOWELS`.
        throat: (n, 1) scale of all formants: 0.9 is a long throat, 1.3 a child's.
        sample_rate: Hz.
    """
    formants = torch.tensor(VOWELS, dtype=torch.float32, device=source.device)[vowel.long().squeeze(1)] * throat

    def gain(hertz: Tensor) -> Tensor:
        total = torch.zeros(len(source), len(hertz), device=source.device)
        for order in range(3):
            width = (120.0 + 60.0 * order) * throat
            total = total + 2.0**-order * resonance_gain(hertz, formants[:, order : order + 1], width)
        return total

    return shape_spectrum(source, gain, sample_rate)


@sound(
    "vowel_voice",
    pitch_hz=log(90, 320),
    slope=linear(0.9, 1.7),
    throat=linear(0.9, 1.25),
    vibrato_hz=linear(4, 7),
    vibrato_semitones=linear(0.05, 0.5),
    syllables_hz=linear(1.2, 4),
    start=linear(0, 1),
)
def vowel_voice(p: Parameters, scene: Scene) -> Tensor:
    """Sung syllables: harmonics with vibrato and a drifting melody through the formants of two vowels in turn.

    f(t) = pitch 2 ** (vibrato / 12 sin(2 pi vibrato_hz t) + 0.15 g(t)), g smooth with 2 knots a second; syllables are
    sqrt-shaped humps, 1 / syllables_hz long, that alternate between the vowels.
    """
    knots = scene.dice.uniform("melody", 2 + int(2 * scene.duration_s), -1.0, 1.0)
    melody = 0.15 * smooth_noise(knots, 2.0, scene.num_samples, scene.sample_rate)
    vibrato = p["vibrato_semitones"] / 12 * torch.sin(TWO_PI * p["vibrato_hz"] * scene.time_s)
    source = harmonics(p["pitch_hz"] * 2 ** (melody + vibrato), rolloff(40, p["slope"]), scene.sample_rate)
    count = p["syllables_hz"] * scene.time_s + p["start"]
    first = scene.dice.choice("vowel/first", range(5))
    second = (first + 1 + scene.dice.choice("vowel/second", range(4))) % 5
    turn = 0.5 - 0.5 * torch.cos(math.pi * count)
    wave = torch.lerp(
        through_vowel(source, first, p["throat"], scene.sample_rate),
        through_vowel(source, second, p["throat"], scene.sample_rate),
        turn,
    )
    return wave * hump(count % 1.0).sqrt()


@sound(
    "baby_cry",
    pitch_hz=log(350, 550),
    cries_hz=linear(0.8, 1.6),
    arch_octaves=linear(0.2, 0.5),
    slope=linear(0.3, 0.8),
    rasp=linear(0.0, 0.3),
    start=linear(0, 1),
)
def baby_cry(p: Parameters, scene: Scene) -> Tensor:
    """Long wails, `cries` a second: a high voice whose pitch arches by `arch` octaves, then a breath.

    f(x) = pitch 2 ** (arch sin(pi x)) with x in [0, 1] over the wail, 80 % of the period; the vowel is an a from a
    throat 1.3 times as short; `rasp` is the depth of a tremble at 28 Hz.
    """
    count = p["cries_hz"] * scene.time_s + p["start"]
    position = (count % 1.0) / 0.8
    frequency = p["pitch_hz"] * 2 ** (p["arch_octaves"] * torch.sin(math.pi * position.clamp_max(1.0)))
    source = harmonics(frequency, rolloff(20, p["slope"]), scene.sample_rate)
    source = source * (1 + p["rasp"] * torch.sin(TWO_PI * 28 * scene.time_s))
    vowel, throat = torch.zeros_like(p["start"]), torch.full_like(p["start"], 1.3)
    wave = through_vowel(source, vowel, throat, scene.sample_rate)
    return wave * hump(position).clamp_min(0.0) ** 0.3
