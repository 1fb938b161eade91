"""Read sound files: decode, bring to full scale, mix down to mono, resample, check."""

from __future__ import annotations

import functools
import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import soundfile as sf
import soxr

from vcrast.data import ffmpeg
from vcrast.data.full_scale import finite_peak, full_scale
from vcrast.data.truncation import missing_end, mp3_declares_length, with_its_size

log = logging.getLogger(__name__)

# scheme -> function(path, sample_rate) -> (S,) float32: paths such as "synth://..." are generated, not read.
READERS: dict[str, Callable[[str, int], np.ndarray]] = {}

SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".w64", ".caf", ".rf64",
    ".bwf", ".sph", ".voc",
)  # fmt: skip
"""Kinds of files that libsndfile reads; `sound_suffixes` adds what ffmpeg does."""

# A peak below half a step of 16-bit audio is silence, also when dither or an mp3 decoder left something there.
SILENCE = 2.0**-16
BLOCK_FRAMES = 1 << 20
UNKNOWN_FRAMES = 2**62
FLOATS = ("FLOAT", "DOUBLE")  # libsndfile's names of sample formats that can hold more than 1


class AudioFault(ValueError):
    """A file that must not be trained on, and why.

    Holds two strings only: libsndfile's own exception breaks when it crosses from a worker process.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Decoded(NamedTuple):
    """Mono samples (S,) at the file's own rate in Hz, and the full scale that they were divided by."""

    wav: np.ndarray
    rate: int
    scale: float


