"""Open sounds that lie in larger files: `tar://<offset>+<size>+<crc>/<name>::<file>`."""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

from vcrast.data.remote import RemoteFiles, is_remote
from vcrast.data.sndfile import Opener
from vcrast.data.stretch import AudioFault

SCHEME = "tar"
ADDRESS = re.compile(r"tar://(\d+)\+(\d+)(?:\+([0-9a-f]{8}))?/(.*?)::(.*)", re.DOTALL)
WHOLE_BYTES = 1 << 22  # larger members are read where they lie, and their checksum is left to `vcrast data verify`
OPEN_FILES = 64


def address(offset: int, size: int, crc: int | None, name: str, file: str) -> str:
    """Make the path of a clip that lies in a file.

    Args:
        offset: its first byte.
        size: its bytes.
        crc: CRC-32 of them, or None.
        name: that the clip is known by.
        file: a path or URL.
    """
    checksum = "" if crc is None else f"+{crc:08x}"
    return f"{SCHEME}://{offset}+{size}{checksum}/{plain_name(name)}::{file}"


def plain_name(name: str) -> str:
    """A name without what ends it in an address."""
    return re.sub("::+", ":", name).rstrip(":")


def file_of(path: str) -> str:
    """Return the file that an address leads to."""
    return path.split("::", 1)[1]


def name_of(path: str) -> str:
    """Return the name that an address has for its clip."""
    return path.split("://", 1)[1].split("/", 1)[1].split("::", 1)[0]


@dataclass(frozen=True)
class Members:
    """Opens addresses; sent to every process that reads.

    Attributes:
        remote: keeps copies of files that are not on this machine.
    """

    remote: RemoteFiles

    def __call__(self, path: str) -> Opener:
        """Return what opens the bytes of an address, which are read and checked now unless they are many.

        Raises:
            AudioFault: no such file, fewer bytes than the address says, or others.
            StoreError: another machine's file cannot be fetched.
        """
        found = ADDRESS.fullmatch(path)
        if found is None:
            raise AudioFault(path, "expected tar://<offset>+<size>+<crc>/<name>::<file>")
        offset, size, file = int(found[1]), int(found[2]), found[5]
        wanted = None if found[3] is None else int(found[3], 16)
        if not is_remote(file):
            return _opener(path, _open(file, path), offset, size, wanted)
        try:
            return _opener(path, self.remote.use(file, _opened), offset, size, wanted)
        except AudioFault:  # the copy here may be damaged, rather than the file there
            self.remote.forget(file)
        return _opener(path, self.remote.use(file, _opened), offset, size, wanted)


def _opener(path: str, file: OpenFile, offset: int, size: int, crc: int | None) -> Callable[[], BinaryIO]:
    if size > WHOLE_BYTES:
        if offset + size > os.fstat(file.number).st_size:
            raise AudioFault(path, f"truncated: the file ends before byte {offset + size}")
        return lambda: io.BufferedReader(Piece(file, offset, size))
    content = file.read(offset, size)
    if len(content) < size:
        raise AudioFault(path, f"truncated: {len(content)} of {size} bytes are there")
    if crc is not None and zlib.crc32(content) != crc:
        raise AudioFault(path, "damaged: its checksum is another one")
    return lambda: io.BytesIO(content)


class OpenFile:
    """A file that several threads read; closed when nobody has it any more."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, size: int) -> bytes:
        """Read as many bytes as are there."""
        return os.pread(self.number, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class Piece(io.RawIOBase):
    """A stretch of a file, read where it lies."""

    def __init__(self, file: OpenFile, offset: int, size: int) -> None:
        super().__init__()
        self.file, self.offset, self.size, self.place = file, offset, size, 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be gone to any place of."""
        return True

    def tell(self) -> int:
        """The place, from the beginning of the stretch."""
        return self.place

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        self.place = max(0, start + offset)
        return self.place

    def readinto(self, buffer: Any, /) -> int:
        """Read up to the end of the stretch."""
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self.size - self.place))
        found = self.file.read(self.offset + self.place, wanted)
        view[: len(found)] = found
        self.place += len(found)
        return len(found)


def _open(file: str, path: str) -> OpenFile:
    """Open the file of an address.

    Raises:
        AudioFault: it is not there, or cannot be opened.
    """
    try:
        return _opened(file)
    except FileNotFoundError:
        raise AudioFault(path, "missing file") from None
    except OSError as error:
        raise AudioFault(path, f"cannot be opened ({error.strerror or error})") from None


def _opened(file: str) -> OpenFile:
    """Open a file, once for all clips in it as long as it is the same one."""
    found = os.stat(file)
    return _opened_once(file, found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=OPEN_FILES)
def _opened_once(file: str, inode: int, size: int, mtime_ns: int) -> OpenFile:  # noqa: ARG001 (another file otherwise)
    return OpenFile(file)
