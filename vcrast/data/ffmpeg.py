"""Decode m4a, mp4, webm, wma and the like through ffmpeg or torchcodec, where installed."""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SUFFIXES = (
    ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".aac", ".webm", ".weba", ".mka", ".mkv", ".wma", ".wmv", ".amr",
    ".3gp", ".3g2", ".ac3", ".eac3", ".ape", ".wv", ".tta", ".spx", ".avi", ".flv", ".mpg", ".mpeg",
)  # fmt: skip
"""Kinds of files that libsndfile does not read."""
INSTALL = "needs ffmpeg (apt install ffmpeg, brew install ffmpeg) or `pip install torchcodec`"
TIMEOUT_S = 60.0  # for a header
BLOCK_BYTES = 1 << 22


class Stream(NamedTuple):
    """The first audio stream of a file: its rate in Hz, channels, and length in seconds (0: unknown)."""

    sample_rate: int
    num_channels: int
    duration_s: float


class DecodingError(ValueError):
    """What ffmpeg or torchcodec said."""


def decoder() -> str | None:
    """Name what decodes these files here: `ffmpeg`, `torchcodec`, or None."""
    if shutil.which("ffmpeg") and shutil.which("ffprobe"):
        return "ffmpeg"
    return "torchcodec" if _torchcodec_works() else None


def probe(path: str) -> Stream:
    """Read what a file says of its first audio stream.

    Raises:
        DecodingError: no decoder is installed, no audio in it, or not readable.
    """
    if decoder() == "ffmpeg":
        return _probe(path)
    return Stream(*_torchcodec(path)[1:])


def blocks(path: str, stream: Stream) -> Iterator[np.ndarray]:
    """Yield the first audio stream from its beginning as (frames, channels) float32 blocks.

    Raises:
        DecodingError: the file is damaged, or the decoder gave up.
    """
    if decoder() == "ffmpeg":
        yield from _read_pipe(path, stream)
        return
    samples, _, num_channels, _ = _torchcodec(path, decode=True)
    yield samples.reshape(-1, num_channels)


def _probe(path: str) -> Stream:
    # `file:` keeps a name with a colon from being a protocol, and a dash from being an option; whitelisted, so that a
    # playlist inside the file cannot reach the network.
    command = [
        "ffprobe", "-v", "error", "-protocol_whitelist", "file", "-select_streams", "a:0", "-show_entries",
        "stream=sample_rate,channels,duration:format=duration", "-of", "json", f"file:{path}",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise DecodingError(f"ffprobe has not answered for {TIMEOUT_S:g} s") from None
    try:
        found = json.loads(done.stdout)
        stream = found["streams"][0]
        rate, channels = int(stream["sample_rate"]), int(stream["channels"])
        duration = float(stream.get("duration") or found.get("format", {}).get("duration") or 0.0)
    except (ValueError, LookupError, TypeError):
        raise DecodingError(_last_line(done.stderr) or "no audio in it") from None
    if rate < 1 or channels < 1:
        raise DecodingError("no audio in it")
    return Stream(rate, channels, max(0.0, duration))


def _read_pipe(path: str, stream: Stream) -> Iterator[np.ndarray]:
    command = [
        "ffmpeg", "-nostdin", "-v", "error", "-xerror", "-protocol_whitelist", "file,pipe", "-i", f"file:{path}",
        "-map", "0:a:0", "-ac", str(stream.num_channels), "-ar", str(stream.sample_rate), "-f", "f32le", "-",
    ]  # fmt: skip
    frame_bytes = 4 * stream.num_channels
    with (
        tempfile.TemporaryFile() as errors,  # a pipe that nobody reads would stop it when full
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, bufsize=BLOCK_BYTES
        ) as process,
    ):
        assert process.stdout is not None
        try:
            while data := process.stdout.read(BLOCK_BYTES // frame_bytes * frame_bytes):
                whole = len(data) // frame_bytes * frame_bytes
                yield np.frombuffer(data[:whole], "<f4").reshape(-1, stream.num_channels)
            if process.wait() != 0:
                errors.seek(0)
                raise DecodingError(_last_line(errors.read()) or f"ffmpeg ended with {process.returncode}")
        finally:  # the reader has enough, or something went wrong
            if process.poll() is None:
                process.kill()


def _last_line(text: bytes) -> str:
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("file:") if lines else ""


@functools.cache
def _torchcodec_works() -> bool:
    if importlib.util.find_spec("torchcodec") is None:
        return False
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):  # it is there, but FFmpeg's libraries are not
        return False
    return True


def _torchcodec(path: str, *, decode: bool = False) -> tuple[np.ndarray, int, int, float]:
    if decoder() is None:
        raise DecodingError(INSTALL)
    decoders = importlib.import_module("torchcodec.decoders")
    try:
        opened = decoders.AudioDecoder(path)
        about = opened.metadata
        samples = opened.get_all_samples().data.T.contiguous().numpy() if decode else np.zeros(0, np.float32)
        return samples, int(about.sample_rate), int(about.num_channels), float(about.duration_seconds_from_header or 0)
    except (RuntimeError, ValueError, OSError) as error:
        raise DecodingError(str(error).splitlines()[0]) from None
