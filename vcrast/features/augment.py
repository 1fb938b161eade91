"""Change the sound of views: pitch, filters, noise, rooms, polarity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vcrast.config.registry import check_options
from vcrast.features.draws import Draws

CHANGES = {
    "polarity": (),
    "pitch": ("pitch_semitones",),
    "high_pass": ("high_pass_hz",),
    "band_stop": ("band_stop_hz", "band_stop_width"),
    "noise": ("noise_snr_db",),
    "reverb": ("reverb_s", "reverb_direct_db"),
}
"""Every change with the options that say how strong it is."""
NEUTRAL = {
    "pitch_semitones": 0.0, "high_pass_hz": 0.0, "band_stop_width": 0.0, "noise_snr_db": math.inf,
    "reverb_direct_db": math.inf,
}  # fmt: skip
"""What a clip is given that a change leaves as it is."""
LOGARITHMIC = ("high_pass_hz", "band_stop_hz", "reverb_s")
"""Drawn so that every octave is equally likely."""
BLOCK_NUMBERS = 2**24  # of waveforms that are filtered at a time on a GPU: 64 MB, and some 8 times that while it runs
BLOCK_NUMBERS_CPU = 2**18  # the same on a core, see `vcrast.features.fbank.by_blocks`


def build_augment(options: Mapping[str, Any], *, sample_rate: int) -> Augment:
    """The changes that `views.augment` describes; an option missing, unknown or of another type is refused."""
    check_options("views.augment", Augment, options, given=["sample_rate"])
    return Augment(sample_rate=sample_rate, **options)


class Augment:
    """Changes of the sound: each comes to a clip with its probability, as strong as a draw from its range says.

    What is heard, in this order: the room, the high-pass and the band-stop, all as one product of spectra; white noise;
    polarity. `change_power` shifts the pitch later, in the spectrogram. Nothing restores a clip's level: the direct
    sound of a room and what a filter passes keep theirs, as with a real room and a real microphone, so that the
    log-mel values of what is not changed stay. The level is `views.gain_db`'s. The SNR of the noise is that to the clip
    as changed so far.

    The filters work on the spectrum of the whole clip, which is thus taken as circular, as `roll` and `stretch` take
    it, and have no phase. It is all computed in float32 whatever autocast says; float64 waveforms stay so.

    Args:
        sample_rate: of the waveforms, Hz.
        polarity_probability: of turning the waveform's sign, in [0, 1], as are all probabilities. A filterbank does not
            hear it; a front end of waveforms would.
        pitch_probability: of shifting the pitch.
        pitch_semitones: [lowest, highest] shift, within two octaves; the duration stays.
        high_pass_probability: of taking away what is low.
        high_pass_hz: [lowest, highest] frequency where 3 dB are lost, each octave equally likely.
        band_stop_probability: of taking away a band.
        band_stop_hz: [lowest, highest] centre, the geometric mean of the edges, each octave equally likely.
        band_stop_width: [lowest, highest] distance of the edges, where 3 dB are lost, as a share of the centre.
        filter_order: of both filters (Butterworth); each order makes the high-pass 6 dB an octave steeper.
        noise_probability: of adding white noise.
        noise_snr_db: [lowest, highest] level of the clip over it.
        reverb_probability: of hearing the clip in a room.
        reverb_s: [lowest, highest] time in which the echoes fall by 60 dB, each octave equally likely.
        reverb_direct_db: [lowest, highest] level of the direct sound over all echoes together.

    Raises:
        ValueError: an option out of its range, or one that could not take effect.

    Source: gain of Butterworth's filters; the room is the statistical model, Gaussian noise that decays exponentially
        (Moorer 1979, Computer Music Journal 3(2); Polack 1988), behind a direct sound.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        polarity_probability: float,
        pitch_probability: float,
        pitch_semitones: list[float],
        high_pass_probability: float,
        high_pass_hz: list[float],
        band_stop_probability: float,
        band_stop_hz: list[float],
        band_stop_width: list[float],
        filter_order: int,
        noise_probability: float,
        noise_snr_db: list[float],
        reverb_probability: float,
        reverb_s: list[float],
        reverb_direct_db: list[float],
    ) -> None:
        self.sample_rate, self.filter_order = sample_rate, filter_order
        self.probability = {
            "polarity": polarity_probability, "pitch": pitch_probability, "high_pass": high_pass_probability,
            "band_stop": band_stop_probability, "noise": noise_probability, "reverb": reverb_probability,
        }  # fmt: skip
        self.ranges = {
            "pitch_semitones": pair("augment.pitch_semitones", pitch_semitones, "-4, 4"),
            "high_pass_hz": pair("augment.high_pass_hz", high_pass_hz, "20, 2400"),
            "band_stop_hz": pair("augment.band_stop_hz", band_stop_hz, "200, 3500"),
            "band_stop_width": pair("augment.band_stop_width", band_stop_width, "0.5, 1.5"),
            "noise_snr_db": pair("augment.noise_snr_db", noise_snr_db, "5, 40"),
            "reverb_s": pair("augment.reverb_s", reverb_s, "0.1, 1"),
            "reverb_direct_db": pair("augment.reverb_direct_db", reverb_direct_db, "0, 15"),
        }
        self._check()

    def _check(self) -> None:
        for name, probability in self.probability.items():
            if not 0 <= probability <= 1:
                raise ValueError(
                    f"views.augment.{name}_probability={probability}: must lie in [0, 1]; 0 switches it off"
                )
        for key in ("high_pass_hz", "band_stop_hz", "band_stop_width", "reverb_s"):
            if self.ranges[key][0] <= 0:
                raise ValueError(f"views.augment.{key}={list(self.ranges[key])}: must be above 0")
        if self.filter_order < 1:
            raise ValueError(
                f"views.augment.filter_order={self.filter_order}: must be at least 1; 4 is 24 dB an octave"
            )
        low, high = self.ranges["pitch_semitones"]
        if not -24 <= low <= high <= 24:
            raise ValueError(f"views.augment.pitch_semitones={[low, high]}: must lie within two octaves, [-24, 24]")
        if self.probability["pitch"] > 0 and low == high == 0:
            raise ValueError(
                "views.augment.pitch_semitones=[0, 0]: changes nothing; pitch_probability=0 switches it off"
            )
        half = self.sample_rate / 2
        for name, key in (("high_pass", "high_pass_hz"), ("band_stop", "band_stop_hz")):
            if self.probability[name] > 0 and self.ranges[key][1] >= half:
                raise ValueError(
                    f"views.augment.{key}={list(self.ranges[key])}: must stay below {half:g} Hz, half of "
                    f"data.sample_rate={self.sample_rate}"
                )

    def strengths(self, draws: Draws, view: str, changes: Iterable[str] = CHANGES) -> dict[str, Tensor]:
        """What is drawn for each clip, (b,) under the name of the option, of those changes that are not switched off.

        `polarity` is 1 or -1. A clip that a change leaves as it is has the number of `NEUTRAL` there.
        """
        found: dict[str, Tensor] = {}
        for name in changes:
            if self.probability[name] == 0:
                continue
            chosen = draws.uniform(f"{view}/augment/{name}") < self.probability[name]
            if name == "polarity":
                found[name] = 1.0 - 2.0 * chosen
            for key in CHANGES[name]:
                low, high = self.ranges[key]
                if key in LOGARITHMIC:
                    number = draws.uniform(f"{view}/augment/{key}", low=math.log(low), high=math.log(high)).exp()
                else:
                    number = draws.uniform(f"{view}/augment/{key}", low=low, high=high)
                found[key] = torch.where(chosen, number, NEUTRAL[key]) if key in NEUTRAL else number
        return found

    def change_wavs(self, wavs: Tensor, draws: Draws, view: str) -> Tensor:
        """(B, S) waveforms with all changes but that of the pitch; silence stays silent, noise needs a sound."""
        strengths = self.strengths(draws, view, [name for name in CHANGES if name != "pitch"])
        if not strengths:
            return wavs
        shared = {}
        for name in ("noise", "reverb"):
            if self.probability[name] > 0:
                # Drawn once and read at random places: numbers are drawn on the CPU, at 10 ns each.
                shared[name] = draws.shared_normal(f"{view}/augment/shared_{name}", wavs.shape[1])
                strengths[name] = draws.integers(f"{view}/augment/place_{name}", 2 * wavs.shape[1])
        budget = BLOCK_NUMBERS if wavs.is_cuda else BLOCK_NUMBERS_CPU * torch.get_num_threads()
        size = max(1, budget // wavs.shape[1])
        with torch.autocast(wavs.device.type, enabled=False):
            wavs = wavs.to(torch.promote_types(wavs.dtype, torch.float32))
            blocks = [
                self._changed(block, {key: each[first : first + size] for key, each in strengths.items()}, shared)
                for first, block in zip(range(0, len(wavs), size), wavs.split(size), strict=True)
            ]
            return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def _changed(self, wavs: Tensor, strengths: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Tensor:
        num_samples = wavs.shape[1]
        hertz = (
            self.sample_rate / num_samples * torch.arange(num_samples // 2 + 1, device=wavs.device, dtype=wavs.dtype)
        )
        gains = []
        if "high_pass_hz" in strengths:
            gains.append(high_pass(hertz, strengths["high_pass_hz"], self.filter_order))
        if "band_stop_hz" in strengths:
            gains.append(band_stop(hertz, strengths["band_stop_hz"], strengths["band_stop_width"], self.filter_order))
        if "reverb" in strengths:
            length = min(num_samples - 1, math.ceil(self.ranges["reverb_s"][1] * self.sample_rate))
            noise = part_of(shared["reverb"].to(wavs.dtype), strengths["reverb"], length)
            tail = echoes(noise, strengths["reverb_s"], strengths["reverb_direct_db"], self.sample_rate)
            gains.append(1 + torch.fft.rfft(functional.pad(tail, (1, 0)), n=num_samples))
        if gains:
            wavs = torch.fft.irfft(torch.fft.rfft(wavs) * math.prod(gains[1:], start=gains[0]), n=num_samples)
        if "noise" in strengths:
            noise = part_of(shared["noise"].to(wavs.dtype), strengths["noise"], num_samples)
            wavs = mix_at_snr(wavs, noise, strengths["noise_snr_db"])
        return wavs * strengths["polarity"].unsqueeze(1) if "polarity" in strengths else wavs

    def change_power(self, power: Tensor, draws: Draws, view: str) -> Tensor:
        """(B, T, bins) power spectra with the pitch shifted, see `shift_pitch`."""
        if self.probability["pitch"] == 0:
            return power
        return shift_pitch(power, 2 ** (self.strengths(draws, view, ["pitch"])["pitch_semitones"] / 12))


def high_pass(hertz: Tensor, cutoff_hz: Tensor, order: int) -> Tensor:
    """Butterworth's gain (B, bins) of amplitudes at `hertz` (bins,), for cutoffs (B,); 0 Hz lets everything pass."""
    ratio = cutoff_hz.unsqueeze(1) / hertz.clamp_min(1e-6)
    return (1 + ratio ** (2 * order)).rsqrt()


def band_stop(hertz: Tensor, centre_hz: Tensor, width: Tensor, order: int) -> Tensor:
    """Butterworth's gain (B, bins) at `hertz` (bins,): 0 at the centre, -3 dB at edges `width` times that apart.

    Where the width is 0, everything passes.
    """
    centre_hz, width = centre_hz.unsqueeze(1), width.unsqueeze(1)
    # Of the analogue filter: |H|^2 = 1 / (1 + (f w / (f^2 - f0^2))^2n), infinite in the denominator at the centre.
    ratio = hertz * (width * centre_hz) / (hertz.square() - centre_hz.square())
    return torch.where(width > 0, (1 + ratio.square() ** order).rsqrt(), 1.0)


def echoes(noise: Tensor, reverb_s: Tensor, direct_db: Tensor, sample_rate: int) -> Tensor:
    """The response of a room behind the direct sound, which is 1: decaying noise from one sample later on.

    Args:
        noise: (B, L) white; later echoes are left out.
        reverb_s: (B,) time in which the echoes fall by 60 dB.
        direct_db: (B,) energy of the direct sound over theirs; inf gives none.
        sample_rate: Hz.
    """
    seconds = torch.arange(1, noise.shape[1] + 1, device=noise.device, dtype=noise.dtype) / sample_rate
    decaying = noise * (-3 * math.log(10) / reverb_s.unsqueeze(1) * seconds).exp()
    energy = decaying.square().sum(dim=1).clamp_min(1e-20)
    return decaying * (10 ** (-direct_db / 20) * energy.rsqrt()).unsqueeze(1)


def part_of(noise: Tensor, place: Tensor, length: int) -> Tensor:
    """(B, length): for each clip a part of `noise` (n,), taken as a circle; a place (B,) in [n, 2n) turns the sign."""
    parts = torch.cat([noise, noise[: length - 1]]).unfold(0, length, 1)
    sign = 1 - 2 * (place // len(noise)).to(noise.dtype)
    return parts[place % len(noise)] * sign.unsqueeze(1)


def shift_pitch(power: Tensor, ratios: Tensor) -> Tensor:
    """(B, T, bins) power spectra with every frequency multiplied by `ratios` (B,), durations unchanged.

    Bin k of the result is the magnitude at bin k / ratio, interpolated linearly between the two nearest, 0 above the
    last one; its power is divided by the ratio, since a line becomes wider by it, so that the energy stays. Only the
    magnitude is changed: a log-mel front end hears nothing else, and there is no waveform that belongs to the result.
    Formants and the front end's pre-emphasis move along.
    """
    last = power.shape[2] - 1
    bins = torch.arange(last + 1, device=power.device) / ratios.unsqueeze(1)  # (B, bins)
    before = bins.long().clamp(max=last)
    fraction = (bins - before).unsqueeze(1).to(power.dtype)
    magnitude = power.sqrt()
    lower, upper = (
        magnitude.gather(2, place.unsqueeze(1).expand_as(power)) for place in (before, (before + 1).clamp(max=last))
    )
    shifted = torch.lerp(lower, upper, fraction).square() / ratios.reshape(-1, 1, 1)
    return shifted.masked_fill((bins > last).unsqueeze(1), 0.0)


def mix_at_snr(wavs: Tensor, background: Tensor, snr_db: Tensor) -> Tensor:
    """(B, S) waveforms plus a background scaled so that 10 log10 of the power ratio is (B,) `snr_db`; inf adds none.

    Power is the variance, since the filterbank ignores an offset. A silent clip stays silent, a silent background adds
    nothing.
    """
    background = background - background.mean(dim=1, keepdim=True)
    clip_power = wavs.var(dim=1, correction=0)
    background_power = background.square().mean(dim=1).clamp_min(1e-20)  # -200 dB
    scale = (clip_power / background_power).sqrt() * 10 ** (-snr_db / 20)
    return wavs + scale.unsqueeze(1) * background


def pair(key: str, value: list[float], example: str) -> tuple[float, float]:
    """[lowest, highest] of the option `key` of the views as two numbers.

    Raises:
        ValueError: not two, or not in this order.
    """
    if len(value) != 2 or value[0] > value[1]:
        raise ValueError(f"views.{key}={list(value)}: give [lowest, highest], for instance [{example}]")
    return float(value[0]), float(value[1])
