"""Read sound files: decode, check, mix down to mono, resample."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import soundfile as sf
import soxr

from vcrast.data.truncation import missing_end, mp3_declares_length

# scheme -> function(path, sample_rate) -> (S,) float32: paths such as "synth://..." are generated, not read.
READERS: dict[str, Callable[[str, int], np.ndarray]] = {}

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf")

# A peak below half a step of 16-bit audio is silence, also when dither or an mp3 decoder left something there.
SILENCE = 2.0**-16
BLOCK_FRAMES = 1 << 20
UNKNOWN_FRAMES = 2**62


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


def read_wav(path: str, *, sample_rate: int, start_s: float = 0.0, duration_s: float | None = None) -> np.ndarray:
    """Decode one clip as mono at `sample_rate`.

    All channels are averaged: taking the first would lose recordings with a silent left channel.

    Args:
        path: of a file that libsndfile reads (wav, flac, ogg, opus, mp3, aiff, ...), or `scheme://` of `READERS`.
        sample_rate: wanted, Hz; other rates are resampled (soxr HQ).
        start_s: first second to read.
        duration_s: how much to read; None is up to the end. Less is returned where the file ends earlier.

    Returns:
        (S,) float32, S at least 1, nominally in [-1, 1].

    Raises:
        AudioFault: missing, undecodable, empty, shorter than its header says, silent, or with NaN or infinite samples.
    """
    if is_generated(path):
        wav, rate = _cut(_reader(path)(path, sample_rate), path, sample_rate, start_s, duration_s), sample_rate
    else:
        wav, rate = _decode(path, start_s, duration_s)
    _check(path, wav)
    return np.ascontiguousarray(resample(wav, rate, sample_rate), dtype=np.float32)


def resample(wav: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
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


def _open(path: str) -> sf.SoundFile:
    try:
        if os.stat(path).st_size == 0:
            raise AudioFault(path, "empty file")
        file = sf.SoundFile(path)
    except (FileNotFoundError, NotADirectoryError):
        raise AudioFault(path, "missing file") from None
    except sf.LibsndfileError as error:
        raise AudioFault(path, f"cannot be decoded ({error.error_string})") from None
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, AudioFault):
            raise
        raise AudioFault(path, f"cannot be opened ({error})") from None
    if file.frames > UNKNOWN_FRAMES:
        # FLAC written to a pipe; libsndfile can neither seek in it nor read it in blocks.
        file.close()
        raise AudioFault(path, "its header declares no length; convert it, for instance with `flac -d` and `flac`")
    return file


def _decode(path: str, start_s: float, duration_s: float | None) -> tuple[np.ndarray, int]:
    """Decode mono samples (S,) at the file's own rate, and return that rate."""
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
            file.seek(start)
            wav = _read_mono(file, wanted)
        except sf.LibsndfileError as error:
            raise AudioFault(path, f"cannot be decoded ({error.error_string})") from None
        exact = file.format != "MP3" or mp3_declares_length(path)
    if exact and len(wav) < wanted:
        raise AudioFault(path, f"truncated: {start + len(wav)} of the {frames} samples that its header declares")
    return wav, rate


def _read_mono(file: sf.SoundFile, wanted: int) -> np.ndarray:
    """Read and average in blocks: all channels of an hour need not be in memory at once."""
    blocks: list[np.ndarray] = []
    while wanted > 0:
        block = file.read(min(wanted, BLOCK_FRAMES), dtype="float32", always_2d=True)  # (frames, channels)
        if not len(block):
            break
        blocks.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float64).astype(np.float32))
        wanted -= len(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _check(path: str, wav: np.ndarray) -> None:
    if not len(wav):
        raise AudioFault(path, "no samples")
    peak = float(np.abs(wav).max())  # NaN if any sample is
    if not math.isfinite(peak):
        raise AudioFault(path, f"{int((~np.isfinite(wav)).sum())} NaN or infinite samples")
    if peak < SILENCE:
        raise AudioFault(path, "silent: every sample is 0")
