"""Read sound files: decode, bring to full scale, mix down to mono, resample, check."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import soxr

from vcrast.data import ffmpeg, sndfile
from vcrast.data.full_scale import full_scale, limit
from vcrast.data.sndfile import BLOCK_FRAMES
from vcrast.data.stretch import AudioFault, Stretch, UnknownFormat, mix_down

__all__ = [
    "BLOCK_FRAMES", "MEMBERS", "READERS", "SILENCE", "SUFFIXES", "AudioFault", "Decoded", "Readers", "add_readers",
    "explain_suffixes", "header", "is_address", "is_generated", "mix_down", "read_scaled", "read_wav", "readers",
    "resample", "sound_suffixes",
]  # fmt: skip

# scheme -> function(path, sample_rate) -> (S,) float32: paths such as "synth://..." are generated, not read.
READERS: dict[str, Callable[[str, int], np.ndarray]] = {}
# scheme -> function(path) that opens a sound inside a larger file, such as "tar://...", see `vcrast.data.members`.
MEMBERS: dict[str, Callable[[str], sndfile.Opener]] = {}


class Readers(NamedTuple):
    """`READERS` and `MEMBERS`: a fresh process has not imported what fills them."""

    generated: dict[str, Callable[[str, int], np.ndarray]]
    members: dict[str, Callable[[str], sndfile.Opener]]


def readers() -> Readers:
    """Return both tables, to send to another process."""
    return Readers(dict(READERS), dict(MEMBERS))


def add_readers(others: Readers) -> None:
    """Take over another process's tables."""
    READERS.update(others.generated)
    MEMBERS.update(others.members)


SUFFIXES = sndfile.SUFFIXES
"""Kinds of files that libsndfile reads; `sound_suffixes` adds what ffmpeg does."""

# A peak below half a step of 16-bit audio is silence, also when dither or an mp3 decoder left something there.
SILENCE = 2.0**-16


class Decoded(NamedTuple):
    """Mono samples (S,) at a rate in Hz, and the full scale that they were divided by."""

    wav: np.ndarray
    rate: float
    scale: float


def read_wav(
    path: str,
    *,
    sample_rate: int,
    start_s: float = 0.0,
    duration_s: float | None = None,
    keep_silent: bool = False,
    time_expansion: float = 1.0,
) -> np.ndarray:
    """Decode one clip as mono at `sample_rate`.

    All channels are averaged: taking the first would lose recordings with a silent left channel. Float files with
    samples beyond 1 are divided by their full scale (`full_scale`), that of the whole file whatever part is read; what
    a decoder or the resampler puts beyond 1 is clipped. Training, evaluation and prediction read through here, so they
    hear the same.

    Args:
        path: of a file that libsndfile reads (wav, flac, ogg, opus, mp3, aiff, ...) or, where it is installed, ffmpeg
            (m4a, mp4, webm, wma, ...); or `scheme://` of `READERS`.
        sample_rate: wanted, Hz; other rates are resampled (soxr HQ).
        start_s: first second to read.
        duration_s: how much to read; None is up to the end. Less is returned where the file ends earlier.
        keep_silent: digital silence is a sound like any other, not a fault.
        time_expansion: how many times slower than it was recorded the file is. Its rate counts times that; start and
            duration are in seconds of the recording.

    Returns:
        (S,) float32 in [-1, 1], S at least 1.

    Raises:
        AudioFault: missing, undecodable, empty, shorter than its header says, silent, or with NaN or infinite samples.
    """
    return read_scaled(
        path, sample_rate=sample_rate, start_s=start_s, duration_s=duration_s, keep_silent=keep_silent,
        time_expansion=time_expansion,
    ).wav  # fmt: skip


def read_scaled(
    path: str,
    *,
    sample_rate: int,
    start_s: float = 0.0,
    duration_s: float | None = None,
    keep_silent: bool = False,
    time_expansion: float = 1.0,
) -> Decoded:
    """`read_wav`, with what the samples were divided by."""
    if is_generated(path):
        wav = _cut(_reader(path)(path, sample_rate), path, sample_rate, start_s, duration_s)
        decoded = Decoded(wav, sample_rate, 1.0)
    else:
        decoded = _decode(path, start_s, duration_s, time_expansion)
    peak = _check(path, decoded.wav, keep_silent)
    wav = np.ascontiguousarray(resample(decoded.wav, decoded.rate, sample_rate), dtype=np.float32)
    inside = decoded.rate == sample_rate and peak <= 1.0
    return Decoded(wav if inside else limit(wav), sample_rate, decoded.scale)


def sound_suffixes() -> tuple[str, ...]:
    """Endings of the files that are decoded on this machine, in lower case."""
    return SUFFIXES + (ffmpeg.SUFFIXES if ffmpeg.decoder() else ())