def read_wav(
    path: str,
    *,
    sample_rate: int,
    start_s: float = 0.0,
    duration_s: float | None = None,
    keep_silent: bool = False,
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

    Returns:
        (S,) float32 in [-1, 1], S at least 1.

    Raises:
        AudioFault: missing, undecodable, empty, shorter than its header says, silent, or with NaN or infinite samples.
    """
    return read_scaled(
        path, sample_rate=sample_rate, start_s=start_s, duration_s=duration_s, keep_silent=keep_silent
    ).wav


def read_scaled(
    path: str, *, sample_rate: int, start_s: float = 0.0, duration_s: float | None = None, keep_silent: bool = False
) -> Decoded:
    """`read_wav`, with what the samples were divided by."""
    if is_generated(path):
        wav = _cut(_reader(path)(path, sample_rate), path, sample_rate, start_s, duration_s)
        decoded = Decoded(wav, sample_rate, 1.0)
    else:
        decoded = _decode(path, start_s, duration_s)
    _check(path, decoded.wav, keep_silent)
    wav = np.ascontiguousarray(resample(decoded.wav, decoded.rate, sample_rate), dtype=np.float32)
    if finite_peak(wav) > 1.0:
        wav = wav.clip(-1.0, 1.0)
    return Decoded(wav, sample_rate, decoded.scale)


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


def is_generated(path: str) -> bool:
    """Tell whether `path` names a generated sound rather than a file."""
    return "://" in path


def header(path: str) -> tuple[int, int]:
    """Read the sample rate in Hz and the length in samples, without decoding.

    Raises:
        AudioFault: missing, empty, or not a sound file.
    """
    if _is_ffmpegs(path):
        stream = _probe(path)
        return stream.sample_rate, max(1, round(stream.duration_s * stream.sample_rate))
    with _open(path) as file:
        return file.samplerate, file.frames


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


def _probe(path: str) -> ffmpeg.Stream:
    _look(path)
    try:
        return ffmpeg.probe(path)
    except ffmpeg.DecodingError as error:
        raise AudioFault(path, f"cannot be decoded ({error})") from None


def _look(path: str) -> None:
    """Refuse a file that is not there or empty."""
    try:
        if os.stat(path).st_size == 0:
            raise AudioFault(path, "empty file")
    except (FileNotFoundError, NotADirectoryError):
        raise AudioFault(path, "missing file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, AudioFault):
            raise
        raise AudioFault(path, f"cannot be opened ({error})") from None


def _open(path: str) -> sf.SoundFile:
    _look(path)
    try:
        file = sf.SoundFile(os.fsencode(path))  # also a name that is not UTF-8
        if file.frames == 0 and (whole := with_its_size(path)) is not None:
            file.close()
            file = sf.SoundFile(io.BytesIO(whole))
    except sf.LibsndfileError as error:
        raise AudioFault(path, f"cannot be decoded ({error.error_string})") from None
    except (OSError, ValueError, TypeError) as error:
        raise AudioFault(path, f"cannot be opened ({error})") from None
    if file.frames > UNKNOWN_FRAMES:
        # FLAC written to a pipe; libsndfile can neither seek in it nor read it in blocks.
        file.close()
        raise AudioFault(path, "its header declares no length; convert it, for instance with `flac -d` and `flac`")
    return file


def _decode(path: str, start_s: float, duration_s: float | None) -> Decoded:
    if _is_ffmpegs(path):
        return _decode_through_ffmpeg(path, start_s, duration_s)
    with _open(path) as file:
        rate, frames = file.samplerate, file.frames
        if missing := missing_end(path, file.format):
            raise AudioFault(path, f"truncated: {missing}")
        if frames == 0:
            raise AudioFault(path, "no samples")
        start = round(start_s * rate)
        if start >= frames:
            raise AudioFault(path, f"starts at {start_s:g} s, but the file has {frames / rate:.3f} s")
        wanted = frames - start if duration_s is None else min(frames - start, max(1, round(duration_s * rate)))
        try:
            wav, peak = mix_down(_blocks(file, start, wanted))
        except sf.LibsndfileError as error:
            raise AudioFault(path, f"cannot be decoded ({error.error_string})") from None
        exact = file.format != "MP3" or mp3_declares_length(path)
        floats = file.subtype in FLOATS
    if exact and len(wav) < wanted:
        raise AudioFault(path, f"truncated: {start + len(wav)} of the {frames} samples that its header declares")
    if not floats:
        return Decoded(wav, rate, 1.0)
    if wanted < frames:
        found = os.stat(path)
        peak = _file_peak(path, found.st_size, found.st_mtime_ns)
    try:
        scale = full_scale(peak)
    except ValueError as error:
        raise AudioFault(path, str(error)) from None
    return Decoded(wav if scale == 1.0 else wav / np.float32(scale), rate, scale)


def _decode_through_ffmpeg(path: str, start_s: float, duration_s: float | None) -> Decoded:
    """Decode from the beginning and cut: seeking in these containers is not exact to the sample."""
    stream = _probe(path)
    start = round(start_s * stream.sample_rate)
    stop = None if duration_s is None else start + max(1, round(duration_s * stream.sample_rate))
    try:
        wav, _ = mix_down(_between(ffmpeg.blocks(path, stream), start, stop))
    except ffmpeg.DecodingError as error:
        raise AudioFault(path, f"cannot be decoded ({error})") from None
    if start and not len(wav):
        raise AudioFault(path, f"starts at {start_s:g} s, but the file ends before")
    return Decoded(wav, stream.sample_rate, 1.0)


def _between(blocks: Iterator[np.ndarray], start: int, stop: int | None) -> Iterator[np.ndarray]:
    """Yield frames start..stop of what blocks (frames, channels) hold one after the other."""
    at = 0
    for block in blocks:
        part = block[max(0, start - at) : None if stop is None else max(0, stop - at)]
        if len(part):
            yield part
        at += len(block)
        if stop is not None and at >= stop:
            return


def _blocks(file: sf.SoundFile, start: int, wanted: int) -> Iterator[np.ndarray]:
    """Yield frames as (frames, channels) blocks: all channels of an hour need not be in memory at once."""
    if file.seekable():
        file.seek(start)
    else:  # GSM, ADPCM: only from the beginning
        for size in _in_blocks(start):
            file.read(size, dtype="float32", always_2d=True)
    for size in _in_blocks(wanted):
        block = file.read(size, dtype="float32", always_2d=True)
        if not len(block):
            return
        yield block


def _in_blocks(frames: int) -> Iterator[int]:
    for first in range(0, frames, BLOCK_FRAMES):
        yield min(BLOCK_FRAMES, frames - first)


def mix_down(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, float]:
    """Average the channels of blocks (frames, channels).

    Returns:
        (S,) float32, and the largest finite absolute value of any channel.
    """
    mono: list[np.ndarray] = []
    peak = 0.0
    for block in blocks:
        peak = max(peak, finite_peak(block))
        mono.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float64).astype(np.float32))
    return (np.concatenate(mono) if mono else np.zeros(0, np.float32)), peak


@functools.lru_cache(maxsize=256)
def _file_peak(path: str, size: int, mtime_ns: int) -> float:  # noqa: ARG001 - a changed file is another file
    """Largest absolute value in a whole file; remembered, because the clips of a long recording share it."""
    with _open(path) as file:
        return max((finite_peak(block) for block in _blocks(file, 0, file.frames)), default=0.0)


def _check(path: str, wav: np.ndarray, keep_silent: bool) -> None:
    if not len(wav):
        raise AudioFault(path, "no samples")
    peak = float(np.abs(wav).max())  # NaN if any sample is
    if not math.isfinite(peak):
        raise AudioFault(path, f"{int((~np.isfinite(wav)).sum())} NaN or infinite samples")
    if peak < SILENCE and not keep_silent:
        raise AudioFault(path, "silent: every sample is 0; data.keep_silent=true takes it for a sound")
