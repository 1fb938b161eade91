"""Read the recordings that views mix in: all sounds of a folder, kept in memory."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vcrast.data.audio import AudioFault, header, read_wav, sound_suffixes
from vcrast.data.clip import Clip
from vcrast.data.corpus import WHOLE, Corpus
from vcrast.data.fingerprint import fingerprint
from vcrast.data.listing import find_sounds
from vcrast.data.preflight import fault_list

KEY = "background_folder"
MAX_BYTES = 2 * 1024**3  # on each GPU: 9 hours at 16 kHz


def recordings(views: Mapping[str, Any], *, root: str | None, sample_rate: int) -> tuple[Tensor, ...]:
    """Decode the sounds of `views.background_folder`, in the order of their paths; none where it is null.

    A file is decoded once in a process, as long as it stays as it is.

    Args:
        views: the options of the views of a stage.
        root: `data.root`, see `find_folder`.
        sample_rate: wanted, Hz.

    Returns:
        Mono waveforms (S,), float32 in [-1, 1].

    Raises:
        ValueError: no such folder, no sound in it, one that cannot be decoded, or more than `MAX_BYTES`.
    """
    folder = views.get(KEY)  # settings of an earlier version lack it; the views say so, in one line
    if folder is None:
        return ()
    paths = _sounds(folder, root)
    found, faults, size = [], [], 0.0
    for path in paths:
        try:
            rate, frames = header(path)
            size += 4 * frames / rate * sample_rate
            if size <= MAX_BYTES:
                stat = os.stat(path)
                found.append(_read(path, sample_rate, stat.st_size, stat.st_mtime_ns))
        except AudioFault as fault:
            faults.append(str(fault))
    if faults:
        raise ValueError(
            f"views.{KEY}={folder}: {len(faults)} of {len(paths)} sounds cannot be used{fault_list(faults)}"
        )
    if size > MAX_BYTES:
        hours, most = (each / 4 / sample_rate / 3600 for each in (size, MAX_BYTES))
        raise ValueError(f"views.{KEY}={folder}: {hours:.1f} hours of sound, at most {most:.1f} fit; take fewer files")
    return tuple(found)


def recordings_identity(views: Mapping[str, Any], *, root: str | None) -> dict[str, Any] | None:
    """Fingerprint these sounds, wherever they lie; None where there are none. Errors as in `recordings`."""
    folder = views.get(KEY)
    if folder is None:
        return None
    clips = tuple(Clip(path, ()) for path in _sounds(folder, root))
    return fingerprint(Corpus(KEY, clips, (), False, ()), WHOLE)


def find_folder(folder: str, root: str | None) -> Path:
    """Find a folder of sounds, or a single one: where its path leads, else in `root`, else in a folder of `root`.

    Raises:
        ValueError: it is in none of these places.
    """
    named = Path(folder).expanduser()
    if named.exists():
        return named
    base = None if root is None or named.is_absolute() else Path(root).expanduser()
    if base is not None and base.is_dir():
        for place in (base, *sorted(path for path in base.iterdir() if path.is_dir())):
            if (place / named).exists():
                return place / named
    where = "" if base is None else f", nor in data.root={root}"
    raise ValueError(f"views.{KEY}={folder}: no such folder{where}")


def _sounds(folder: str, root: str | None) -> list[str]:
    place = find_folder(folder, root)
    listing = find_sounds(place)
    if listing.lost:
        raise ValueError(f"views.{KEY}={folder}: {'; '.join(listing.notes())}")
    if not listing.sounds:
        raise ValueError(f"views.{KEY}={folder}: no sound in {place} ({', '.join(sound_suffixes())})")
    return [str(path) for path in listing.sounds]


@functools.lru_cache(maxsize=1000)
def _read(path: str, sample_rate: int, *stamp: int) -> Tensor:  # noqa: ARG001 part of the key
    return torch.from_numpy(read_wav(path, sample_rate=sample_rate, keep_silent=True))
