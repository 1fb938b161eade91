"""Refuse a decoded cache that its disk has no room for, before anything is decoded."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vcrast.config.metric import size
from vcrast.data.audio import AudioFault, header, is_generated
from vcrast.data.clip import Clip
from vcrast.data.clips import Clips
from vcrast.data.preflight import spread

MAX_HEADERS = 200  # files opened where nobody knows how long they are
TOLERANCE = 0.05  # of the estimate: what nearly fits is tried
SIGMAS = 3.0  # of a sample's mean, within which the true one lies
SMALL = 100  # times the bytes of the files: where that is free, no file is opened


class NoRoomError(OSError):
    """The decoded clips would not fit on the disk."""


def check_room(clips: Sequence[Clip], sizes: Sequence[int], *, sample_rate: int, folder: Path) -> None:
    """Compare what the decoded clips need with what is free; lengths that cannot be known are taken for none.

    Args:
        clips: that are still to be decoded.
        sizes: of their files in bytes, -1 for sounds that are no files.
        sample_rate: of the cache, Hz.
        folder: of the cache.

    Raises:
        NoRoomError: they would not fit, with the estimate and what to set.
    """
    free = shutil.disk_usage(folder).free
    if min(sizes, default=0) >= 0 and SMALL * sum(sizes) <= free:
        return
    seconds, error = estimated_seconds(Clips.of(clips))
    if 2 * sample_rate * (seconds * (1 - TOLERANCE) - error) <= free:
        return
    raise NoRoomError(
        f"{folder}: the data cache needs about {size(2 * sample_rate * seconds)} for {len(clips)} clips, "
        f"{size(free)} are free; set data.cache=false, data.cache_dir=DIR on a larger disk, or pack "
        "them: vcrast data shard"
    )


def estimated_seconds(clips: Clips) -> tuple[float, float]:
    """Return how long all clips are, generated ones left out, and how far that may be from the truth.

    Known lengths are added up; of the others at most `MAX_HEADERS` files, spread evenly, are looked at.
    """
    known, unknown = [], []
    for place in range(len(clips)):
        length = clips.seconds(place)
        if length is not None:
            known.append(_stretch(clips[place], length))
        elif not is_generated(clips[place].path):
            unknown.append(place)
    looked = [_length(clips[place]) for place in spread(unknown, MAX_HEADERS)]
    if not looked:
        return math.fsum(known), 0.0
    left = 1 - len(looked) / len(unknown)  # of the clips; a sample of all has no error
    error = SIGMAS * float(np.std(looked)) * math.sqrt(left / len(looked))
    return math.fsum(known) + len(unknown) * float(np.mean(looked)), len(unknown) * error


def _length(clip: Clip) -> float:
    try:
        rate, frames = header(clip.path, clip.time_expansion)
    except AudioFault:
        return 0.0
    return _stretch(clip, frames / rate)


def _stretch(clip: Clip, seconds: float) -> float:
    left = max(0.0, seconds - clip.start_s)
    return left if clip.duration_s is None else min(left, clip.duration_s)
