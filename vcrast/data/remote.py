"""Keep copies of remote files: bounded, least recently used, shared by processes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from vcrast.data.download import fetch

T = TypeVar("T")
log = logging.getLogger(__name__)
PAUSE_S = 1.0
TOUCH_S = 60.0  # a copy's time of use is noted no more often
PART = ".part"


class StoreError(Exception):
    """A file of another machine cannot be had: no clip's fault, training stops with a checkpoint."""


def is_remote(path: str) -> bool:
    """Tell a URL from a path."""
    return "://" in path


@dataclass(frozen=True)
class RemoteFiles:
    """Fetches whole files by http, https, or what fsspec knows (s3, gs, az, hf, sftp, ...).

    Attributes:
        folder: of the copies; several processes may use one.
        max_bytes: of all copies together; the least recently used are removed. A file larger than that is kept alone.
        attempts: in a row without progress, before giving up.
        pause_s: before the first repetition; doubles with each.
    """

    folder: Path
    max_bytes: int
    attempts: int = 1
    pause_s: float = PAUSE_S

    def path(self, url: str) -> str:
        """Return where the copy of a file is, fetched now if need be; it may give way to others at once.

        Raises:
            StoreError: it cannot be fetched, or the disk is full.
        """
        return self.use(url, str)

    def use(self, url: str, read: Callable[[str], T]) -> T:
        """Call `read` with the path of a file's copy, which is there until it returns.

        Raises:
            StoreError: it cannot be fetched, or the disk is full.
        """
        copy = self._place(url)
        if _is_there(copy):
            with contextlib.suppress(FileNotFoundError):  # it has just given way to others
                return read(str(copy))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(_lock_of(copy)):  # whoever makes room leaves it alone
                if not _is_there(copy):
                    self._fetch(url, copy)
                return read(str(copy))
        except OSError as error:
            raise StoreError(str(error) if str(error).startswith(url) else f"{url}: {error}") from None

    def forget(self, url: str) -> None:
        """Remove the copy of a file, if there is one; who is opening it is waited for."""
        copy = self._place(url)
        if copy.exists():
            with FileLock(_lock_of(copy)):
                copy.unlink(missing_ok=True)

    def _place(self, url: str) -> Path:
        name = urlsplit(url).path.rpartition("/")[2] or "file"
        return self.folder / f"{hashlib.blake2b(url.encode(), digest_size=8).hexdigest()}-{name}"

    def _fetch(self, url: str, copy: Path) -> None:
        """Fetch a file whose lock is held; make room before and, where the disk is full, as much as there is."""
        part = copy.with_name(copy.name + PART)
        log.debug("fetching %s", url)
        self._make_room(self.max_bytes)
        try:
            self._transfer(url, copy)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            part.unlink(missing_ok=True)
            self._make_room(0)
            try:
                self._transfer(url, copy)
            except OSError as again:
                part.unlink(missing_ok=True)
                if again.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise OSError(f"the disk of {self.folder} is full; set data.cache_dir to another one") from None
        self._make_room(self.max_bytes, keep=copy)

    def _transfer(self, url: str, copy: Path) -> None:
        if urlsplit(url).scheme in ("http", "https"):
            fetch(url, copy, attempts=self.attempts, pause_s=self.pause_s)
        else:
            self._get(url, copy)

    def _get(self, url: str, copy: Path) -> None:
        """Fetch through fsspec, again from the beginning where a transfer fails.

        Raises:
            ConnectionError: it fails `attempts` times, or no such file.
            OSError: the disk is full.
        """
        part = copy.with_name(copy.name + PART)
        for attempt in range(1, self.attempts + 1):
            try:
                system, inside = filesystem(url)
                size = system.size(inside)
                system.get_file(inside, str(part))
                if size is not None and part.stat().st_size != size:
                    raise ConnectionError(f"{part.stat().st_size} of {size} bytes came")
                part.replace(copy)
                return
            except FileNotFoundError:
                raise ConnectionError("no such file there") from None
            except Exception as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                if isinstance(error, ImportError | PermissionError) or attempt == self.attempts:
                    raise ConnectionError(f"{error}; gave up after {attempt} attempts") from None
                wait_s = self.pause_s * 2 ** (attempt - 1)
                log.info("%s: %s; trying again in %.0f s", url, error, wait_s)
                time.sleep(wait_s)

    def _make_room(self, max_bytes: int, keep: Path | None = None) -> None:
        """Remove copies, least recently used first, until the others are no more than `max_bytes`.

        Who is reading one goes on with it: a file without a name is there until it is closed.
        """
        copies = []
        for path in self.folder.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if path.is_file() and path.suffix != ".lock":
                    copies.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies):
            if total <= max_bytes:
                return
            if path != keep and not path.name.endswith((PART, ".etag")):
                with contextlib.suppress(Timeout), FileLock(_lock_of(path), blocking=False):
                    path.unlink(missing_ok=True)
                    total -= size


def _lock_of(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.lock")


def _is_there(copy: Path) -> bool:
    try:
        found = copy.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if time.time() - found.st_mtime > TOUCH_S:
        with contextlib.suppress(OSError):
            os.utime(copy)
    return True


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it.

    Raises:
        ImportError: it needs a package that is not installed, such as s3fs; names it.
    """
    import fsspec  # type: ignore[import-untyped]  # has no annotations

    system, inside = fsspec.core.url_to_fs(url)
    return system, inside
