"""Things that are struck: clock, footsteps, drum, bell, glass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vcrast.synth.blocks import TWO_PI, attack_decay, band_gain, place, shape_spectrum, since_last_beat, unit_power
from vcrast.synth.sound import Parameters, Scene, linear, log, sound

# Of a church bell relative to its prime: hum, prime, tierce, quint, nominal and four above; the minor third, 1.2, is
# what makes it a bell. Those of glass are no particular glass's: inharmonic and close together.
BELL_PARTIALS = (0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 2.67, 3.0, 4.0)
GLASS_PARTIALS = (1.0, 1.37, 1.83, 2.32)


@sound(
    "clock_ticks",
    rate_hz=linear(1.6, 4.5),
    pitch_hz=log(1500, 4200),
    tock=linear(0.7, 0.95),
    decay_s=log(0.003, 0.012),
    click=linear(0.2, 0.8),
    start=linear(0, 1),
)
def clock_ticks(p: Parameters, scene: Scene) -> Tensor:
    """A tick `rate` times a second, every second one lower by the factor `tock`: a decaying tone and a click of noise.

    tick(t) = exp(-t / decay) (sin(2 pi f t) + 1/2 sin(2 pi 1.6 f t)) + click exp(-t / 1 ms) noise.
    """
    since, number = since_last_beat(p["rate_hz"], p["start"], scene.num_samples, scene.sample_rate)
    frequency = p["pitch_hz"] * torch.where(number % 2 == 0, 1.0, p["tock"])
    # Seconds since the beat are short, so the phase needs no running sum.
    tone = torch.sin(TWO_PI * frequency * since) + 0.5 * torch.sin(TWO_PI * 1.6 * frequency * since)
    noise = scene.dice.normal("click", scene.num_samples)
    return tone * torch.exp(-since / p["decay_s"]) + p["click"] * noise * torch.exp(-since / 0.001)


@sound(
    "footsteps",
    rate_hz=linear(1.4, 2.8),
    heel_hz=log(70, 220),
    sole_hz=log(600, 2500),
    toe_after_s=linear(0.07, 0.14),
    toe=linear(0.15, 0.6),
    decay_s=log(0.02, 0.05),
    start=linear(0, 1),
)
def footsteps(p: Parameters, scene: Scene) -> Tensor:
    """Steps, `rate` a second: a thud of low noise as the heel lands, a lighter scrape as the sole follows.

    Noise in a band around `heel_hz` times exp(-t / decay), and around `sole_hz` after `toe_after` seconds, `toe` as
    loud. Steps differ in loudness by up to 4 dB.
    """
    since, number = since_last_beat(p["rate_hz"], p["start"], scene.num_samples, scene.sample_rate)
    low = scene.dice.normal("heel", scene.num_samples)
    low = unit_power(shape_spectrum(low, lambda hz: band_gain(hz, p["heel_hz"], 0.7), scene.sample_rate))
    high = scene.dice.normal("sole", scene.num_samples)
    high = unit_power(shape_spectrum(high, lambda hz: band_gain(hz, p["sole_hz"], 0.8), scene.sample_rate))
    heel = (low + 0.3 * high) * attack_decay(since, 0.002, p["decay_s"])
    sole = p["toe"] * high * attack_decay(since - p["toe_after_s"], 0.01, 1.3 * p["decay_s"])
    return (heel + sole) * scene.per_beat("loudness", number, 0.63, 1.0)


@sound(
    "drum_roll",
    rate_hz=log(13, 26),
    pitch_hz=log(140, 320),
    snare=linear(0.3, 1),
    snare_hz=log(2000, 4500),
    decay_s=log(0.025, 0.07),
    swell=linear(-1, 1),
    start=linear(0, 1),
)
def drum_roll(p: Parameters, scene: Scene) -> Tensor:
    """Strokes, `rate` a second, of uneven loudness: a skin at `pitch` and its 1.59th, and rattling snares.

    skin(t) = exp(-t / decay) (sin(2 pi pitch t) + 0.6 sin(2 pi 1.59 pitch t)), the first two modes of a membrane. The
    snares are noise around `snare_hz` times exp(-t / decay). The roll grows (swell > 0) or fades by up to 12 dB.
    """
    since, number = since_last_beat(p["rate_hz"], p["start"], scene.num_samples, scene.sample_rate)
    skin = torch.sin(TWO_PI * p["pitch_hz"] * since) + 0.6 * torch.sin(TWO_PI * 1.59 * p["pitch_hz"] * since)
    snares = scene.dice.normal("snares", scene.num_samples)
    snares = unit_power(shape_spectrum(snares, lambda hz: band_gain(hz, p["snare_hz"], 0.9), scene.sample_rate))
    envelope = attack_decay(since, 0.001, p["decay_s"]) * scene.per_beat("loudness", number, 0.6, 1.0)
    growth = 10 ** (12 * p["swell"] * (scene.time_s / scene.duration_s) / 20)
    return (skin + p["snare"] * snares) * envelope * growth


@sound(
    "church_bell",
    pitch_hz=log(220, 800),
    rate_hz=log(0.6, 1.6),
    decay_s=log(0.4, 1.5),
    hardness=linear(0, 1),
    start=linear(0, 1),
)
def church_bell(p: Parameters, scene: Scene) -> Tensor:
    """Strikes, `rate` a second, of inharmonic partials r of `pitch`, the higher the sooner gone.

    Sum over r of r ** -(1.2 - hardness) exp(-t r / decay) sin(2 pi r pitch t + phase_r); see `BELL_PARTIALS`.
    """
    since, _ = since_last_beat(p["rate_hz"], p["start"], scene.num_samples, scene.sample_rate)
    shifts = scene.dice.uniform("phases", len(BELL_PARTIALS))
    wave = torch.zeros_like(since)
    for position, ratio in enumerate(BELL_PARTIALS):
        tone = torch.sin(TWO_PI * (ratio * p["pitch_hz"] * since + shifts[:, position : position + 1]))
        wave = wave + ratio ** (p["hardness"] - 1.2) * torch.exp(-since * ratio / p["decay_s"]) * tone
    return wave * (1 - torch.exp(-since / 0.001))


@sound(
    "glass_clinks", pitch_hz=log(1800, 3800), clinks_hz=log(1.5, 8), decay_s=log(0.03, 0.12), spread=linear(0.02, 0.3)
)
def glass_clinks(p: Parameters, scene: Scene) -> Tensor:
    """Clinks at random times, `clinks_hz` a second, each of its own pitch within `spread` octaves of `pitch`.

    clink(t) = sum over r of exp(-t r / decay) sin(2 pi r f t) / r with `GLASS_PARTIALS` r below 45 % of the rate.
    """
    num_clinks = math.ceil(8 * scene.duration_s)
    onsets = scene.dice.uniform("onsets", num_clinks) * num_clinks / p["clinks_hz"]
    onsets[:, 0] = onsets[:, 0] % (0.8 * scene.duration_s)
    pitch = p["pitch_hz"] * 2 ** (p["spread"] * scene.dice.uniform("pitches", num_clinks, -1.0, 1.0))
    loudness = scene.dice.uniform("loudness", num_clinks, 0.2, 1.0)
    time_s = torch.arange(int(0.4 * scene.sample_rate), device=pitch.device) / scene.sample_rate
    grains = torch.zeros(*pitch.shape, len(time_s), device=pitch.device)
    for ratio in GLASS_PARTIALS:
        frequency = ratio * pitch.unsqueeze(2)
        decay = torch.exp(-time_s * ratio / p["decay_s"].unsqueeze(2))
        audible = frequency < 0.45 * scene.sample_rate
        grains = grains + decay * torch.sin(TWO_PI * frequency * time_s) / ratio * audible
    return place(grains * loudness.unsqueeze(2), onsets, scene.num_samples, scene.sample_rate)
