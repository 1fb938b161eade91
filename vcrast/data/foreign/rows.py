"""Open sounds in Arrow and Parquet: `arrow://<batch>.<row>.<column>/<name>::<file>`."""

from __future__ import annotations

import io
import os
import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from vcrast.data.clips import Texts
from vcrast.data.foreign.arrow import PARQUET, open_file, sounds_of
from vcrast.data.foreign.tars import Damaged
from vcrast.data.mapped import Lent, Mapped, attach
from vcrast.data.members import plain_name
from vcrast.data.sndfile import Opener
from vcrast.data.stretch import AudioFault

SCHEMES = {".arrow": "arrow", PARQUET: "parquet"}
ADDRESS = re.compile(r"(?:arrow|parquet)://(\d+)\.(\d+)\.([^/]*)/(.*?)::(.*)", re.DOTALL)
OPEN_FILES = 64


def row_address(group: int, row: int, column: str, name: str, file: str) -> str:
    """Make the path of a clip that lies in a row.

    Args:
        group: number of its batch or row group.
        row: its place in that.
        column: of sounds.
        name: that the clip is known by.
        file: the path.
    """
    scheme = SCHEMES[os.path.splitext(file)[1].lower()]
    return f"{scheme}://{group}.{row}.{column.replace('/', '%2F')}/{plain_name(name)}::{file}"


@dataclass(frozen=True)
class RowMembers:
    """Opens addresses of rows; sent to every process that reads.

    Attributes:
        kept_bytes: of the row groups of Parquet files that a process keeps, the last used; the very last always.
    """

    kept_bytes: int

    def __call__(self, path: str) -> Opener:
        """Return what opens the bytes of an address.

        Raises:
            AudioFault: no such file or row, or a damaged one.
        """
        found = ADDRESS.fullmatch(path)
        if found is None:
            raise AudioFault(path, "expected arrow://<batch>.<row>.<column>/<name>::<file>, or parquet://...")
        group, row, column, file = int(found[1]), int(found[2]), found[3].replace("%2F", "/"), found[5]
        try:
            sounds = _kept.group(file, group, column, self.kept_bytes)
            content = sounds[row].as_buffer()
        except FileNotFoundError:
            raise AudioFault(path, "missing file") from None
        except (Damaged, OSError, IndexError) as error:
            raise AudioFault(path, f"cannot be read ({error})") from None
        if content is None:
            raise AudioFault(path, "the row has no sound")
        return lambda: io.BytesIO(content)


class _Kept:
    """The row groups that were last read, and their sizes; for threads as well."""

    def __init__(self) -> None:
        self.groups: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self.lock = Lock()

    def group(self, file: str, group: int, column: str, kept_bytes: int) -> Any:
        """Return the sounds of a group, as an Arrow array."""
        found = os.stat(file)
        key = (file, found.st_ino, found.st_size, found.st_mtime_ns)
        opened = _opened(*key)
        if not file.lower().endswith(PARQUET):
            return sounds_of(opened, group, column)
        with self.lock:
            place = (*key, group, column)
            if place not in self.groups:
                self.groups[place] = sounds_of(opened, group, column)
                while len(self.groups) > 1 and sum(each.nbytes for each in self.groups.values()) > kept_bytes:
                    self.groups.popitem(last=False)
            self.groups.move_to_end(place)
            return self.groups[place]


_kept = _Kept()


@lru_cache(maxsize=OPEN_FILES)
def _opened(file: str, inode: int, size: int, mtime_ns: int) -> Any:  # noqa: ARG001 (another file otherwise)
    return open_file(Path(file))


class RowPaths:
    """The addresses of sounds in rows, or the files that rows name.

    Args:
        files: path of each file of rows.
        column: of sounds.
        numbers: `file`, `group` and `row` of each, (n,) int32, and `inside`, whether its sound is.
        names: of the sounds; the path of the file where the sound is not inside.
    """

    def __init__(self, files: tuple[str, ...], column: str, numbers: dict[str, np.ndarray], names: Texts) -> None:
        self.files, self.column, self.numbers, self.names = files, column, numbers, names
        self.lent = Lent()

    def __reduce__(self) -> tuple[Any, ...]:
        numbers = {name: self.lent.lend(each) for name, each in self.numbers.items()}
        return _attach, (self.files, self.column, numbers, self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> str:
        if not self.numbers["inside"][row]:
            return self.names[row]
        file, group, place = (int(self.numbers[name][row]) for name in ("file", "group", "row"))
        return row_address(group, place, self.column, self.names[row], self.files[file])


def _attach(files: tuple[str, ...], column: str, numbers: dict[str, np.ndarray | Mapped], names: Texts) -> RowPaths:
    return RowPaths(files, column, {name: attach(each) for name, each in numbers.items()}, names)
