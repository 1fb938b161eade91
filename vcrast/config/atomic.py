"""Write a file aside, sync it, rename it: a reader never sees half of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".tmp"
# Another machine's writer cannot always be asked whether it lives; none pauses for an hour between two writes.
SILENT_S = 3600.0


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace the content of a file, or make the file; text is written as UTF-8.

    Raises:
        OSError: the disk is full or refuses; the file is as it was, and nothing is left beside it.
    """
    with open_aside(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
        publish(file, path)


@contextlib.contextmanager
def open_aside(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, open for writing; removed when the block ends, unless `publish` gave it a name."""
    with _create_locked(path) as file:
        try:
            yield file
        finally:
            Path(file.name).unlink(missing_ok=True)


def publish(file: BinaryIO, path: Path) -> None:
    """Give a file from `open_aside` its name, once its content is on the disk itself."""
    file.flush()
    os.fsync(file.fileno())
    os.replace(file.name, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_abandoned(folder: Path) -> None:
    """Delete what writers that were killed left aside; what another machine wrote only after an hour of silence."""
    for path in folder.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            silent = time.time() - os.fstat(file.fileno()).st_mtime > SILENT_S
            if silent or path.name.endswith(f".{socket.gethostname()}{SUFFIX}"):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while the writer lives
                path.unlink()


def _create_locked(path: Path) -> BinaryIO:
    """A new file beside `path`; the kernel holds its lock until it is closed or its writer dies."""
    while True:
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.{socket.gethostname()}{SUFFIX}")
        file = open(aside, "xb")  # noqa: SIM115 the caller closes it
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # else another process cleared up before it was locked
            return file
        file.close()
