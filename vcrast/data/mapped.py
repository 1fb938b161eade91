"""Send arrays to worker processes as memory maps of one file rather than as copies.

A worker that is sent two million clips by value would take seconds to read them and keep them all.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any, NamedTuple

import numpy as np

LARGE = 1 << 16  # bytes; smaller arrays are copied


class Mapped(NamedTuple):
    """An array in a file: what `attach` opens.

    Attributes:
        path: of the file; of one without a name `/proc/<process>/fd/<number>`, there as long as that process is.
        dtype: of the array, as numpy writes it.
        shape: of the array.
        offset: bytes before it.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Lent:
    """Lends the arrays of one object to other processes; each is written to a file at most once.

    The file has no name, so that nothing stays behind a process that was killed.
    """

    def __init__(self) -> None:
        self.files: dict[int, tuple[np.ndarray, Any, Mapped]] = {}

    def lend(self, array: np.ndarray) -> np.ndarray | Mapped:
        """Return what to pickle in place of an array: itself if it is small, or cannot be written anywhere."""
        if array.nbytes < LARGE:
            return np.array(array)  # a part of a memory map would be pickled with its file's name
        if isinstance(array, np.memmap) and array.filename is not None and array.flags.c_contiguous:
            base = array.base if isinstance(array.base, np.memmap) else array
            offset = base.offset + array.ctypes.data - base.ctypes.data
            return Mapped(os.fspath(array.filename), array.dtype.str, array.shape, int(offset))
        known = self.files.get(id(array))
        if known is not None:
            return known[2]
        try:
            file = tempfile.TemporaryFile(prefix="vcrast-")  # noqa: SIM115 (open as long as it is lent)
            array.tofile(file)
            file.flush()
            mapped = Mapped(f"/proc/{os.getpid()}/fd/{file.fileno()}", array.dtype.str, array.shape, 0)
            attach(mapped)
        except OSError:  # a full disk, or a system without /proc: by value, then
            return array
        self.files[id(array)] = array, file, mapped
        return mapped


def attach(lent: np.ndarray | Mapped) -> np.ndarray:
    """Return the array that `Lent.lend` stood for."""
    if not isinstance(lent, Mapped):
        return lent
    return np.memmap(lent.path, dtype=lent.dtype, mode="r", shape=lent.shape, offset=lent.offset)
