"""The pieces that sounds are made of: time, oscillators, envelopes, noise shaping, events. All (n, S), float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

TWO_PI = 2 * math.pi


def seconds(num_samples: int, sample_rate: int, like: Tensor) -> Tensor:
    """(S,) times of the samples in seconds, on the device of `like`."""
    return torch.arange(num_samples, device=like.device) / sample_rate


def phase(frequency_hz: Tensor, sample_rate: int) -> Tensor:
    """(n, S) frequencies -> (n, S) cycles since the first sample, as float64 sums wrapped into [0, 1).

    Wrapped, because float32 cannot hold a late phase: after 10 s at 4 kHz its steps are 1 / 256 of a cycle.
    """
    cycles = (frequency_hz.double() / sample_rate).cumsum(dim=1)
    return ((cycles - cycles[:, :1]) % 1.0).float()


def sine(frequency_hz: Tensor, sample_rate: int, start: Tensor | float = 0.0) -> Tensor:
    """(n, S) sin(2 pi (phase + start)), `start` in cycles; silent where the frequency reaches 45 % of the rate."""
    wave = torch.sin(TWO_PI * (phase(frequency_hz, sample_rate) + start))
    return wave * (frequency_hz < 0.45 * sample_rate)


def harmonics(frequency_hz: Tensor, amplitudes: Tensor, sample_rate: int) -> Tensor:
    """Sum over h = 1..H of amplitudes[:, h - 1] sin(2 pi h phase), without the harmonics above 45 % of the rate.

    Args:
        frequency_hz: (n, S) of the first harmonic.
        amplitudes: (n, H).
        sample_rate: Hz.
    """
    cycles = phase(frequency_hz, sample_rate)
    wave = torch.zeros_like(cycles)
    for order in range(1, amplitudes.shape[1] + 1):
        audible = order * frequency_hz < 0.45 * sample_rate
        wave = wave + amplitudes[:, order - 1 : order] * torch.sin(TWO_PI * (order * cycles % 1.0)) * audible
    return wave


def rolloff(num_harmonics: int, slope: Tensor) -> Tensor:
    """(n, 1) slopes -> (n, H) amplitudes h ** -slope: 0 is a pulse train, 1 a sawtooth, 2 nearly a sine."""
    order = torch.arange(1, num_harmonics + 1, device=slope.device)
    return order ** (-slope)


def attack_decay(time_s: Tensor, attack_s: Tensor | float, decay_s: Tensor | float) -> Tensor:
    """(1 - exp(-t / attack)) exp(-t / decay) from t = 0 on, 0 before."""
    after = time_s.clamp_min(0.0)
    return (1 - torch.exp(-after / attack_s)) * torch.exp(-after / decay_s) * (time_s >= 0)


def hump(position: Tensor) -> Tensor:
    """sin(pi x) squared for x in [0, 1], 0 outside: a smooth grain."""
    return torch.sin(math.pi * position).square() * ((position >= 0) & (position <= 1))


def smooth_noise(knots: Tensor, rate_hz: Tensor | float, num_samples: int, sample_rate: int) -> Tensor:
    """(n, K) random values -> (n, S): one knot every 1 / rate_hz seconds, joined by cosine ramps; the last one stays.

    A control signal without content above about `rate_hz`, a number or (n, 1).
    """
    position = (seconds(num_samples, sample_rate, knots) * rate_hz).expand(len(knots), -1)
    before = position.long().clamp_max(knots.shape[1] - 1)
    after = (before + 1).clamp_max(knots.shape[1] - 1)
    ramp = 0.5 - 0.5 * torch.cos(math.pi * (position - position.floor()))
    return torch.lerp(knots.gather(1, before), knots.gather(1, after), ramp)


def shape_spectrum(wave: Tensor, gain: Callable[[Tensor], Tensor], sample_rate: int) -> Tensor:
    """Filter by multiplying the spectrum with `gain`: (bins,) Hz -> (n, bins) or (bins,), real, so phases stay."""
    num_samples = wave.shape[1]
    # Twice the length, so that the end of a clip does not leak into its start.
    spectrum = torch.fft.rfft(wave, n=2 * num_samples)
    hertz = torch.fft.rfftfreq(2 * num_samples, 1 / sample_rate, device=wave.device)
    return torch.fft.irfft(spectrum * gain(hertz), n=2 * num_samples)[:, :num_samples]


def band_gain(hertz: Tensor, centre_hz: Tensor, octaves: Tensor | float) -> Tensor:
    """(n, bins) Gaussian over log frequency, 1 at `centre_hz` (n, 1), exp(-1/2) at `octaves` to either side."""
    distance = (hertz.clamp_min(1.0) / centre_hz).log2() / octaves
    return torch.exp(-0.5 * distance.square())


def slope_gain(hertz: Tensor, db_per_octave: Tensor, corner_hz: float = 50.0) -> Tensor:
    """(n, bins) power law above `corner_hz`, flat below: -3 dB per octave makes pink noise, -6 brown."""
    octaves = (hertz / corner_hz).clamp_min(1.0).log2()
    return 10 ** (db_per_octave * octaves / 20)


def resonance_gain(hertz: Tensor, centre_hz: Tensor, bandwidth_hz: Tensor) -> Tensor:
    """(n, bins) magnitude of a resonance of unit peak, bandwidth between its half-power points."""
    return 1 / torch.sqrt(1 + (2 * (hertz - centre_hz) / bandwidth_hz).square())


def unit_power(wave: Tensor) -> Tensor:
    """Mean removed and mean square 1 for each clip; silence stays silence."""
    wave = wave - wave.mean(dim=1, keepdim=True)
    return wave / wave.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-12)


def since_last_beat(rate_hz: Tensor, start: Tensor, num_samples: int, sample_rate: int) -> tuple[Tensor, Tensor]:
    """A regular beat.

    Args:
        rate_hz: (n, 1) beats per second.
        start: (n, 1) in [0, 1), the part of a period that has passed at the first sample.
        num_samples: S.
        sample_rate: Hz.

    Returns:
        (n, S) seconds since the last beat and (n, S) int64 number of that beat, from 0.
    """
    beats = seconds(num_samples, sample_rate, rate_hz).double() * rate_hz + start
    number = beats.floor()
    return ((beats - number) / rate_hz).float(), number.long()


def place(grains: Tensor, onsets_s: Tensor, num_samples: int, sample_rate: int) -> Tensor:
    """Add up grains at their onsets.

    Args:
        grains: (n, k, L) or (n, 1, L) if all events of a clip sound the same.
        onsets_s: (n, k) in seconds from 0; what reaches past the clip is cut off.
        num_samples: S.
        sample_rate: Hz.

    Returns:
        (n, S).
    """
    num_clips, num_events = onsets_s.shape
    length = grains.shape[2]
    out = torch.zeros(num_clips, num_samples + length, device=grains.device)
    first = (onsets_s * sample_rate).long().clamp(0, num_samples)
    index = first.unsqueeze(2) + torch.arange(length, device=grains.device)
    out.scatter_add_(1, index.flatten(1), grains.expand(-1, num_events, -1).flatten(1))
    return out[:, :num_samples]
