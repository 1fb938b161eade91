"""Decode through libsndfile: wav, flac, ogg, opus, mp3, aiff and whatever else it opens."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import soundfile as sf

from vcrast.data.full_scale import finite_peak
from vcrast.data.stretch import AudioFault, Stretch, UnknownFormat, file_key, is_tolerated, mix_down
from vcrast.data.truncation import StreamedWav, missing_end, mp3_declares_length, streamed_size

SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".w64", ".caf", ".rf64",
    ".bwf", ".sph", ".voc", ".nist", ".mp2", ".wave",
)  # fmt: skip
"""Kinds of files that libsndfile reads."""
Opener = Callable[[], BinaryIO]
# An MP3 has 576 or 1152 samples in a frame (MP1 384). Where a read ends within one, libsndfile sometimes gives other
# samples for the rest of it, so every read but the last ends where a frame does.
CODEC_FRAME = 1152
BLOCK_FRAMES = 910 * CODEC_FRAME
CHECKED = ("WAV", "WAVEX", "AIFF", "OGG")  # kinds of files that libsndfile quietly shortens, see `missing_end`
UNKNOWN_FRAMES = 2**62
NO_LENGTH = "its header declares no length; convert it, for instance with `flac -d` and `flac`, or install ffmpeg"
# Codecs whose decoder needs what came before: right behind a seek, libsndfile's samples are others than those of the
# whole file (an MP3's by up to full scale). Decoding from so long before is exact, of an MP3 as far as that is itself:
# mpg123 rounds a float up or down as the memory lies, by 1e-7.
RUN_UP_S = dict.fromkeys(("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"), 10.0)


def read(path: str, start_s: float, duration_s: float | None, opener: Opener | None = None) -> Stretch:
    """Decode a stretch; less is returned where the file ends earlier.

    Args:
        path: of the file, or what to call it in messages if there is an `opener`.
        start_s: first second.
        duration_s: None is up to the end.
        opener: opens a file that lies in another one; called several times.

    Raises:
        AudioFault: missing, empty, undecodable, shorter than its header says, or over before the stretch begins.
    """
    with _open(path, opener) as file:
        rate, frames, floats = file.samplerate, file.frames, file.subtype in ("FLOAT", "DOUBLE")
        if file.format in CHECKED:
            with _bytes_of(path, opener) as content:
                if missing := missing_end(content, file.format, frames / rate):
                    raise AudioFault(path, f"truncated: {missing}")
        if frames == 0:
            raise AudioFault(path, "no samples")
        start = round(start_s * rate)
        if start >= frames:
            raise AudioFault(path, f"starts at {start_s:g} s, but the file has {frames / rate:.3f} s")
        wanted = frames - start if duration_s is None else min(frames - start, max(1, round(duration_s * rate)))
        exact = file.format != "MP3" or _declares_length(path, opener)
        try:
            wav, peak = mix_down(_stretch(file, start, wanted), find_peak=floats)
        except sf.SoundFileRuntimeError as error:
            raise AudioFault(path, f"cannot be decoded ({_reason(error)})") from None
    missing_s = (wanted - len(wav)) / rate
    if exact and missing_s and not is_tolerated(missing_s, frames / rate, frame_s=1 / rate):
        lacking = f"{missing_s:.3f} s or more of the {frames / rate:.3f} s that its header declares"
        raise AudioFault(path, f"truncated: {lacking} are missing")
    if not floats:
        return Stretch(wav, rate, None)
    if wanted != frames:
        peak = _known_peak(*file_key(path)) if opener is None else _peak(path, opener)
    return Stretch(wav, rate, peak)


def header(path: str, opener: Opener | None = None) -> tuple[int, int]:
    """Read the sample rate in Hz and the length in samples, without decoding; arguments and errors as in `read`."""
    with _open(path, opener) as file:
        return file.samplerate, file.frames


def encode(
    wav: np.ndarray, sample_rate: int, *, format_name: str, subtype: str, compression: float | None = None
) -> bytes:
    """Encode (S,) samples as the bytes of a file in one of libsndfile's formats; `compression` from 0 to 1."""
    file = io.BytesIO()
    sf.write(file, wav, sample_rate, format=format_name, subtype=subtype, compression_level=compression)
    return file.getvalue()


