"""Waveforms as band-limited Fourier series, frequency modulation, and power-law noise."""

from __future__ import annotations

import torch
from torch import Tensor

from vcrast.data.synth.control import HIGHEST
from vcrast.data.synth.spectra import Bins

NUM_HARMONICS = 144  # of a tone of 50 Hz at 16 kHz that lie below 45 % of the rate
TILT_CORNER_HZ = 50.0

SERIES = ("sawtooth", "square", "triangle")


def series(device: torch.device | str = "cpu") -> Tensor:
    """Return amplitudes b_k (3, 144) of sum over k of b_k sin(2 pi k x), in the order of `SERIES`.

    Sawtooth 1 / k; square 1 / k for odd k; triangle (-1)^((k - 1) / 2) / k^2 for odd k; 0 elsewhere.
    """
    order = torch.arange(1, NUM_HARMONICS + 1, device=device, dtype=torch.float32)
    odd = order % 2
    sign = 2 - order % 4  # 1 for k = 1, 5, 9, ... and -1 for k = 3, 7, 11, ...
    return torch.stack([1 / order, odd / order, odd * sign / order.square()])


def power_law(gamma: Tensor, num_partials: Tensor) -> Tensor:
    """Return amplitudes k^-gamma (n, 144) of the first partials.

    Args:
        gamma: (n, 1), from 0.
        num_partials: (n, 1), from 1; of a broken number the last partial has the fraction, so that none comes suddenly.
    """
    order = torch.arange(1, NUM_HARMONICS + 1, device=gamma.device)
    return order ** (-gamma) * (num_partials - order + 1).clamp(0.0, 1.0)


def below_limit(levels: Tensor, f0_hz: Tensor, sample_rate: int) -> Tensor:
    """Remove partials above 45 % of the rate from amplitudes (n, 144); `f0_hz` (n, 1)."""
    order = torch.arange(1, levels.shape[1] + 1, device=levels.device)
    return levels * (order * f0_hz <= HIGHEST * sample_rate)


def modulation(carrier_hz: Tensor, ratio: Tensor, index: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Limit frequency and index (n, 1) of the modulator in sin(2 pi f_c t + I sin(2 pi f_m t)).

    f_m = ratio f_c and I = index where the sound then fits: its sidebands f_c + k f_m have amplitudes J_k(I), small
    from k = I + 2 on, and by Carson's rule it reaches f_c + (I + 1) f_m. That is kept below 45 % of the rate by a
    slower modulator, f_m <= room / 2 with room = 0.45 rate - f_c, then by I <= room / f_m - 1.

    Args:
        carrier_hz: (n, 1) f_c.
        ratio: (n, 1).
        index: (n, 1) radians, from 0.
        sample_rate: Hz.

    Source: Chowning 1973, "The synthesis of complex audio spectra by means of frequency modulation".
    """
    room = HIGHEST * sample_rate - carrier_hz
    modulator_hz = torch.minimum(ratio * carrier_hz, room / 2)
    return modulator_hz, torch.minimum(index, room / modulator_hz - 1)


def tilt(exponent: Tensor, bins: Bins) -> Tensor:
    """Compute gains (n, len(bins.hertz)) of noise with power f^-exponent, exponents (n, 1); flat below 50 Hz.

    0 is white, 1 pink (-3.01 dB an octave), 2 brown noise.
    """
    return (bins.hertz.clamp_min(TILT_CORNER_HZ) / TILT_CORNER_HZ) ** (-exponent / 2)