def explain_suffixes(suffixes: Iterable[str]) -> str:
    """What to do about files of kinds that are not decoded here."""
    known = [suffix for suffix in suffixes if suffix in ffmpeg.SUFFIXES]
    if known and not ffmpeg.decoder():
        return f"{known[0]} {ffmpeg.INSTALL}"
    return f"convert them, for instance: ffmpeg -i IN{min(suffixes)} OUT.flac"


def resample(wav: np.ndarray, from_rate: float, to_rate: float) -> np.ndarray:
    """Resample (S,) from `from_rate` to `to_rate` Hz by soxr HQ; at least one sample is left."""
    if from_rate == to_rate:
        return wav
    if not round(len(wav) * to_rate / from_rate):
        # One sample at 44.1 kHz rounds to none at 16 kHz; a clip is padded later, but it is never empty.
        return wav[:1]
    resampled: np.ndarray = soxr.resample(wav, from_rate, to_rate, quality="HQ")
    return resampled


def is_address(path: str) -> bool:
    """Tell whether `path` names a generated sound, or one inside a larger file, rather than a file."""
    return "://" in path


def is_generated(path: str) -> bool:
    """Tell whether `path` names a generated sound rather than bytes somewhere."""
    return is_address(path) and path.split("://", 1)[0] not in MEMBERS


def header(path: str, time_expansion: float = 1.0) -> tuple[float, int]:
    """Read the sample rate in Hz, times `time_expansion`, and the length in samples, without decoding.

    Raises:
        AudioFault: missing, empty, or not a sound file.
    """
    rate, frames = _header(path)
    return rate * time_expansion, frames


def _header(path: str) -> tuple[int, int]:
    if is_address(path):
        return sndfile.header(path, MEMBERS[path.split("://", 1)[0]](path))
    if _is_ffmpegs(path):
        return ffmpeg.header(path)
    try:
        return sndfile.header(path)
    except UnknownFormat as fault:
        if not _may_be_ffmpegs(fault):
            raise
    return ffmpeg.header(path)


def _reader(path: str) -> Callable[[str, int], np.ndarray]:
    scheme = path.split("://", 1)[0]
    if scheme not in READERS:
        raise AudioFault(path, f"no reader for {scheme}://; known: {', '.join(sorted(READERS)) or 'none'}")
    return READERS[scheme]


def _cut(wav: np.ndarray, path: str, rate: int, start_s: float, duration_s: float | None) -> np.ndarray:
    start = round(start_s * rate)
    if start and start >= len(wav):
        raise AudioFault(path, f"starts at {start_s:g} s, but the sound has {len(wav) / rate:.3f} s")
    return wav[start : None if duration_s is None else start + round(duration_s * rate)]


def _is_ffmpegs(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in ffmpeg.SUFFIXES


def _may_be_ffmpegs(fault: UnknownFormat) -> bool:
    """Tell whether ffmpeg may read what libsndfile refused: an m4a called .wav, a FLAC of unknown length."""
    return ffmpeg.is_known(fault.path) or (fault.reason == sndfile.NO_LENGTH and ffmpeg.decoder() is not None)


def _decode(path: str, start_s: float, duration_s: float | None, time_expansion: float) -> Decoded:
    """Decode a stretch of a file and divide it by the full scale that holds the peak of the whole file."""
    stretch = _stretch(path, start_s * time_expansion, None if duration_s is None else duration_s * time_expansion)
    rate = stretch.sample_rate * time_expansion
    if stretch.peak is None:
        return Decoded(stretch.wav, rate, 1.0)
    try:
        scale = full_scale(stretch.peak)
    except ValueError as error:
        raise AudioFault(path, str(error)) from None
    wav = stretch.wav if scale == 1.0 else stretch.wav / np.float32(scale)
    return Decoded(wav, rate, scale)


def _stretch(path: str, start_s: float, duration_s: float | None) -> Stretch:
    if is_address(path):
        return sndfile.read(path, start_s, duration_s, MEMBERS[path.split("://", 1)[0]](path))
    if _is_ffmpegs(path):
        return ffmpeg.read(path, start_s, duration_s)
    try:
        return sndfile.read(path, start_s, duration_s)
    except UnknownFormat as fault:
        if not _may_be_ffmpegs(fault):
            raise
    return ffmpeg.read(path, start_s, duration_s)


def _check(path: str, wav: np.ndarray, keep_silent: bool) -> float:
    """Refuse what nobody should train on; returns the largest absolute value."""
    if not len(wav):
        raise AudioFault(path, "no samples")
    peak = max(float(wav.max()), -float(wav.min()))  # NaN if any sample is
    if not math.isfinite(peak):
        raise AudioFault(path, f"{int((~np.isfinite(wav)).sum())} NaN or infinite samples")
    if peak < SILENCE and not keep_silent:
        raise AudioFault(path, "silent: every sample is 0; data.keep_silent=true takes it for a sound")
    return peak
