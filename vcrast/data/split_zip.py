"""Read a zip that lies in several files (`a.z01`, ..., `a.zip`) as if it were one.

Its directory, at the end, names the file that an entry begins in and the place there; Python's `zipfile` reads places
from the beginning of one file. So the files are read one after the other, and behind them, from memory, the directory
with places counted from the first file's beginning. Nothing is copied on the disk.

Source: PKWARE's .ZIP file format specification 6.3.9, sections 4.3.12 to 4.3.16, 4.5.3 and 8.
"""

from __future__ import annotations

import io
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zipfile import BadZipFile, ZipFile

ENTRY = struct.Struct("<4s16s2L4H6sL")  # 16 and 6 bytes are taken over as they are
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
LONG, SHORT = 0xFFFFFFFF, 0xFFFF  # stand for a number that is too large here and stands in the zip64 field
ZIP64 = 1


class Directory(NamedTuple):
    """Where the directory lies: the file it begins in, the place there, its bytes, how many entries and files."""

    disk: int
    place: int
    size: int
    num_entries: int
    num_files: int


class Joined(io.RawIOBase):
    """The bytes of several files, one after the other, to read and to seek in.

    Attributes:
        starts: the place where each file begins, and where the last one ends.
    """

    def __init__(self, files: Sequence[BinaryIO]) -> None:
        super().__init__()
        self._files, self._place = files, 0
        self.starts = [0, *accumulate(file.seek(0, os.SEEK_END) for file in files)]

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; errors as of any file."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.starts[-1]}[whence]
        if self._place < 0:
            raise OSError("a place before the beginning")
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read up to the end of the file that the place lies in; 0 at the end of the last one."""
        if self._place >= self.starts[-1]:
            return 0
        number = bisect_right(self.starts, self._place) - 1
        file = self._files[number]
        file.seek(self._place - self.starts[number])
        read = file.readinto(memoryview(buffer)[: self.starts[number + 1] - self._place])  # type: ignore[attr-defined]
        self._place += read
        return int(read)


@contextmanager
def open_split(paths: Sequence[Path]) -> Iterator[ZipFile]:
    """Open a zip that lies in one file or in several.

    Args:
        paths: all of its files in order; the one with the directory, `.zip`, is the last.

    Raises:
        BadZipFile: no zip file, a file is missing or of another archive, or the directory is damaged.
    """
    with ExitStack() as stack:
        if len(paths) == 1:
            yield stack.enter_context(ZipFile(paths[0]))
            return
        files = [stack.enter_context(open(path, "rb")) for path in paths]
        directory = io.BytesIO(_directory(Joined(files)))
        yield stack.enter_context(ZipFile(io.BufferedReader(Joined([*files, directory]), 1 << 20)))


def _directory(joined: Joined) -> bytes:
    """Return the directory and its end records for the joined file, whose places begin at its beginning."""
    found = _find(joined)
    num_files = len(joined.starts) - 1
    if found.num_files != num_files:
        raise BadZipFile(f"it lies in {found.num_files} files, not in {num_files}")
    entries = _read(joined, _absolute(joined, found.disk, found.place), found.size)
    changed, place = bytearray(), 0
    for _ in range(found.num_entries):
        entry, place = _moved(joined, entries, place)
        changed += entry
    if place != len(entries):
        raise BadZipFile("its directory is not as long as it says")
    total, size, count = joined.starts[-1], len(changed), found.num_entries
    return b"".join([
        changed,
        END64.pack(b"PK\6\6", END64.size - 12, 45, 45, 0, 0, count, count, size, total),
        LOCATOR64.pack(b"PK\6\7", 0, total + size, 1),
        END.pack(b"PK\5\6", 0, 0, SHORT, SHORT, LONG, LONG, 0),
    ])  # fmt: skip


def _find(joined: Joined) -> Directory:
    """Read the end records, which lie behind the directory in the last file."""
    total = joined.starts[-1]
    first = max(0, total - END.size - SHORT)
    tail = _read(joined, first, total - first)
    place = len(tail)
    while (place := tail.rfind(b"PK\5\6", 0, place)) >= 0:
        if place + END.size <= len(tail) == place + END.size + END.unpack_from(tail, place)[-1]:
            break  # a comment reaches to the end
    else:
        raise BadZipFile("the last of its files has no directory")
    _, disk, start_disk, _, count, size, start, _ = END.unpack_from(tail, place)
    found = Directory(start_disk, start, size, count, disk + 1)
    if place >= LOCATOR64.size and tail[place - LOCATOR64.size :].startswith(b"PK\6\7"):
        _, disk, end, _ = LOCATOR64.unpack_from(tail, place - LOCATOR64.size)
        record = _read(joined, _absolute(joined, disk, end), END64.size)
        if not record.startswith(b"PK\6\6"):
            raise BadZipFile("its zip64 directory is damaged")
        *_, disk, start_disk, _, count, size, start = END64.unpack(record)
        found = Directory(start_disk, start, size, count, disk + 1)
    return found


def _moved(joined: Joined, entries: bytes, at: int) -> tuple[bytes, int]:
    """Return one entry of the directory with its place in the joined file, and where the next one begins."""
    if not entries.startswith(b"PK\1\2", at) or at + ENTRY.size > len(entries):
        raise BadZipFile("its directory is damaged")
    sign, before, packed, size, name, extra, comment, disk, after, place = ENTRY.unpack_from(entries, at)
    fields = at + ENTRY.size + name
    end = fields + extra + comment
    if end > len(entries):
        raise BadZipFile("its directory is cut")
    numbers, others = _fields(entries[fields : fields + extra])
    # In the zip64 field stand, in this order, only those numbers that are too large for their own.
    values = {"size": size, "packed": packed, "place": place, "disk": disk}
    for key, large, form in (
        ("size", LONG, "<Q"),
        ("packed", LONG, "<Q"),
        ("place", LONG, "<Q"),
        ("disk", SHORT, "<L"),
    ):
        if values[key] == large:
            if len(numbers) < struct.calcsize(form):
                raise BadZipFile("its directory lacks a zip64 field")
            (values[key],) = struct.unpack_from(form, numbers)
            numbers = numbers[struct.calcsize(form) :]
    start = _absolute(joined, values["disk"], values["place"])
    field = struct.pack("<2H3Q", ZIP64, 24, values["size"], values["packed"], start)
    head = ENTRY.pack(sign, before, LONG, LONG, name, len(field) + len(others), comment, 0, after, LONG)
    return head + entries[at + ENTRY.size : fields] + field + others + entries[fields + extra : end], end


def _fields(extra: bytes) -> tuple[bytes, bytes]:
    """Return the zip64 field's numbers and the other extra fields of an entry."""
    numbers, others = b"", b""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<2H", extra)
        if kind == ZIP64:
            numbers = extra[4 : 4 + size]
        else:
            others += extra[: 4 + size]
        extra = extra[4 + size :]
    return numbers, others


def _absolute(joined: Joined, disk: int, place: int) -> int:
    """Return a place in one of the files as one in the joined file."""
    if disk >= len(joined.starts) - 1:
        raise BadZipFile(f"its directory names file {disk + 1} of {len(joined.starts) - 1}")
    return joined.starts[disk] + place


def _read(joined: Joined, place: int, size: int) -> bytes:
    if place + size > joined.starts[-1]:
        raise BadZipFile("its directory lies outside its files")
    joined.seek(place)
    data = bytearray()
    while len(data) < size:  # one read ends where a file ends
        data += joined.read(size - len(data)) or b""
    return bytes(data)
