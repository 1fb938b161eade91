"""Machines: engine, helicopter."""

from __future__ import annotations

from torch import Tensor

from vcrast.synth.blocks import (
    attack_decay,
    band_gain,
    harmonics,
    phase,
    resonance_gain,
    rolloff,
    shape_spectrum,
    since_last_beat,
    sine,
    smooth_noise,
    unit_power,
)
from vcrast.synth.sound import Parameters, Scene, linear, log, sound


@sound(
    "engine_hum",
    firing_hz=log(28, 95),
    slope=linear(0.8, 1.5),
    body_hz=log(150, 600),
    wobble=linear(0, 0.04),
    hiss=log(0.01, 0.15),
)
def engine_hum(p: Parameters, scene: Scene) -> Tensor:
    """Dense harmonics of the firing rate through a body resonance, the speed wandering by `wobble`, with hissing noise.

    40 harmonics with amplitudes h ** -slope of f(t) = firing (1 + wobble g(t)), g a smooth control of 3 knots a second;
    the noise is louder during the first half of each cycle.
    """
    knots = scene.dice.uniform("speed", 2 + int(3 * scene.duration_s), -1.0, 1.0)
    speed = 1 + p["wobble"] * smooth_noise(knots, 3.0, scene.num_samples, scene.sample_rate)
    frequency = p["firing_hz"] * speed
    tone = harmonics(frequency, rolloff(40, p["slope"]), scene.sample_rate)
    puff = 1.0 + (phase(frequency, scene.sample_rate) < 0.5)
    wave = tone + p["hiss"] * puff * scene.dice.normal("hiss", scene.num_samples)
    return shape_spectrum(wave, lambda hz: resonance_gain(hz, p["body_hz"], 2 * p["body_hz"]), scene.sample_rate)


@sound(
    "helicopter",
    blade_hz=linear(9, 19),
    thump_hz=log(90, 260),
    decay_s=log(0.01, 0.025),
    wash_db=linear(-26, -14),
    whine_hz=log(1500, 3500),
    whine_db=linear(-40, -24),
    start=linear(0, 1),
)
def helicopter(p: Parameters, scene: Scene) -> Tensor:
    """Low thumps of noise, `blade` a second, over a steady wash and a faint turbine.

    A thump is noise in 1.2 octaves around `thump_hz` times (1 - exp(-t / 2 ms)) exp(-t / decay); wash and turbine, a
    tone at `whine_hz`, lie `wash_db` and `whine_db` relative to the thump's noise.
    """
    since, _ = since_last_beat(p["blade_hz"], p["start"], scene.num_samples, scene.sample_rate)
    noise = scene.dice.normal("thump", scene.num_samples)
    thump = shape_spectrum(noise, lambda hz: band_gain(hz, p["thump_hz"], 1.2), scene.sample_rate)
    wash = scene.dice.normal("wash", scene.num_samples)
    wash = shape_spectrum(wash, lambda hz: band_gain(hz, 4 * p["thump_hz"], 1.5), scene.sample_rate)
    whine = sine(p["whine_hz"].expand(-1, scene.num_samples), scene.sample_rate)
    bed = 10 ** (p["wash_db"] / 20) * unit_power(wash) + 10 ** (p["whine_db"] / 20) * whine
    return unit_power(thump) * attack_decay(since, 0.002, p["decay_s"]) + bed