def can_write(format_name: str, subtype: str | None = None) -> bool:
    """Whether this libsndfile encodes a format, and a codec in it; before 1.1 it has no MP3."""
    known = format_name in sf.available_formats()
    return known and (subtype is None or subtype in sf.available_subtypes(format_name))


@functools.lru_cache(maxsize=4096)
def _known_peak(path: str, size: int, mtime_ns: int) -> float:  # noqa: ARG001 (a changed file is another file)
    """Find the peak of a whole file; remembered, because the clips of a long recording share it."""
    return _peak(path, None)


def _peak(path: str, opener: Opener | None) -> float:
    with _open(path, opener) as file:
        try:
            return max(map(finite_peak, _blocks(file, file.frames)), default=0.0)
        except sf.SoundFileRuntimeError as error:
            raise AudioFault(path, f"cannot be decoded ({_reason(error)})") from None


def _bytes_of(path: str, opener: Opener | None) -> BinaryIO:
    return open(path, "rb") if opener is None else opener()


def _declares_length(path: str, opener: Opener | None) -> bool:
    with _bytes_of(path, opener) as content:
        return mp3_declares_length(content)


@contextmanager
def _open(path: str, opener: Opener | None) -> Iterator[Any]:
    if opener is None:
        file_key(path)
    try:
        file = sf.SoundFile(os.fsencode(path) if opener is None else opener())  # also a name that is not UTF-8
        if file.frames == 0 and file.format in ("WAV", "WAVEX"):
            with _bytes_of(path, opener) as content:
                place = streamed_size(content)
            if place:
                file.close()
                file = sf.SoundFile(StreamedWav(_bytes_of(path, opener), place))
    except sf.LibsndfileError as error:
        raise UnknownFormat(path, f"cannot be decoded ({_reason(error)})") from None
    except AudioFault:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise AudioFault(path, f"cannot be opened ({error})") from None
    with file:
        if file.format == "RAW":
            # libsndfile takes any bytes for 8 kHz telephone sound if their file is called .au, .snd, .gsm or .vox.
            raise UnknownFormat(path, "cannot be decoded (no header that says what it is)")
        if file.frames > UNKNOWN_FRAMES:
            # FLAC written to a pipe; libsndfile can neither seek in it nor read it in blocks.
            raise UnknownFormat(path, NO_LENGTH)
        if file.samplerate < 1:
            raise AudioFault(path, f"its header declares a sample rate of {file.samplerate} Hz")
        yield file


def _stretch(file: Any, start: int, wanted: int) -> Iterator[np.ndarray]:
    """Read `wanted` frames from frame `start` on; what must be decoded before them is dropped.

    That is all before them where libsndfile cannot seek (GSM 6.10, G.721, G.723).
    """
    position = 0
    if start and file.seekable():
        position = max(0, start - round(RUN_UP_S.get(file.subtype, 0.0) * file.samplerate))
        position -= position % CODEC_FRAME
        file.seek(position)
    skipped = start - position
    for block in _blocks(file, skipped + wanted):
        if skipped < len(block):
            yield block[skipped:]
        skipped = max(0, skipped - len(block))


def _blocks(file: Any, wanted: int) -> Iterator[np.ndarray]:
    """Read (frames, channels) in blocks: all channels of an hour need not be in memory at once."""
    while wanted > 0:
        block = file.read(min(wanted, BLOCK_FRAMES), dtype="float32", always_2d=True)
        if not len(block):
            return
        yield block
        wanted -= len(block)


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error))
