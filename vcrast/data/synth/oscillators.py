"""Harmonic oscillators: exact integration of the frequency, one period read from a table."""

from __future__ import annotations

import torch
from torch import Tensor

from vcrast.data.synth.control import HIGHEST, Grid

NUM_HARMONICS = 64
NUM_PARTIALS = 12  # harmonics with a level of their own
TABLE = 2048  # samples of a period; straight lines between them miss the 64th harmonic by 0.5 %, the 10th by 0.01 %


def cycles(frequency_hz: Tensor, grid: Grid) -> Tensor:
    """Integrate frequencies (n, points) to cycles since the first sample (n, S), wrapped once a control step.

    With f linear between control points d = hop / rate apart,
    phi(t_k + x) = phi(t_k) + f_k x + (f_(k+1) - f_k) x^2 / 2d. The sums up to t_k are taken in float64 and wrapped:
    float32 cannot hold a late phase, and one a control point costs little.
    """
    step_s = grid.hop / grid.sample_rate
    before, after = frequency_hz[:, :-1], frequency_hz[:, 1:]
    passed = (before.double() + after) * (step_s / 2)
    start = ((passed.cumsum(dim=1) - passed) % 1.0).float()  # (n, points - 1), at the beginning of each step
    along = grid.ramp * step_s  # (hop,) seconds
    slope = (after - before) / (2 * step_s)
    phase = torch.addcmul(before.unsqueeze(2), slope.unsqueeze(2), along) * along + start.unsqueeze(2)
    return phase.flatten(1)[:, : grid.num_samples]


def harmonic_levels(slope: Tensor, even: Tensor, partials: Tensor, frequency_hz: Tensor, sample_rate: int) -> Tensor:
    """Compute amplitudes (n, 64): h ** -slope, even harmonics times `even`, the first twelve times `partials`.

    Args:
        slope: (n, 1), 0 a pulse train, 1 a sawtooth, 2 nearly a sine.
        even: (n, 1) gain of the even harmonics; small is a square wave or a clarinet.
        partials: (n, 12) gains of the first twelve.
        frequency_hz: (n, points) of the first; harmonics that ever pass 45 % of the rate are left out.
        sample_rate: Hz.
    """
    order = torch.arange(1, NUM_HARMONICS + 1, device=slope.device)
    levels = order ** (-slope) * torch.where(order % 2 == 0, even, 1.0)
    levels = torch.cat([levels[:, :NUM_PARTIALS] * partials, levels[:, NUM_PARTIALS:]], dim=1)
    return levels * (order * frequency_hz.amax(dim=1, keepdim=True) <= HIGHEST * sample_rate)


def period(levels: Tensor) -> Tensor:
    """Sum amplitudes (n, harmonics) to one period of a_h sin(2 pi h x), (n, 2049): mean square 1, its start repeated.

    One inverse FFT, whatever the number of harmonics.
    """
    levels = levels / (levels.square().sum(dim=1, keepdim=True) / 2).sqrt().clamp_min(1e-12)
    spectrum = torch.zeros(len(levels), TABLE // 2 + 1, dtype=torch.complex64, device=levels.device)
    spectrum[:, 1 : levels.shape[1] + 1] = levels * (-0.5j * TABLE)
    wave = torch.fft.irfft(spectrum, n=TABLE)
    return torch.cat([wave, wave[:, :1]], dim=1)


def read_table(table: Tensor, phase: Tensor) -> Tensor:
    """Read periods (n, 2049) at cycles (n, S), linearly between the table's samples; (n, S)."""
    # The very bits of `phase % 1.0`, which costs five times as much.
    position = (phase - phase.floor()) * TABLE
    # A phase just below a whole number may round up to it.
    first = position.floor().clamp_max(TABLE - 1)
    place = first.long()
    return torch.lerp(table.gather(1, place), table[:, 1:].gather(1, place), position - first)
