"""Index a set of tars once, and keep the index: a million samples are opened in a second."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vcrast.config.atomic import write_atomic
from vcrast.data.clips import Texts
from vcrast.data.foreign.fields import Collector, Field
from vcrast.data.foreign.files import reading_threads
from vcrast.data.foreign.tars import Damaged, Samples, Wanted, scan_tar
from vcrast.data.mapped import Lent, Mapped, attach
from vcrast.data.members import address
from vcrast.data.preflight import fault_list

log = logging.getLogger(__name__)
VERSION = 1  # raise when an index holds something else
PROGRESS_S = 5.0
NUMBERS = ("tar", "offset", "size", "names", "name_starts")


class TarIndex(NamedTuple):
    """The samples of all tars.

    Attributes:
        numbers: `tar` (n,) int32, `offset` and `size` (n,) int64 of the sounds, their names as in `Texts`.
        fields: what samples have under the usual names and the one asked for.
        keys: names of all fields.
        faults: of samples that cannot be used, with their files.
        not_whole: files whose end is not marked.
    """

    numbers: dict[str, np.ndarray]
    fields: dict[str, Field]
    keys: tuple[str, ...]
    faults: tuple[str, ...]
    not_whole: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.numbers["tar"])


class TarPaths:
    """The addresses of sounds in tars, see `vcrast.data.members`.

    Args:
        files: path of each tar.
        numbers: of the index.
    """

    def __init__(self, files: tuple[str, ...], numbers: dict[str, np.ndarray]) -> None:
        self.files = files
        self.numbers = {name: numbers[name] for name in ("tar", "offset", "size")}
        self.names = Texts(numbers["names"], numbers["name_starts"])
        self.lent = Lent()

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (self.files, {key: self.lent.lend(each) for key, each in self.numbers.items()}, self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> str:
        tar, offset, size = (int(self.numbers[name][row]) for name in ("tar", "offset", "size"))
        return address(offset, size, None, self.names[row], self.files[tar])


def _attach(files: tuple[str, ...], numbers: dict[str, np.ndarray | Mapped], names: Texts) -> TarPaths:
    found = {name: attach(each) for name, each in numbers.items()}
    return TarPaths(files, {**found, "names": names.content, "name_starts": names.starts})


def index_tars(files: Sequence[Path], below: Sequence[str], wanted: Wanted, folder: Path) -> TarIndex:
    """Index tars, or read the index that was kept for files of these names, sizes and times of change.

    Args:
        files: the tars.
        below: what each is called in messages.
        wanted: what to look for.
        folder: where the index is kept.

    Raises:
        ValueError: tars that are compressed, cut or none; lists the first 20.
    """
    path = folder / f"tars-{_key(files, below, wanted)}.npz"
    try:
        return _unpack(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        log.warning("data: %s is damaged (%s); reading the tars again", path, error)
    index = _join(_scan(files, below, wanted), below)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _pack(index))
    except OSError as error:
        log.info("data: the index of %d tars is not kept in %s (%s)", len(files), folder, error)
    return index


def _key(files: Sequence[Path], below: Sequence[str], wanted: Wanted) -> str:
    stats = [(name, found.st_size, found.st_mtime_ns) for name, found in zip(below, map(os.stat, files), strict=True)]
    return hashlib.blake2b(json.dumps([VERSION, stats, asdict(wanted)]).encode(), digest_size=12).hexdigest()


def _scan(files: Sequence[Path], below: Sequence[str], wanted: Wanted) -> list[Samples]:
    found: list[Samples] = []
    faults = []
    start = last = time.monotonic()
    # Headers lie far apart: reading them waits for the disk or the network and releases the interpreter.
    with reading_threads() as pool:
        for name, samples in zip(below, pool.map(lambda file: _scanned(file, wanted), files), strict=True):
            if isinstance(samples, str):
                faults.append(f"{name}: {samples}")
            else:
                found.append(samples)
            if time.monotonic() - last > PROGRESS_S:
                last = time.monotonic()
                done = len(found) + len(faults)
                log.info("data: %d of %d tars indexed, %.0f s", done, len(files), last - start)
    if faults:
        raise ValueError(f"{len(faults)} of {len(files)} tars cannot be used{fault_list(faults)}")
    log.info("data: %d samples in %d tars", sum(len(samples.names) for samples in found), len(files))
    return found


def _scanned(file: Path, wanted: Wanted) -> Samples | str:
    try:
        return scan_tar(file, wanted)
    except (Damaged, OSError) as error:
        return str(error)


def _join(found: Sequence[Samples], below: Sequence[str]) -> TarIndex:
    sizes = [len(samples.names) for samples in found]
    names = [os.fsencode(name) for samples in found for name in samples.names]
    numbers = {
        "tar": np.repeat(np.arange(len(found)), sizes).astype(np.int32),
        "offset": np.concatenate([np.array(samples.offset, np.int64) for samples in found]),
        "size": np.concatenate([np.array(samples.size, np.int64) for samples in found]),
        "names": np.frombuffer(b"".join(names), np.uint8),
        "name_starts": np.concatenate([[0], np.cumsum([len(name) for name in names])]).astype(np.int64),
    }
    fields = {
        name: _join_field([(samples.codes.get(name), samples.values.get(name, ())) for samples in found], sizes)
        for name in dict.fromkeys(name for samples in found for name in samples.codes)
    }
    each = list(zip(below, found, strict=True))
    return TarIndex(
        numbers,
        fields,
        tuple(sorted({key for samples in found for key in samples.keys})),
        tuple(f"{file}: {name}: {reason}" for file, samples in each for name, reason in samples.faults),
        tuple(file for file, samples in each if not samples.whole),
    )


def _join_field(parts: Iterable[tuple[Sequence[int] | None, Sequence[Any]]], sizes: Sequence[int]) -> Field:
    """Number the values of all tars anew."""
    collector, codes = Collector(), []
    for (old, values), size in zip(parts, sizes, strict=True):
        number = np.array([*(collector.code(value) for value in values), -1], np.int32)
        codes.append(np.full(size, -1, np.int32) if old is None else number[np.array(old, np.int32)])
    return Field(np.concatenate(codes), collector.values)


def _pack(index: TarIndex) -> bytes:
    about = {
        "values": {name: field.values for name, field in index.fields.items()},
        "keys": index.keys, "faults": index.faults, "not_whole": index.not_whole,
    }  # fmt: skip
    codes = {f"codes{place}": field.codes for place, field in enumerate(index.fields.values())}
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, about=text, **index.numbers, **codes)
    return buffer.getvalue()


def _unpack(path: Path) -> TarIndex:
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(bytes(stored["about"]))
        numbers = {name: stored[name] for name in NUMBERS}
        fields = {
            name: Field(stored[f"codes{place}"], values) for place, (name, values) in enumerate(about["values"].items())
        }
    return TarIndex(numbers, fields, tuple(about["keys"]), tuple(about["faults"]), tuple(about["not_whole"]))
