"""Write one shard: a tar file whose bytes depend on its clips alone, and its index."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vcrast.config.atomic import open_aside, publish, write_atomic
from vcrast.data.audio import AudioFault, read_scaled
from vcrast.data.clip import Clip
from vcrast.data.clips import Clips
from vcrast.data.fingerprint import clip_name
from vcrast.data.shards.encode import SUFFIX, encode
from vcrast.data.shards.layout import COLUMNS, PARTS, Shard

BLOCK = 512  # bytes of a tar's unit
NUMBERS = ("offset", "size", "crc", "num_samples")


@dataclass(frozen=True)
class Packing:
    """How clips become shards.

    Attributes:
        codec: `flac`, `wav` or `opus`.
        sample_rate: Hz.
        clips_per_shard: clips in each file.
        keep_silent: as in `read_wav`.
        max_bad_fraction: of the clips that may be unreadable; they are left out.
    """

    codec: str
    sample_rate: int
    clips_per_shard: int
    keep_silent: bool
    max_bad_fraction: float


@dataclass(frozen=True)
class Task:
    """One shard to write: its clips, their places in the corpus, names of classes."""

    out: Path
    shard: int
    clips: Clips
    places: np.ndarray
    base: str
    classes: tuple[str, ...]
    packing: Packing


def part_file(out: Path, shard: int) -> Path:
    """Return where the rows of a shard are, once it is whole."""
    return out / PARTS / f"{shard_name(shard)}.npz"


def shard_name(shard: int) -> str:
    """Name a shard, without the ending."""
    return f"clips-{shard:06d}"


def write_shard(task: Task) -> tuple[str, list[str]]:
    """Write one shard and the rows of its clips; returns its name and the faults of its clips."""
    packing, path = task.packing, task.out / f"{shard_name(task.shard)}.tar"
    rows: list[dict[str, Any]] = []
    left_out: list[tuple[str, str]] = []
    try:
        with open_aside(path) as file:
            writer = TarWriter(file)
            for place, clip in zip(task.places.tolist(), task.clips, strict=True):
                try:
                    wav = read_scaled(
                        clip.path, sample_rate=packing.sample_rate, start_s=clip.start_s, duration_s=clip.duration_s,
                        keep_silent=packing.keep_silent, time_expansion=clip.time_expansion,
                    ).wav  # fmt: skip
                except AudioFault as fault:
                    left_out.append((clip_name(clip.path, task.base), fault.reason))
                    continue
                rows.append(_add(writer, place, clip, wav, task))
            writer.close()
            publish(file, path)
        digest = writer.digest.hexdigest()
        part = _rows(rows, left_out, Shard(path.name, len(rows), writer.place, digest))
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **part)
        write_atomic(part_file(task.out, task.shard), buffer.getvalue())
    except OSError as error:
        raise OSError(f"{path}: {error.strerror or error}; run the command again to go on") from None
    return path.name, [f"{name}: {reason}" for name, reason in left_out]


def _add(writer: TarWriter, place: int, clip: Clip, wav: np.ndarray, task: Task) -> dict[str, Any]:
    """Write a clip's two files; returns its row of the index."""
    packing = task.packing
    content, key, name = (
        encode(wav, packing.sample_rate, packing.codec),
        f"{place:09d}",
        clip_name(clip.path, task.base),
    )
    offset = writer.add(f"{key}{SUFFIX[packing.codec]}", content)
    about = {
        "path": name, "start_s": clip.start_s, "duration_s": clip.duration_s,
        "label": list(clip.labels), "labels": [task.classes[label] for label in clip.labels], "fold": clip.fold,
        "sample_rate": packing.sample_rate, "num_samples": len(wav), **({"extra": clip.extra} if clip.extra else {}),
    }  # fmt: skip
    writer.add(f"{key}.json", json.dumps(about, ensure_ascii=False).encode("utf-8", "surrogateescape"))
    return {
        "place": place, "offset": offset, "size": len(content), "crc": zlib.crc32(content), "num_samples": len(wav),
        "fold": clip.fold, "labels": clip.labels,
        "name": f"{name}@{clip.start_s!r}" if clip.start_s or clip.duration_s is not None else name,
    }  # fmt: skip


class TarWriter:
    """Writes a tar whose bytes depend on nothing but its members, hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.place, self.digest = file, 0, hashlib.sha256()

    def add(self, name: str, content: bytes) -> int:
        """Append a member; returns where its bytes begin."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        start = self.place
        self._write(content + bytes(-len(content) % BLOCK))
        return start

    def close(self) -> None:
        """Append the end: two empty blocks."""
        self._write(bytes(2 * BLOCK))

    def _write(self, content: bytes) -> None:
        self.file.write(content)
        self.digest.update(content)
        self.place += len(content)


def _rows(rows: Sequence[dict[str, Any]], left_out: Sequence[tuple[str, str]], shard: Shard) -> dict[str, np.ndarray]:
    """Turn the rows of a shard into arrays that are saved without pickling."""
    names = [os.fsencode(row["name"]) for row in rows]
    about = {"shard": shard._asdict(), "left_out": left_out, "fold": [row["fold"] for row in rows]}
    return {
        **{
            name: np.array([row[name] for row in rows], COLUMNS[name])
            for name in ("offset", "size", "crc", "num_samples")
        },
        "place": np.array([row["place"] for row in rows], np.int64),
        "labels": np.array([label for row in rows for label in row["labels"]], np.int32),
        "label_counts": np.array([len(row["labels"]) for row in rows], np.int64),
        "names": np.frombuffer(b"".join(names), np.uint8),
        "name_counts": np.array([len(name) for name in names], np.int64),
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
    }
