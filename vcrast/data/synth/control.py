"""Slow curves (pitch, envelopes, grains) at control points 2 ms apart.

Ears and filterbanks of 10 ms frames hear no faster change of level or pitch, and a curve at the control rate costs a
thirtieth of one at 16 kHz. t is in seconds from the first sample; all curves are (n, points).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

STEP_S = 0.002
NUM_ONSETS = 12
RELEASE = 0.1  # of a burst: its last part, a straight line to silence
HIGHEST = 0.45  # of the sample rate: nothing sounds above
LOWEST_RATE = 16_000  # Hz: generated sounds reach 7 kHz


@dataclass(frozen=True)
class Grid:
    """The control points: every `hop` samples, the last one at or after the clip's end."""

    num_samples: int
    sample_rate: int
    device: torch.device

    @property
    def hop(self) -> int:
        """Samples between two points."""
        return max(1, round(STEP_S * self.sample_rate))

    @property
    def num_points(self) -> int:
        """Number of control points."""
        return -(-self.num_samples // self.hop) + 1

    @property
    def duration_s(self) -> float:
        """Length of the clip, seconds."""
        return self.num_samples / self.sample_rate

    @property
    def time_s(self) -> Tensor:
        """Times of the control points, (points,) seconds."""
        return torch.arange(self.num_points, device=self.device) * (self.hop / self.sample_rate)

    @property
    def ramp(self) -> Tensor:
        """Weights (hop,) from 0 up to, not including, 1, of the next control point between two."""
        return torch.arange(self.hop, device=self.device) / self.hop

    def upsample(self, curve: Tensor) -> Tensor:
        """Interpolate linearly between the control points, (n, points) -> (n, S)."""
        return join_lines(curve, self.ramp)[:, : self.num_samples]


def join_lines(values: Tensor, ramp: Tensor) -> Tensor:
    """Interpolate linearly: values (n, points) and weights of the next one (hop,) -> (n, (points - 1) hop)."""
    return torch.lerp(values[:, :-1, None], values[:, 1:, None], ramp).flatten(1)


def pitch_contour(
    f0_hz: Tensor, glide_octaves: Tensor, vibrato_hz: Tensor, vibrato_semitones: Tensor, grid: Grid
) -> Tensor:
    """Compute f0 2 ** (glide (t / duration - 1/2) + vibrato / 12 sin(2 pi vibrato_hz t)) in Hz.

    All arguments (n, 1). The pitch passes f0 in the middle of the clip and has moved by `glide` octaves at its end; it
    stays below 45 % of the rate.
    """
    time_s = grid.time_s
    octaves = glide_octaves * (time_s / grid.duration_s - 0.5)
    octaves = octaves + vibrato_semitones / 12 * torch.sin(math.tau * (vibrato_hz * time_s % 1.0))
    return (f0_hz * torch.exp2(octaves)).clamp_max(HIGHEST * grid.sample_rate)


def bursts(rate_hz: Tensor, duty: Tensor, attack: Tensor, decay: Tensor, start: Tensor, grid: Grid) -> Tensor:
    """Repeat equal bursts: min(y / attack, (1 - y) / 0.1, 1) exp(-decay y), y from 0 to 1 within each.

    Args:
        rate_hz: (n, 1) bursts a second.
        duty: (n, 1) share of the period that sounds; y runs from 0 to 1 over it, silence follows.
        attack: (n, 1) share of the burst in which it rises.
        decay: (n, 1) nepers by which it has fallen at its end.
        start: (n, 1) part of a period that has passed at t = 0.
        grid: the control points.
    """
    place = (rate_hz * grid.time_s + start) % 1.0 / duty
    edges = torch.minimum(place / attack, (1 - place) / RELEASE).clamp(0.0, 1.0)
    return edges * torch.exp(-decay * place)


def onsets(times: Tensor, levels: Tensor, count: Tensor, attack_s: Tensor, decay_s: Tensor, grid: Grid) -> Tensor:
    """Sum single events: levels_i (1 - exp(-x / attack)) exp(-x / decay), i < count, x = t - times_i duration >= 0.

    Args:
        times: (n, events) in [0, 1], as shares of the clip's duration.
        levels: (n, events) amplitudes.
        count: (n, 1) how many of the events sound.
        attack_s: (n, 1) seconds.
        decay_s: (n, 1) seconds.
        grid: the control points.
    """
    since = grid.time_s - (times * grid.duration_s).unsqueeze(2)  # (n, events, points)
    heard = levels * (torch.arange(times.shape[1], device=times.device) < count)
    return (heard.unsqueeze(2) * attack_decay(since, attack_s.unsqueeze(2), decay_s.unsqueeze(2))).sum(dim=1)


def attack_decay(time_s: Tensor, attack_s: Tensor, decay_s: Tensor) -> Tensor:
    """Compute (1 - exp(-t / attack)) exp(-t / decay) from t = 0 on, 0 before; shapes broadcast, all in seconds."""
    after = time_s.clamp_min(0.0)
    return (1 - torch.exp(-after / attack_s)) * torch.exp(-after / decay_s) * (time_s >= 0)


def slow_modulation(rate_hz: Tensor, depth: Tensor, start: Tensor, grid: Grid) -> Tensor:
    """Compute 1 - depth (1 - cos(2 pi (rate t + start))) / 2: from 1 to 1 - depth, `rate` times a second."""
    return 1 - depth * (0.5 - 0.5 * torch.cos(math.tau * ((rate_hz * grid.time_s + start) % 1.0)))


def grains(rate_hz: Tensor, sparsity: Tensor, values: Tensor, grid: Grid) -> Tensor:
    """Make a texture of grains: u_j ** sparsity exp(-sparsity x / 4), j the grain, x the place within it in [0, 1).

    Sparsity 0 is steady; at 1 grains differ; at 20 a few crackle and the others are silent. Mean square 1.

    Args:
        rate_hz: (n, 1) grains a second.
        sparsity: (n, 1), from 0.
        values: (n, grains) uniform u_j in [0, 1); the last one stays where more are needed.
        grid: the control points.
    """
    position = rate_hz * grid.time_s
    number = position.long().clamp_max(values.shape[1] - 1)
    # Relative to a clip's strongest grain, so that a high power of small numbers cannot vanish.
    loudness = (values / values.amax(dim=1, keepdim=True).clamp_min(1e-3)).clamp(1e-3, 1.0)
    level = torch.exp(sparsity * (loudness.log().gather(1, number) - 0.25 * (position % 1.0)))
    return level / level.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)


def peak_one(curve: Tensor) -> Tensor:
    """Scale (n, points) so that the highest point is 1; all zero stays so."""
    return curve / curve.amax(dim=1, keepdim=True).clamp_min(1e-12)


def with_floor(envelope: Tensor, floor: Tensor) -> Tensor:
    """Raise an envelope (n, points) to floor + (1 - floor) envelope: recordings have no digital silence."""
    return torch.lerp(floor, torch.ones_like(floor), envelope)


def max_grains(highest_hz: float, grid: Grid) -> int:
    """Return how many grains a clip can have."""
    return 2 + math.ceil(highest_hz * grid.duration_s)
