"""Say what a decoder returns for a stretch of a file, and how it refuses one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from vcrast.data.full_scale import finite_peak

# A header may promise a little more than there is: odd writers count padding, and containers count whole packets. Ten
# milliseconds are one frame of the filterbank; a download that breaks off lacks more than that almost surely.
TOLERATED_S = 0.010
TOLERATED_FRACTION = 0.01


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


class UnknownFormat(AudioFault):
    """A file that this decoder does not know; another may."""


class Stretch(NamedTuple):
    """Decoded samples.

    Attributes:
        wav: (S,) float32, all channels averaged, at the file's own rate.
        sample_rate: Hz.
        peak: of a file that stores floats, which may lie beyond 1 on purpose: the largest absolute finite sample of
            any channel of the whole file, whatever part was read. None of any other file.
    """

    wav: np.ndarray
    sample_rate: int
    peak: float | None


def file_key(path: str) -> tuple[str, int, int]:
    """Return path, size and time of change: what is known of a file holds as long as these are the same.

    Raises:
        AudioFault: missing, empty, or not to be looked at.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise AudioFault(path, "missing file") from None
    except (OSError, ValueError) as error:
        raise AudioFault(path, f"cannot be opened ({error})") from None
    if found.st_size == 0:
        raise AudioFault(path, "empty file")
    return path, found.st_size, found.st_mtime_ns


def mix_down(blocks: Iterable[np.ndarray], *, find_peak: bool = True) -> tuple[np.ndarray, float]:
    """Average the channels of blocks (frames, channels): the first alone may be silent.

    Returns:
        (S,) float32, and the largest finite absolute value of any channel, 0 if it is not asked for.
    """
    mono: list[np.ndarray] = []
    peak = 0.0
    for block in blocks:
        peak = max(peak, finite_peak(block)) if find_peak else 0.0
        mono.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float64).astype(np.float32))
    if len(mono) == 1:
        return mono[0], peak
    return (np.concatenate(mono) if mono else np.zeros(0, np.float32)), peak


def is_tolerated(missing_s: float, total_s: float, *, frame_s: float = 0.0) -> bool:
    """Tell whether so little of a file is missing that it is no truncation: a frame, or 10 ms and 1 % of the whole."""
    return missing_s <= max(frame_s, min(TOLERATED_S, TOLERATED_FRACTION * total_s))
