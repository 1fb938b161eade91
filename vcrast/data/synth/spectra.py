"""Filter in the frequency domain: coloured noise, equaliser, formants, reverberation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vcrast.data.synth.control import Grid, join_lines
from vcrast.data.synth.space import decibels

EQUALISER_POINTS = 16
EQUALISER_LOW_HZ = 50.0
QUIETEST = 0.01  # gain at the foot of formants: 40 dB below their peak, as in a voice
TAIL_S = 0.5  # length of the response of body and room
GAIN_STEP_HZ = 16.0  # gains are computed this far apart, at most, and joined by straight lines


def fast_length(num_samples: int) -> int:
    """Return the smallest even length from `num_samples` up without a prime factor above 5: fast for every FFT."""
    length = num_samples + num_samples % 2
    while _rest(length) != 1:
        length += 2
    return length


def _rest(number: int) -> int:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number


class Bins:
    """FFT bins of a noise, and those, `hop` apart, at which its gains are computed.

    Args:
        num_samples: of the noise.
        sample_rate: Hz.
        device: of the frequencies.
    """

    def __init__(self, num_samples: int, sample_rate: int, device: torch.device) -> None:
        self.length = fast_length(num_samples)
        self.size = self.length // 2 + 1
        width_hz = sample_rate / self.length
        self.hop = max(1, int(GAIN_STEP_HZ / width_hz))
        # Of the last one, which may lie past half the sample rate, only the way to it is used.
        self.hertz = torch.arange(-(-(self.size - 1) // self.hop) + 1, device=device) * (self.hop * width_hz)
        self.top_hz = sample_rate / 2

    @classmethod
    def of(cls, grid: Grid) -> Bins:
        """The bins of noise that fills a clip."""
        return cls(grid.num_samples, grid.sample_rate, grid.device)

    def upsample(self, gain: Tensor) -> Tensor:
        """Interpolate gains linearly, (n, len(hertz)) -> (n, size)."""
        ramp = torch.arange(self.hop, device=gain.device) / self.hop
        return torch.cat([join_lines(gain, ramp), gain[:, -1:]], dim=1)[:, : self.size]


def mix_noise(first: Tensor, second: Tensor, distance: float) -> Tensor:
    """Mix noise (any shape) at a distance: first cos(a) + second sin(a), a = min(1, distance) pi / 2.

    At 0 it is the first, from 1 on the second, equally loud in between; its correlation with the first is cos(a).
    """
    if distance >= 1:
        return second
    angle = distance * math.pi / 2
    return first * math.cos(angle) + second * math.sin(angle)


def coloured(spectrum: Tensor, gain: Tensor, bins: Bins, num_samples: int) -> Tensor:
    """Filter white noise by gains; expected mean square 1.

    Args:
        spectrum: (n, bins.size) complex, real and imaginary parts standard normal.
        gain: (n, len(bins.hertz)).
        bins: frequencies.
        num_samples: S.

    Returns:
        (n, S).
    """
    gain = bins.upsample(gain)
    # irfft divides by the length, and each bin but two stands for itself and its mirror image: the power of the result
    # is 4 sum(gain^2) / length^2.
    gain = gain * (bins.length / 2 / gain.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12))
    return torch.fft.irfft(spectrum * gain, n=bins.length)[:, :num_samples]


def equaliser(points_db: Tensor, bins: Bins) -> Tensor:
    """Compute gains (n, len(bins.hertz)) of 16 levels in dB, linear in dB over mel, from 50 Hz to half the rate.

    The points are evenly spaced on mel = 1127 ln(1 + f / 700); below 50 Hz the first one holds, above the top the last.
    """
    low, high = math.log1p(EQUALISER_LOW_HZ / 700.0), math.log1p(bins.top_hz / 700.0)
    place = (torch.log1p(bins.hertz / 700.0) - low) / (high - low) * (EQUALISER_POINTS - 1)
    number = torch.arange(EQUALISER_POINTS, device=bins.hertz.device).unsqueeze(1)
    hats = (1 - (place.clamp(0, EQUALISER_POINTS - 1) - number).abs()).clamp_min(0.0)  # (16, bins)
    return decibels(points_db @ hats)


def sloped(hertz: Tensor, db_per_octave: Tensor) -> Tensor:
    """Compute gains (n, bins) of a power law above 50 Hz, flat below: -3 dB per octave makes pink noise, -6 brown."""
    octaves = (hertz / EQUALISER_LOW_HZ).clamp_min(1.0).log2()
    return decibels(db_per_octave * octaves)


def resonance_gain(hertz: Tensor, centre_hz: Tensor, bandwidth_hz: Tensor) -> Tensor:
    """Compute the magnitude (n, bins) of a resonance of unit peak, bandwidth between its half-power points."""
    return 1 / torch.sqrt(1 + (2 * (hertz - centre_hz) / bandwidth_hz).square())


def formants(hertz: Tensor, centres_hz: Tensor, width_hz: Tensor, share: Tensor) -> Tensor:
    """Compute the gain of formants: 1 - share + share max(0.01, sum over i = 0, 1, 2 of 2 ** -i R((f - F_i) / width)).

    R(x) = 1 / sqrt(1 + (2 x)^2) is a resonance of unit peak.

    Args:
        hertz: (bins,) or (n, bins).
        centres_hz: (n, 3) F_i.
        width_hz: (n, 1) between half-power points.
        share: (n, 1) in [0, 1]; 0 is flat.

    Returns:
        (n, bins).
    """
    total = sum(2.0**-i * resonance_gain(hertz, centres_hz[:, i : i + 1], width_hz) for i in range(centres_hz.shape[1]))
    assert isinstance(total, Tensor)
    return 1 - share + share * total.clamp_min(QUIETEST)


def body_ringing(modes_hz: Tensor, decay_s: Tensor, num_samples: int, sample_rate: int) -> Tensor:
    """Compute a body's impulse response (n, tail): mean over m of 2 / (decay rate) exp(-t / decay) cos(2 pi f_m t).

    As a filter it has gain about 1 / m at each mode, and half that power 1 / (2 pi decay) Hz to either side.

    Args:
        modes_hz: (n, m).
        decay_s: (n, 1).
        num_samples: of the response.
        sample_rate: Hz.
    """
    time_s = torch.arange(num_samples, device=modes_hz.device) / sample_rate
    turns = (modes_hz.unsqueeze(2) * time_s).frac_()  # the largest tensor of a short sound: changed in place
    waves = turns.mul_(math.tau).cos_().mean(dim=1)
    return waves * torch.exp(-time_s / decay_s) * (2 / (decay_s * sample_rate))


def room_echoes(noise: Tensor, decay_s: Tensor, sample_rate: int) -> Tensor:
    """Shape normal noise (n, tail) to echoes (n, tail) of energy 1 that fall by 60 dB in `decay_s` (n, 1) seconds."""
    time_s = torch.arange(noise.shape[1], device=noise.device) / sample_rate
    echoes = noise * torch.exp(-math.log(1000) * time_s / decay_s)
    return echoes / echoes.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)


def convolved(wave: Tensor, response: Tensor) -> Tensor:
    """Convolve waves (n, S) with impulse responses (n, tail), cut off at the clip's end; (n, S)."""
    num_samples = wave.shape[1]
    length = fast_length(num_samples + response.shape[1])
    spectrum = torch.fft.rfft(wave, n=length) * torch.fft.rfft(response, n=length)
    return torch.fft.irfft(spectrum, n=length)[:, :num_samples]
