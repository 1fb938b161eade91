"""Textures without a pitch: rain, wind, fire, waves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vcrast.synth.blocks import TWO_PI, band_gain, place, shape_spectrum, slope_gain, smooth_noise, unit_power
from vcrast.synth.sound import Parameters, Scene, linear, log, sound


@sound("rain", drops_hz=log(60, 600), drop_hz=log(2500, 5500), bed_db=linear(-12, 3), bed_slope_db=linear(-3, 0))
def rain(p: Parameters, scene: Scene) -> Tensor:
    """Drops at random times, `drops_hz` a second, with exponential loudness, over a bed of even noise.

    A drop is an impulse in a band of an octave around `drop_hz`; the bed changes by `bed_slope_db` per octave and has
    `bed_db` of the drops' power.
    """
    falls = scene.dice.uniform("falls", scene.num_samples) < p["drops_hz"] / scene.sample_rate
    loudness = -(1 - scene.dice.uniform("loudness", scene.num_samples)).log()
    drops = shape_spectrum(falls * loudness, lambda hz: band_gain(hz, p["drop_hz"], 0.6), scene.sample_rate)
    bed = shape_spectrum(
        scene.dice.normal("bed", scene.num_samples), lambda hz: slope_gain(hz, p["bed_slope_db"]), scene.sample_rate
    )
    return unit_power(drops) + 10 ** (p["bed_db"] / 20) * unit_power(bed)


@sound("wind", pitch_hz=log(150, 450), gust_hz=linear(0.7, 3), depth=linear(0.6, 1), whistle=linear(0, 0.5))
def wind(p: Parameters, scene: Scene) -> Tensor:
    """Low noise in four bands, an octave apart from `pitch` / 2 up, each swelling and fading at its own pace.

    Gains are exp(2 depth g(t)) with g a smooth normal control of `gust_hz` knots a second, cut to [-2, 1]; a narrow
    band at 3 `pitch` whistles with the second gust.
    """
    num_knots = 2 + int(3 * scene.duration_s)
    wave = torch.zeros(scene.dice.size, scene.num_samples, device=scene.dice.keys.device)
    for band in range(4):
        knots = scene.dice.normal(f"gust/{band}", num_knots).clamp(-2, 1)
        gust = smooth_noise(knots, p["gust_hz"], scene.num_samples, scene.sample_rate)
        gain = torch.exp(2 * p["depth"] * gust)
        centre = p["pitch_hz"] * 2.0 ** (band - 1)
        noise = scene.dice.normal(f"noise/{band}", scene.num_samples)
        noise = shape_spectrum(noise, lambda hz, centre=centre: band_gain(hz, centre, 0.5), scene.sample_rate)  # type: ignore[misc]
        wave = wave + 2.0 ** (-1.2 * band) * gain * noise
        if band == 1:
            whistle = scene.dice.normal("whistle", scene.num_samples)
            whistle = shape_spectrum(whistle, lambda hz: band_gain(hz, 3 * p["pitch_hz"], 0.05), scene.sample_rate)
            wave = wave + p["whistle"] * gain * whistle
    return wave


@sound(
    "crackling_fire", crackles_hz=log(6, 30), pop_hz=log(1200, 4500), decay_s=log(0.001, 0.006), roar_db=linear(-25, -8)
)
def crackling_fire(p: Parameters, scene: Scene) -> Tensor:
    """Sparse pops at random times, `crackles_hz` a second, of very different loudness, over a low roar.

    A pop is noise times exp(-t / decay) in two octaves around `pop_hz`; its loudness is u ** -0.6 for u uniform in
    (0.01, 1): few are loud. The roar is noise falling 6 dB per octave, with `roar_db` of the pops' power.
    """
    num_pops = math.ceil(30 * scene.duration_s)
    # Onsets uniform over num_pops / crackles_hz seconds have the wanted density; those after the end are not heard.
    onsets = scene.dice.uniform("onsets", num_pops) * num_pops / p["crackles_hz"]
    onsets[:, 0] = onsets[:, 0] % (0.9 * scene.duration_s)
    length = int(0.03 * scene.sample_rate)
    loudness = scene.dice.uniform("loudness", num_pops, 0.01, 1.0) ** -0.6
    decay = torch.exp(-torch.arange(length, device=onsets.device) / scene.sample_rate / p["decay_s"])
    grains = scene.dice.normal("pops", num_pops * length).unflatten(1, (num_pops, length))
    grains = grains * loudness.unsqueeze(2) * decay.unsqueeze(1)
    pops = place(grains, onsets, scene.num_samples, scene.sample_rate)
    pops = shape_spectrum(pops, lambda hz: band_gain(hz, p["pop_hz"], 1.0), scene.sample_rate)
    roar = scene.dice.normal("roar", scene.num_samples)
    flat = torch.full_like(p["roar_db"], -6.0)
    roar = shape_spectrum(roar, lambda hz: slope_gain(hz, flat), scene.sample_rate)
    return unit_power(pops) + 10 ** (p["roar_db"] / 20) * unit_power(roar)


@sound("sea_waves", rate_hz=linear(0.5, 0.9), sharpness=linear(1.5, 4), slope_db=linear(-5, -2), start=linear(0, 1))
def sea_waves(p: Parameters, scene: Scene) -> Tensor:
    """Broad noise that swells `rate` times a second as ((1 + sin) / 2) ** sharpness and grows brighter as it does.

    Two layers: one falling by `slope_db` per octave, and one 3 dB per octave brighter that is heard at the crest only.
    """
    swell = (0.5 + 0.5 * torch.sin(TWO_PI * (p["rate_hz"] * scene.time_s + p["start"]))) ** p["sharpness"]
    wave = torch.zeros_like(swell)
    for name, brighter_db, envelope in (("body", 0.0, 0.1 + swell), ("foam", 3.0, swell.square())):
        noise, slope = scene.dice.normal(name, scene.num_samples), p["slope_db"] + brighter_db
        shaped = shape_spectrum(noise, lambda hz, slope=slope: slope_gain(hz, slope), scene.sample_rate)  # type: ignore[misc]
        wave = wave + envelope * unit_power(shaped)
    return wave
