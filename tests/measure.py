"""Measure sounds: peaks of spectra, autocorrelation, decay."""

import numpy as np
import torch

RATE = 16000
# Sounds drawn by the slow tests; VCRAST_SYNTH_DRAWS=1000000 takes the better part of an hour on one core.
NUM_DRAWS = 6_000
LOUDEST = 10 ** (-1 / 20)  # of the range of `level_db`
QUIETEST = 10 ** (-20 / 20)


def spectrum(wav):
    """(bins,) Hz and (bins,) magnitudes under a Hann window, zero-padded fourfold."""
    wav = np.asarray(wav, dtype=np.float64)
    size = 4 * len(wav)
    return np.fft.rfftfreq(size, 1 / RATE), np.abs(np.fft.rfft(wav * np.hanning(len(wav)), size))


def strongest_hz(wav, low=0.0, high=RATE / 2):
    """Frequency of the highest peak between two frequencies."""
    hertz, magnitude = spectrum(wav)
    inside = (hertz >= low) & (hertz <= high)
    return hertz[inside][magnitude[inside].argmax()]


def level_at(wav, hertz, width=4.0):
    """Largest magnitude near a frequency."""
    where, magnitude = spectrum(wav)
    return magnitude[np.abs(where - hertz) <= width].max()


def loudness(wav, window_s=0.01):
    """(frames,) root mean square in windows, and the number of windows a second."""
    size = round(window_s * RATE)
    wav = np.asarray(wav, dtype=np.float64)
    frames = wav[: len(wav) // size * size].reshape(-1, size)
    return np.sqrt((frames**2).mean(axis=1)), RATE / size


def repeats_hz(curve, frames_per_s, low, high):
    """Rate at which a curve repeats, from the highest peak of its autocorrelation between two rates."""
    curve = np.asarray(curve, dtype=np.float64) - np.mean(curve)
    count = len(curve)
    power = np.abs(np.fft.rfft(curve, 2 * count)) ** 2
    correlation = np.fft.irfft(power)[:count] / (count - np.arange(count))
    lags = np.arange(max(2, int(frames_per_s / high)), int(frames_per_s / low) + 2)
    best = lags[correlation[lags].argmax()]
    before, there, after = correlation[best - 1 : best + 2]
    # The top of a parabola through the three highest points.
    return frames_per_s / (best + 0.5 * (before - after) / (before - 2 * there + after))


def instantaneous_hz(wav):
    """(S - 1,) frequency of a single tone, from the phase of its analytic signal."""
    wav = torch.as_tensor(wav, dtype=torch.float64)
    turned = torch.fft.fft(wav)
    turned[1 : len(wav) // 2] *= 2
    turned[len(wav) // 2 + 1 :] = 0
    phase = np.unwrap(np.angle(torch.fft.ifft(turned).numpy()))
    return np.diff(phase) * RATE / (2 * np.pi)


def decay_60_s(wav):
    """Seconds in which the energy still to come falls by 60 dB, from its slope between -5 and -25 dB (Schroeder)."""
    wav = np.asarray(wav, dtype=np.float64)
    left = np.cumsum(wav[::-1] ** 2)[::-1]
    level = 10 * np.log10(left / left[0] + 1e-30)
    first, last = (level <= -5).argmax(), (level <= -25).argmax()
    return 60 / 20 * (last - first) / RATE


def assert_sounds(wavs):
    """(n, S): finite, at a level within the range, and sound rather than a click in silence."""
    assert torch.isfinite(wavs).all()
    peaks = wavs.abs().amax(dim=1)
    assert peaks.max() <= LOUDEST * (1 + 1e-5)
    assert peaks.min() >= QUIETEST * (1 - 1e-5)
    # A digital silence, a constant or a single sample that differs would pass the peak: their frames are empty.
    loudest = wavs.unfold(1, 400, 200).var(dim=2, correction=0).amax(dim=1).sqrt()
    assert (loudest / peaks).min() > 0.01
