"""Decode through torchcodec where ffmpeg's libraries are present, its program not."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

from vcrast.data.ffmpeg_pipe import Info
from vcrast.data.stretch import AudioFault, UnknownFormat

EXACT = (".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".mka", ".mkv", ".webm")  # torchcodec does not name the container
LOSSY = (".wma", ".wmv", ".asf")  # torchcodec 0.17 drops their first packet


@functools.cache
def is_installed() -> bool:
    """Tell whether torchcodec imports and finds ffmpeg's libraries; it does not bring them along."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def probe(path: str) -> Info:
    """Read what the container says of its sound; errors as of `ffmpeg_pipe.probe`."""
    found = _open(path).metadata
    duration_s = float(found.duration_seconds_from_header or 0.0)
    exact = path.lower().endswith(EXACT) and duration_s > 0
    return Info(int(found.sample_rate), duration_s, str(found.codec).startswith("pcm_f"), exact)


class Decoder:
    """A file decoded by torchcodec; as `ffmpeg_pipe.Decoder`, but the whole of it is in memory.

    torchcodec's ranges go by timestamps, which Matroska rounds to milliseconds: they are samples off.
    """

    def __init__(self, path: str) -> None:
        decoder = _open(path)
        try:
            self.samples = decoder.get_all_samples().data.numpy().T  # (S, channels)
        except (RuntimeError, ValueError) as error:
            raise AudioFault(path, f"cannot be decoded ({_first_line(error)})") from None
        self.sample_rate, self.position = int(decoder.metadata.sample_rate), 0

    def read(self, num_frames: int) -> np.ndarray:
        """Return the next frames, (S, channels) float32; fewer at the end, then none."""
        block: np.ndarray = self.samples[self.position : self.position + num_frames]
        self.position += len(block)
        return block

    def close(self) -> None:
        """Forget the samples."""
        self.samples = self.samples[:0]


def _open(path: str) -> Any:
    from torchcodec.decoders import AudioDecoder

    if path.lower().endswith(LOSSY):
        raise UnknownFormat(path, "cannot be decoded exactly by torchcodec; install the ffmpeg executable")
    try:
        # Absolute: no name of a protocol can stand in front.
        return AudioDecoder(os.path.abspath(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise UnknownFormat(path, f"cannot be decoded ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
