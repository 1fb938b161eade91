"""Decode m4a, mp4, webm, wma and the like through ffmpeg or torchcodec, where installed.

Seeking in these containers goes by timestamps and is samples off, so a file is always decoded from its beginning; the
last one stays open, and the next clip of the same recording goes on from there.
"""

from __future__ import annotations

import atexit
import functools
import threading
from typing import NamedTuple, Protocol

import numpy as np

from vcrast.data import ffmpeg_libraries, ffmpeg_pipe
from vcrast.data.ffmpeg_pipe import Info
from vcrast.data.full_scale import finite_peak
from vcrast.data.stretch import AudioFault, Stretch, file_key, is_tolerated, mix_down

SUFFIXES = (
    ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".aac", ".webm", ".weba", ".mka", ".mkv", ".wma", ".wmv", ".amr",
    ".3gp", ".3g2", ".ac3", ".eac3", ".ape", ".wv", ".tta", ".spx", ".avi", ".flv", ".mpg", ".mpeg",
)  # fmt: skip
"""Kinds of files that libsndfile does not read."""
INSTALL = "needs ffmpeg (apt install ffmpeg, brew install ffmpeg, conda install ffmpeg)"
BLOCK_FRAMES = 1 << 18
PACKETS_S = 0.1  # a container counts whole packets, of up to 50 ms, and what an encoder put in front


class Scan(NamedTuple):
    """Of a whole file: frames at the rate that its container declares, and the largest finite absolute sample."""

    frames: int
    peak: float


class Decoder(Protocol):
    """A file being decoded from its beginning on."""

    sample_rate: int

    def read(self, num_frames: int) -> np.ndarray:
        """Decode the next frames, (S, channels) float32; fewer at the end, then none."""

    def close(self) -> None:
        """End it."""


def decoder() -> str | None:
    """Name what decodes these files here: `ffmpeg`, `torchcodec`, or None."""
    if ffmpeg_pipe.is_installed():
        return "ffmpeg"
    return "torchcodec" if ffmpeg_libraries.is_installed() else None


def is_known(path: str) -> bool:
    """Tell from its first bytes whether a file is of a format for ffmpeg, whatever its name ends in."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return (
        head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide")  # mp4, m4a, mov
        or head.startswith((b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75", b"#!AMR", b"\x0b\x77"))  # webm, wma, amr, ac3
        or (head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0)  # aac
    )


def header(path: str) -> tuple[int, int]:
    """Read the sample rate in Hz and the length in samples; errors as in `read`.

    A file that declares no length (aac, amr, a recording of a browser) is decoded once to count; a guess from the bit
    rate would refuse clips at its end.
    """
    key = file_key(path)
    info = _probe(*key)
    if info.exact:
        return info.sample_rate, round(info.duration_s * info.sample_rate)
    return info.sample_rate, _scan(*key).frames


def read(path: str, start_s: float, duration_s: float | None) -> Stretch:
    """Decode a stretch; less is returned where the file ends earlier.

    Raises:
        AudioFault: nothing here decodes it, missing, empty, damaged, without sound, shorter than its header says, or
            over before the stretch begins.
    """
    key = file_key(path)
    info = _probe(*key)
    track = _take(key) or Track(key, info)
    try:
        start = round(start_s * track.decoder.sample_rate)
        if start < track.first:
            track.close()
            track = Track(key, info)
        wav = track.read(start, None if duration_s is None else start + max(1, round(duration_s * track.rate)))
    except BaseException:
        track.close()
        raise
    if track.at_end and start and start >= track.position:
        seconds = track.position / track.rate
        track.close()
        raise AudioFault(path, f"starts at {start_s:g} s, but the file has {seconds:.3f} s")
    if duration_s is None:
        track.close()
    else:
        _keep(track)
    return Stretch(wav, track.rate, _scan(*key).peak if info.floats else None)


class Track:
    """A file that is being decoded, and its samples from frame `first` to `position`, which were read last."""

    def __init__(self, key: tuple[str, int, int], info: Info) -> None:
        self.key, self.info = key, info
        self.decoder = _decoder(key[0])
        self.rate, self.position, self.at_end = self.decoder.sample_rate, 0, False
        self.kept = np.zeros(0, np.float32)

    @property
    def first(self) -> int:
        """The first frame that can still be read."""
        return self.position - len(self.kept)

    def read(self, start: int, stop: int | None) -> np.ndarray:
        """Decode frames start..stop, averaged to mono (S,), as far as the file has them."""
        kept = self.kept[start - self.first :]
        while not self.at_end and self.position < start:
            self.next(start - self.position)
        blocks = []
        while not self.at_end and (stop is None or self.position < stop):
            blocks.append(self.next(BLOCK_FRAMES if stop is None else stop - self.position))
        self.kept = np.concatenate([kept, mix_down(blocks, find_peak=False)[0]])
        return self.kept[: None if stop is None else stop - start].copy()

    def close(self) -> None:
        """End the decoder."""
        self.decoder.close()

    def next(self, num_frames: int) -> np.ndarray:
        """Decode the next frames, (S, channels), at most a block; fewer at the end, which is checked.

        Raises:
            AudioFault: the file is damaged, has no samples, or ends before its container says.
        """
        wanted = min(num_frames, BLOCK_FRAMES)
        block = self.decoder.read(wanted)
        self.position += len(block)
        if len(block) < wanted:
            self.at_end = True
            _check_end(self.key[0], self.position, self.rate, self.info)
        return block


_kept: list[Track] = []
_lock = threading.Lock()


def forget() -> None:
    """End the decoder that waits for the next clip of its recording."""
    with _lock:
        while _kept:
            _kept.pop().close()


atexit.register(forget)


def _take(key: tuple[str, int, int]) -> Track | None:
    with _lock:
        if _kept and _kept[0].key == key:
            return _kept.pop()
    return None


def _keep(track: Track) -> None:
    forget()
    with _lock:
        _kept.append(track)


def _decoder(path: str) -> Decoder:
    return ffmpeg_pipe.Decoder(path) if decoder() == "ffmpeg" else ffmpeg_libraries.Decoder(path)


@functools.lru_cache(maxsize=4096)
def _probe(path: str, size: int, mtime_ns: int) -> Info:  # noqa: ARG001 (a changed file is another file)
    name = decoder()
    if name is None:
        raise AudioFault(path, f"cannot be decoded ({INSTALL})")
    if name == "ffmpeg":
        return ffmpeg_pipe.probe(path)
    # torchcodec takes no list of allowed formats: a playlist is none of those that are recognised.
    if not is_known(path):
        raise AudioFault(path, "cannot be decoded (its content is none of the formats that torchcodec is given)")
    return ffmpeg_libraries.probe(path)


@functools.lru_cache(maxsize=4096)
def _scan(path: str, size: int, mtime_ns: int) -> Scan:
    """Decode a whole file, remember its length and peak only."""
    track = Track((path, size, mtime_ns), _probe(path, size, mtime_ns))
    peak = 0.0
    try:
        while not track.at_end:
            peak = max(peak, finite_peak(track.next(BLOCK_FRAMES)))
    finally:
        track.close()
    return Scan(round(track.position * track.info.sample_rate / track.rate), peak)


def _check_end(path: str, frames: int, rate: int, info: Info) -> None:
    if not frames:
        raise AudioFault(path, "no samples")
    missing_s = info.duration_s - frames / rate
    if info.exact and not is_tolerated(missing_s, info.duration_s, frame_s=PACKETS_S):
        raise AudioFault(path, f"truncated: {missing_s:.3f} of {info.duration_s:.3f} s missing")
