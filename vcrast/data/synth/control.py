"""Curves that change slowly: pitch contours, envelopes, grains, computed every 2 ms and joined by straight lines.

Ears and filterbanks of 10 ms frames hear no faster change of level or pitch, and a curve at the control rate costs a
thirtieth of one at 16 kHz. t is in seconds from the first sample, T the length of the clip; all curves are (n, K).
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
    """Where the curves are known: every `hop` samples, K points, the last one at or after the clip's end."""

    num_samples: int
    sample_rate: int
    device: torch.device

    @property
    def hop(self) -> int:
        """Samples between two points."""
        return max(1, round(STEP_S * self.sample_rate))

    @property
    def num_points(self) -> int:
        """K."""
        return -(-self.num_samples // self.hop) + 1

    @property
    def duration_s(self) -> float:
        """T."""
        return self.num_samples / self.sample_rate

    @property
    def time_s(self) -> Tensor:
        """(K,) times of the points."""
        return torch.arange(self.num_points, device=self.device) * (self.hop / self.sample_rate)

    @property
    def ramp(self) -> Tensor:
        """(hop,) from 0 up to, not including, 1: the way from one point to the next."""
        return torch.arange(self.hop, device=self.device) / self.hop

    def upsample(self, curve: Tensor) -> Tensor:
        """Interpolate linearly between the control points, (n, points) -> (n, S)."""
        return join_lines(curve, self.ramp)[:, : self.num_samples]


def join_lines(values: Tensor, ramp: Tensor) -> Tensor:
    """Interpolate linearly: (n, points) and the way from one to the next (hop,) -> (n, (points - 1) hop)."""
    return torch.lerp(values[:, :-1, None], values[:, 1:, None], ramp).flatten(1)


def pitch_contour(
    f0_hz: Tensor, glide_octaves: Tensor, vibrato_hz: Tensor, vibrato_semitones: Tensor, grid: Grid
) -> Tensor:
    """f(t) = f0 2 ** (glide (t / T - 1/2) + vibrato / 12 sin(2 pi vibrato_hz t)) in Hz, at most 45 % of the rate.

    All arguments (n, 1). The pitch passes f0 in the middle of the clip and has moved by `glide` octaves at its end.
    """
    time_s = grid.time_s
    octaves = glide_octaves * (time_s / grid.duration_s - 0.5)
    octaves = octaves + vibrato_semitones / 12 * torch.sin(math.tau * (vibrato_hz * time_s % 1.0))
    return (f0_hz * torch.exp2(octaves)).clamp_max(HIGHEST * grid.sample_rate)


def bursts(rate_hz: Tensor, duty: Tensor, attack: Tensor, decay: Tensor, start: Tensor, grid: Grid) -> Tensor:
    """Equal bursts, `rate` a second: with y the place within a burst, min(y / attack, (1 - y) / 0.1, 1) exp(-decay y).

    Args:
        rate_hz: (n, 1).
        duty: (n, 1) share of the period that sounds; y runs from 0 to 1 over it, silence follows.
        attack: (n, 1) share of the burst in which it rises.
        decay: (n, 1) nepers by which it has fallen at its end.
        start: (n, 1) part of a period that has passed at t = 0.
        grid: where.
    """
    place = (rate_hz * grid.time_s + start) % 1.0 / duty
    edges = torch.minimum(place / attack, (1 - place) / RELEASE).clamp(0.0, 1.0)
    return edges * torch.exp(-decay * place)


def onsets(times: Tensor, levels: Tensor, count: Tensor, attack_s: Tensor, decay_s: Tensor, grid: Grid) -> Tensor:
    """Events anywhere: sum over i < count of levels_i (1 - exp(-x / attack)) exp(-x / decay), x = t - times_i T >= 0.

    Args:
        times: (n, I) in [0, 1], as shares of T.
        levels: (n, I) amplitudes.
        count: (n, 1) how many of the I events sound.
        attack_s: (n, 1) seconds.
        decay_s: (n, 1) seconds.
        grid: where.
    """
    since = grid.time_s - (times * grid.duration_s).unsqueeze(2)  # (n, I, K)
    heard = levels * (torch.arange(times.shape[1], device=times.device) < count)
    return (heard.unsqueeze(2) * attack_decay(since, attack_s.unsqueeze(2), decay_s.unsqueeze(2))).sum(dim=1)


def attack_decay(time_s: Tensor, attack_s: Tensor, decay_s: Tensor) -> Tensor:
    """(1 - exp(-t / attack)) exp(-t / decay) from t = 0 on, 0 before."""
    after = time_s.clamp_min(0.0)
    return (1 - torch.exp(-after / attack_s)) * torch.exp(-after / decay_s) * (time_s >= 0)


def slow_modulation(rate_hz: Tensor, depth: Tensor, start: Tensor, grid: Grid) -> Tensor:
    """1 - depth (1 - cos(2 pi (rate t + start))) / 2: swells `rate` times a second down to 1 - depth."""
    return 1 - depth * (0.5 - 0.5 * torch.cos(math.tau * ((rate_hz * grid.time_s + start) % 1.0)))


def grains(rate_hz: Tensor, sparsity: Tensor, values: Tensor, grid: Grid) -> Tensor:
    """A texture, `rate` grains a second: u_j ** sparsity exp(-sparsity x / 4), j the grain, x its place in [0, 1).

    Sparsity 0 is steady; at 1 grains differ; at 20 a few crackle and the others are silent. Mean square 1.

    Args:
        rate_hz: (n, 1).
        sparsity: (n, 1), from 0.
        values: (n, J) uniform u_j in [0, 1); J bounds the grains, the last one stays.
        grid: where.
    """
    position = rate_hz * grid.time_s
    number = position.long().clamp_max(values.shape[1] - 1)
    # Relative to a clip's strongest grain, so that a high power of small numbers cannot vanish.
    loudness = (values / values.amax(dim=1, keepdim=True).clamp_min(1e-3)).clamp(1e-3, 1.0)
    level = torch.exp(sparsity * (loudness.log().gather(1, number) - 0.25 * (position % 1.0)))
    return level / level.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)


def peak_one(curve: Tensor) -> Tensor:
    """Scaled so that the highest point is 1; all zero stays so."""
    return curve / curve.amax(dim=1, keepdim=True).clamp_min(1e-12)


def with_floor(envelope: Tensor, floor: Tensor) -> Tensor:
    """(n, K) floor + (1 - floor) envelope: what lies between the events of a recording is not digital silence."""
    return torch.lerp(floor, torch.ones_like(floor), envelope)


def max_grains(highest_hz: float, grid: Grid) -> int:
    """J: grains that a clip can have."""
    return 2 + math.ceil(highest_hz * grid.duration_s)
