"""Sounds made to be noticed: siren, telephone, laser."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vcrast.synth.blocks import TWO_PI, attack_decay, harmonics, rolloff, since_last_beat
from vcrast.synth.sound import Parameters, Scene, linear, log, sound


@sound(
    "siren",
    pitch_hz=log(500, 1000),
    depth_octaves=linear(0.3, 0.7),
    rate_hz=log(0.5, 5),
    hardness=log(0.3, 8),
    slope=linear(0.8, 2),
    start=linear(0, 1),
)
def siren(p: Parameters, scene: Scene) -> Tensor:
    """A tone whose pitch swings: f(t) = pitch 2 ** (depth / 2 * m(t)).

    m = tanh(hardness sin(2 pi (rate t + start))) / tanh(hardness) goes from a wail (soft) to two alternating tones.
    """
    swing = torch.sin(TWO_PI * (p["rate_hz"] * scene.time_s + p["start"]))
    swing = torch.tanh(p["hardness"] * swing) / torch.tanh(p["hardness"])
    frequency = p["pitch_hz"] * 2 ** (0.5 * p["depth_octaves"] * swing)
    return harmonics(frequency, rolloff(8, p["slope"]), scene.sample_rate)


@sound(
    "telephone_ring",
    pitch_hz=log(800, 1700),
    interval=linear(1.15, 1.4),
    warble_hz=linear(14, 28),
    period_s=linear(0.6, 1.4),
    duty=linear(0.45, 0.75),
    slope=linear(1, 2.5),
    start=linear(0, 1),
)
def telephone_ring(p: Parameters, scene: Scene) -> Tensor:
    """Two tones, pitch and pitch * interval, that swap `2 warble` times a second, sounding for `duty` of each period.

    Edges are exponential: 5 ms in, and 30 ms out as a bell's.
    """
    lower = torch.sin(TWO_PI * p["warble_hz"] * scene.time_s) >= 0
    frequency = p["pitch_hz"] * torch.where(lower, 1.0, p["interval"])
    since, _ = since_last_beat(1 / p["period_s"], p["start"], scene.num_samples, scene.sample_rate)
    ring_s = p["duty"] * p["period_s"]
    gate = (1 - torch.exp(-since / 0.005)) * torch.exp(-(since - ring_s).clamp_min(0.0) / 0.03)
    return harmonics(frequency, rolloff(5, p["slope"]), scene.sample_rate) * gate


@sound(
    "laser_sweep",
    top_hz=log(2500, 6500),
    bottom_hz=log(150, 500),
    glide_s=log(0.03, 0.12),
    rate_hz=log(1.5, 6),
    slope=linear(1, 2.5),
    start=linear(0, 1),
)
def laser_sweep(p: Parameters, scene: Scene) -> Tensor:
    """Shots, `rate` a second, each falling as f(t) = bottom + (top - bottom) exp(-t / glide) and fading in 2 glides."""
    since, _ = since_last_beat(p["rate_hz"], p["start"], scene.num_samples, scene.sample_rate)
    frequency = p["bottom_hz"] + (p["top_hz"] - p["bottom_hz"]) * torch.exp(-since / p["glide_s"])
    wave = harmonics(frequency, rolloff(4, p["slope"]), scene.sample_rate)
    return wave * attack_decay(since, 0.002, 2 * p["glide_s"])


@sound(
    "beeps",
    pitch_hz=log(900, 3800),
    rate_hz=log(1.5, 9),
    duty=linear(0.3, 0.6),
    slope=linear(1.5, 3),
    start=linear(0, 1),
)
def beeps(p: Parameters, scene: Scene) -> Tensor:
    """A steady tone switched on `rate` times a second for `duty` of the period, with edges of 3 ms."""
    since, _ = since_last_beat(p["rate_hz"], p["start"], scene.num_samples, scene.sample_rate)
    left_s = p["duty"] / p["rate_hz"] - since
    gate = (torch.minimum(since, left_s) / 0.003).clamp(0.0, 1.0)
    gate = 0.5 - 0.5 * torch.cos(math.pi * gate)
    frequency = p["pitch_hz"].expand(-1, scene.num_samples)
    return harmonics(frequency, rolloff(4, p["slope"]), scene.sample_rate) * gate
