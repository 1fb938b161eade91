"""Log-mel filterbank of the Audio Spectrogram Transformer, batched and differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.compliance.kaldi import get_mel_banks

from vcrast.config.registry import check_options
from vcrast.config.words import suggest
from vcrast.features.channels import NUM_CHANNELS, quaternion_channels

WINDOWS = {"hann": 1.0, "povey": 0.85}
"""Powers of Hann's window."""
BLOCK_NUMBERS = 2**18  # of frames that a core works on at a time: 1 MB, what its second-level cache holds


def build_fbank(
    options: Mapping[str, Any], *, sample_rate: int, mean: float | None = None, std: float | None = None
) -> Fbank:
    """The front end that `features=...` describes; an option that is missing, unknown or of another type is refused."""
    check_options("features", Fbank, options, given=["sample_rate", "mean", "std"])
    return Fbank(**options, sample_rate=sample_rate, mean=mean, std=std)


class Fbank(nn.Module):
    """(B, S) waveforms -> (B, T, F) normalised natural-log mel energies, as Kaldi computes them.

    The clip's mean is subtracted; then per frame: mean removed, pre-emphasis, symmetric window, power spectrum of
    the next power of two, triangular filters on the HTK mel scale, natural log floored at float32 epsilon (-15.94).
    A frame that does not fit entirely into the clip is left out (`snip_edges`).

    It computes in float32 whatever autocast says, because squared spectra leave the range of float16; in float64 if
    the module has been converted to float64.

    Args:
        sample_rate: of the waveforms, Hz.
        name: `fbank`, or `quaternion`, which adds three channels: `forward` then gives (B, 4, T, F).
        num_mel_bins: F.
        window_ms: length of a frame.
        window: `hann`, or `povey`, Kaldi's own: Hann's to the power of 0.85.
        frame_shift_ms: between the starts of two frames.
        low_freq_hz: lower edge of the first filter.
        high_freq_hz: upper edge of the last one; 0 or less is counted from the Nyquist frequency.
        preemphasis: x[n] - preemphasis * x[n - 1], in [0, 1].
        mean: of the data's log-mel energies; None leaves the energies as they are.
        std: likewise; the result is (x - mean) / (2 std).

    Raises:
        ValueError: an option out of its range.

    Source: Gong et al. 2021, arXiv:2104.01778, Sec. 2.1; the paper says Hamming window, its code uses Hann; so do we.
        Equals torchaudio.compliance.kaldi.fbank(htk_compat=True, use_energy=False, window_type="hanning", dither=0).
    """

    window: Tensor
    mel: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        name: str,
        num_mel_bins: int,
        window_ms: float,
        window: str,
        frame_shift_ms: float,
        low_freq_hz: float,
        high_freq_hz: float,
        preemphasis: float,
        mean: float | None = None,
        std: float | None = None,
    ) -> None:
        super().__init__()
        if name not in NUM_CHANNELS:
            raise ValueError(f"features.name={name}: no such front end; {suggest(name, NUM_CHANNELS)}")
        if window not in WINDOWS:
            raise ValueError(f"features.window={window}: {suggest(window, WINDOWS)}")
        self.name, self.num_channels = name, NUM_CHANNELS[name]
        top_hz = high_freq_hz if high_freq_hz > 0 else sample_rate / 2 + high_freq_hz
        # Multiplied in Kaldi's order and cut, not rounded: 25 ms at 22,050 Hz are 551 samples.
        self.window_samples = int(sample_rate * window_ms * 0.001)
        self.shift_samples = int(sample_rate * frame_shift_ms * 0.001)
        self.sample_rate, self.num_mel_bins, self.preemphasis = sample_rate, num_mel_bins, preemphasis
        self.mean, self.std, self.band_hz = mean, std, (low_freq_hz, top_hz)
        self._check(window_ms, frame_shift_ms, low_freq_hz, high_freq_hz, top_hz)
        self.n_fft = 1 << (self.window_samples - 1).bit_length()
        # Not persistent: a checkpoint should hold what was learnt, and the options rebuild these.
        hann = torch.hann_window(self.window_samples, periodic=False)
        self.register_buffer("window", hann ** WINDOWS[window], persistent=False)
        # 100 and -500 Hz: torchaudio's limits of vocal tract warping, which factor 1.0 switches off.
        filters, _ = get_mel_banks(num_mel_bins, self.n_fft, sample_rate, low_freq_hz, top_hz, 100.0, -500.0, 1.0)
        filters = functional.pad(filters, (0, 1))  # the Nyquist bin belongs to no filter
        self.register_buffer("mel", filters, persistent=False)

    def _check(self, window_ms: float, shift_ms: float, low_hz: float, high_hz: float, top_hz: float) -> None:
        rate = self.sample_rate
        if self.window_samples < 2:
            raise ValueError(f"features.window_ms={window_ms}: shorter than 2 samples at {rate} Hz; set about 25")
        if self.shift_samples < 1:
            raise ValueError(f"features.frame_shift_ms={shift_ms}: shorter than a sample at {rate} Hz; set about 10")
        if self.num_mel_bins < 4:
            raise ValueError(f"features.num_mel_bins={self.num_mel_bins}: must be at least 4; the usual value is 128")
        if not 0 <= low_hz < top_hz <= rate / 2:
            raise ValueError(
                f"features.low_freq_hz={low_hz}, features.high_freq_hz={high_hz}: need 0 <= low < high <= {rate / 2} "
                "Hz, half the sample rate; high_freq_hz=0 means that half"
            )
        if not 0 <= self.preemphasis <= 1:
            raise ValueError(f"features.preemphasis={self.preemphasis}: must lie in [0, 1]; Kaldi's value is 0.97")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"data.mean={self.mean}, data.std={self.std}: set both, or neither to have them measured")
        if self.std is not None and not self.std > 0:
            raise ValueError(
                f"data.std={self.std}: must be above 0; set data.mean and data.std to null to measure them"
            )

    @property
    def centres_hz(self) -> list[float]:
        """Hz where each of the F filters peaks, on the HTK mel scale."""
        low, high = (math.log1p(hz / 700) for hz in self.band_hz)
        step = (high - low) / (self.num_mel_bins + 1)
        return [700 * math.expm1(low + number * step) for number in range(1, self.num_mel_bins + 1)]

    @property
    def empty_filters(self) -> list[int]:
        """The mel filters, from 0, that lie between two FFT bins: they read the log floor, whatever is heard."""
        return (self.mel.sum(dim=1) == 0).nonzero().flatten().tolist()

    def num_frames(self, num_samples: int) -> int:
        """T of a clip of `num_samples` samples.

        Raises:
            ValueError: the clip is shorter than one window.
        """
        if num_samples < self.window_samples:
            raise ValueError(
                f"a clip of {num_samples} samples is shorter than one window of {self.window_samples} samples at "
                f"{self.sample_rate} Hz; use longer clips (data.clip_duration_s) or a shorter features.window_ms"
            )
        return 1 + (num_samples - self.window_samples) // self.shift_samples

    def power(self, wavs: Tensor) -> Tensor:
        """(B, S) waveforms in [-1, 1] -> (B, T, n_fft // 2 + 1) power spectra.

        Raises:
            ValueError: not two axes, or shorter than one window.
        """
        if wavs.ndim != 2:
            raise ValueError(f"expected a batch of mono waveforms (B, S), got shape {tuple(wavs.shape)}")
        self.num_frames(wavs.shape[1])
        with torch.autocast(wavs.device.type, enabled=False):
            wavs = wavs.to(self.window.dtype)
            wavs = wavs - wavs.mean(dim=1, keepdim=True)
            return by_blocks(self._spectra, wavs.unfold(1, self.window_samples, self.shift_samples))

    def _spectra(self, frames: Tensor) -> Tensor:
        """(B, T, window) -> (B, T, n_fft // 2 + 1); a frame does not depend on its neighbours."""
        frames = frames - frames.mean(dim=2, keepdim=True)
        # Kaldi repeats a frame's first sample before it.
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
        frames = (frames - self.preemphasis * before) * self.window
        spectra = torch.fft.rfft(frames, n=self.n_fft)
        return spectra.real.square() + spectra.imag.square()

    def log_mel(self, power: Tensor) -> Tensor:
        """(B, T, n_fft // 2 + 1) power spectra -> (B, T, F) natural-log mel energies, not normalised.

        Narrow filters may lie between two FFT bins and stay empty, see `empty_filters`: one of the AST's 128 at 16 kHz.
        """
        with torch.autocast(power.device.type, enabled=False):
            return by_blocks(self._energies, power.to(self.mel.dtype))

    def _energies(self, power: Tensor) -> Tensor:
        energies = functional.linear(power, self.mel)
        return energies.clamp_min(torch.finfo(torch.float32).eps).log()

    def normalize(self, fbank: Tensor) -> Tensor:
        """(x - mean) / (2 std); the factor 2 is the AST's, which puts most values within +-0.5."""
        if self.mean is None or self.std is None:
            return fbank
        return (fbank - self.mean) / (2 * self.std)

    def channels(self, fbank: Tensor) -> Tensor:
        """What the encoder is given: (B, T, F) normalised as it is, or (B, 4, T, F) under `features=quaternion`."""
        if self.name == "fbank":
            return fbank
        return quaternion_channels(fbank, 1.0 if self.std is None else 2 * self.std)

    def forward(self, wavs: Tensor) -> Tensor:
        """(B, S) waveforms -> (B, T, F) normalised filterbanks, or (B, 4, T, F)."""
        return self.channels(self.normalize(self.log_mel(self.power(wavs))))

    def zero_filled(self, wavs: Tensor) -> Tensor:
        """As `forward`, of sounds (B, S) that may be shorter than S: NaN behind their end.

        Frames that are not wholly of the sound are 0 before normalisation, which is louder than the average: so the AST
        fills short clips, and what its authors published learnt with that.
        """
        lengths = (~wavs.isnan()).sum(dim=1)
        fbank = self.log_mel(self.power(wavs.nan_to_num()))
        whole = (lengths - self.window_samples).div(self.shift_samples, rounding_mode="floor") + 1
        behind = torch.arange(fbank.shape[1], device=fbank.device) >= whole.unsqueeze(1)
        return self.channels(self.normalize(fbank.masked_fill(behind.unsqueeze(2), 0.0)))


def by_blocks(work: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """`work` on (B, T, n) a few clips at a time on a CPU, at once elsewhere; each clip's result is the same.

    What a whole batch holds between two operations is tens of MB, fetched from memory and handed back by the allocator
    each time; a few clips stay in the cache: 2 to 4 times as many clips a second.
    """
    if frames.is_cuda:
        return work(frames)
    size = max(1, BLOCK_NUMBERS * torch.get_num_threads() // frames[0].numel())
    blocks = frames.split(size)
    return work(frames) if len(blocks) == 1 else torch.cat([work(block) for block in blocks])
