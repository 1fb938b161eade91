"""Animals: birds, crickets, dogs."""

from __future__ import annotations

import torch
from torch import Tensor

from vcrast.synth.blocks import (
    TWO_PI,
    attack_decay,
    harmonics,
    hump,
    resonance_gain,
    rolloff,
    shape_spectrum,
    since_last_beat,
    sine,
)
from vcrast.synth.sound import Parameters, Scene, linear, log, sound


@sound(
    "bird_chirps",
    pitch_hz=log(2200, 5000),
    rate_hz=log(3.5, 10),
    duty=linear(0.4, 0.9),
    sweep_octaves=linear(-0.8, 0.8),
    trill_hz=log(15, 60),
    trill_octaves=linear(0, 0.12),
    start=linear(0, 1),
)
def bird_chirps(p: Parameters, scene: Scene) -> Tensor:
    """Whistled notes, `rate` a second, some left out, each gliding by `sweep` around its own pitch, with a trill.

    f(x) = pitch 2 ** (sweep (x - 1/2) + trill sin(2 pi trill_hz t)) with x in [0, 1] over the note; loudness is
    sin(pi x) squared; notes differ by up to a sixth of an octave.
    """
    since, number = since_last_beat(p["rate_hz"], p["start"], scene.num_samples, scene.sample_rate)
    position = since * p["rate_hz"] / p["duty"]
    note = scene.per_beat("note", number, -0.17, 0.17)
    trill = p["trill_octaves"] * torch.sin(TWO_PI * p["trill_hz"] * since)
    glide = p["sweep_octaves"] * (position.clamp_max(1.0) - 0.5)
    # The second note always sounds, so that no clip of a second or more is silent.
    sounds = (scene.per_beat("sounds", number, 0.0, 1.0) < 0.75) | (number == 1)
    loudness = scene.per_beat("loudness", number, 0.4, 1.0) * sounds
    return sine(p["pitch_hz"] * 2 ** (note + trill + glide), scene.sample_rate) * hump(position) * loudness


@sound(
    "crickets",
    pitch_hz=log(3000, 5500),
    pulse_hz=linear(25, 55),
    chirp_hz=log(1.5, 5),
    duty=linear(0.35, 0.7),
    start=linear(0, 1),
)
def crickets(p: Parameters, scene: Scene) -> Tensor:
    """One unchanging high tone, pulsing `pulse_hz` times a second inside chirps of `duty` of the period 1 / chirp_hz.

    A second insect, a few per cent higher and quieter, has a rhythm of its own.
    """
    wave = torch.zeros(scene.dice.size, scene.num_samples, device=scene.dice.keys.device)
    for detune, loudness, name in ((1.0, 1.0, "first"), (1.06, 0.35, "second")):
        start = p["start"] if detune == 1.0 else scene.dice.one(f"{name}/start")
        chirp, _ = since_last_beat(p["chirp_hz"] / detune, start, scene.num_samples, scene.sample_rate)
        within = chirp * p["chirp_hz"] / detune < p["duty"]
        pulse = (chirp * p["pulse_hz"]) % 1.0
        tone = sine((detune * p["pitch_hz"]).expand(-1, scene.num_samples), scene.sample_rate)
        wave = wave + loudness * tone * hump(pulse / 0.8) * within
    return wave


@sound(
    "dog_bark",
    pitch_hz=log(220, 600),
    rate_hz=log(1.3, 3.5),
    decay_s=log(0.05, 0.12),
    rise_octaves=linear(0.2, 0.6),
    mouth_hz=log(700, 1500),
    roughness=linear(0.2, 0.8),
    start=linear(0, 1),
)
def dog_bark(p: Parameters, scene: Scene) -> Tensor:
    """Short rough bursts, `rate` a second: harmonics of a pitch that rises and falls, mixed with noise.

    f(t) = pitch 2 ** (rise exp(-(t - 40 ms)^2 / (2 (30 ms)^2))), loudness (1 - exp(-t / 8 ms)) exp(-t / decay), both
    through a broad resonance at `mouth`. Barks differ in pitch by up to an eighth of an octave and in loudness.
    """
    since, number = since_last_beat(p["rate_hz"], p["start"], scene.num_samples, scene.sample_rate)
    arch = torch.exp(-0.5 * ((since - 0.04) / 0.03).square())
    bend = p["rise_octaves"] * arch + scene.per_beat("bark", number, -0.125, 0.125)
    voice = harmonics(p["pitch_hz"] * 2**bend, rolloff(20, torch.full_like(p["rate_hz"], 0.6)), scene.sample_rate)
    breath = p["roughness"] * scene.dice.normal("breath", scene.num_samples)
    envelope = attack_decay(since, 0.008, p["decay_s"]) * scene.per_beat("loudness", number, 0.5, 1.0)
    wave = (voice + breath) * envelope
    return shape_spectrum(wave, lambda hz: resonance_gain(hz, p["mouth_hz"], 1.2 * p["mouth_hz"]), scene.sample_rate)
