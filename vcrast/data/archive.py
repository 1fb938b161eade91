"""Fetch a dataset's archive, unpack it within limits, check its content."""

from __future__ import annotations

import gzip
import hashlib
import logging
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vcrast.data.download import fetch
from vcrast.data.split_zip import open_split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """A dataset as its publisher packs it.

    Attributes:
        url: http or https.
        name: of the file while it is here.
        folder: of the unpacked dataset, below the root.
        max_bytes: that it may unpack to.
        max_files: entries that it may have.
        fault: says what is missing in an unpacked folder, or "".
        licence: under which it is published.
        checksum: of the file, as `sha256:...` or `md5:...`; None where a server packs it anew for each request.
        before: of a zip that lies in several files, the names of those before it, in order, beside it; their checksums.
    """

    url: str
    name: str
    folder: str
    max_bytes: int
    max_files: int
    fault: Callable[[Path], str]
    licence: str
    checksum: str | None = None
    before: tuple[tuple[str, str | None], ...] = ()

    @property
    def files(self) -> list[tuple[str, str, str | None]]:
        """Address, name and checksum of each file, in order."""
        folder = self.url.rpartition("/")[0]
        return [*((f"{folder}/{name}", name, checksum) for name, checksum in self.before),
                (self.url, self.name, self.checksum)]  # fmt: skip


def install_once(archive: Archive, root: Path, *, url: str, pause_s: float) -> Path:
    """Call `install`, unless the dataset is in `root` already, or in its folder there.

    Args:
        archive: what to fetch.
        root: the folder.
        url: of the archive; from another place than its own only the content is checked, not the checksum.
        pause_s: before a failed transfer is repeated.

    Returns:
        The folder of the dataset; errors as in `install`.
    """
    for folder in (root, root / archive.folder):
        if not archive.fault(folder):
            log.info("%s (%s) is already in %s", archive.folder, archive.licence, folder)
            return folder
    checksum = archive.checksum if url == archive.url else None
    return install(replace(archive, url=url, checksum=checksum), root, pause_s=pause_s)


def install(archive: Archive, root: Path, *, pause_s: float = 1.0) -> Path:
    """Put a dataset below `root`; a broken download is continued, and a half-unpacked folder never has its final name.

    Args:
        archive: what to fetch.
        root: the folder; made if need be.
        pause_s: before a failed transfer is repeated.

    Returns:
        `root`/`archive.folder`.

    Raises:
        ConnectionError: see `fetch`.
        ValueError: the archive is damaged, or something else; it is deleted, so that the next call fetches anew.
        OSError: the disk is full.
    """
    paths = [root / name for _, name, _ in archive.files]
    resumed = any(path.with_name(path.name + ".part").exists() for path in paths)
    try:
        _fetch_all(archive, root, pause_s)
        folder = _unpacked(archive, paths, root)
    except ValueError as error:
        if not resumed:
            raise
        # A server without version marks may have changed the file between the two parts.
        log.warning("%s; the download was resumed from a part, fetching it anew", error)
        _fetch_all(archive, root, pause_s)
        folder = _unpacked(archive, paths, root)
    _delete(paths)
    log.info("%s (%s) is in %s", archive.folder, archive.licence, folder)
    return folder


def _fetch_all(archive: Archive, root: Path, pause_s: float) -> None:
    """Fetch the files that are not there, and delete one that has another checksum."""
    for url, name, checksum in archive.files:
        path = root / name
        if not path.exists():
            log.info("download: %s", url)
            fetch(url, path, pause_s=pause_s)
        if checksum is not None:
            method, _, expected = checksum.partition(":")
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, method).hexdigest()
            if found != expected:
                path.unlink()
                raise ValueError(f"{path}: {method} {found[:12]}, expected {expected[:12]}; check --url")


def _delete(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _unpacked(archive: Archive, paths: Sequence[Path], root: Path) -> Path:
    """Unpack aside, check, rename; of something else the files are deleted."""
    path = paths[-1]
    aside = Path(tempfile.mkdtemp(prefix=".unpack-", dir=root))
    try:
        unpack(path, aside, max_bytes=archive.max_bytes, max_files=archive.max_files, before=paths[:-1])
        final, told = root / archive.folder, ""
        for good in _folders(aside):
            if not (fault := archive.fault(good)):
                break
            told = fault if good.name == final.name or not told else told
        else:
            raise ValueError(f"{path}: is not {archive.folder}: {told.replace(f'{aside}/', '')}; check --url")
        if final.exists():
            shutil.rmtree(final)
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(good, final)
        final.chmod(0o755)  # mkdtemp's own is for its user alone
        return final
    except ValueError:
        _delete(paths)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _folders(aside: Path) -> Iterator[Path]:
    """Yield where the dataset may be: the deepest folder that holds all of the archive, those in it, and itself."""
    top = aside
    while len(inside := [place for place in sorted(top.iterdir()) if place.is_dir()]) == 1:
        top = inside[0]
        yield top
    yield from inside
    yield aside


def unpack(archive: Path, folder: Path, *, max_bytes: int, max_files: int, before: Sequence[Path] = ()) -> None:
    """Extract a zip or tar that came over the network into `folder`.

    Every entry ends up inside the folder: `zipfile` cuts absolute names and `..` and makes plain files of links,
    `tarfile`'s filter `data` refuses entries that lead outside, and devices. No more bytes are read than entries
    declare.

    Args:
        archive: a zip file, or a tar in any compression.
        folder: where to; made if need be.
        max_bytes: that all files together may unpack to.
        max_files: entries that it may have.
        before: the other files of a zip that lies in several, in order; `archive` is the last.

    Raises:
        ValueError: neither, damaged, encrypted, dangerous, or larger than expected.
        OSError: the disk is full.
    """
    if before or zipfile.is_zipfile(archive) or archive.suffix == ".zip":
        _unzip([*before, archive], folder, max_bytes, max_files)
    else:
        _untar(archive, folder, max_bytes, max_files)


def _unzip(paths: Sequence[Path], folder: Path, max_bytes: int, max_files: int) -> None:
    archive = paths[-1]
    try:
        with open_split(paths) as source:
            entries = source.infolist()
            _check_size(archive, sum(entry.file_size for entry in entries), len(entries), max_bytes, max_files)
            source.extractall(folder)
    # RuntimeError: encrypted, or a method of compression that Python lacks.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{archive}: damaged zip file ({error})") from None


def _untar(archive: Path, folder: Path, max_bytes: int, max_files: int) -> None:
    """Extract in one pass: listing a compressed tar first would read it twice."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 0

    def checked(source: Any) -> Any:
        nonlocal size
        for count, entry in enumerate(source, start=1):
            size += entry.size
            _check_size(archive, size, count, max_bytes, max_files)
            yield entry

    try:
        with tarfile.open(archive, "r:*") as source:
            source.extractall(folder, members=checked(source), filter="data")
            while source.fileobj is not None and source.fileobj.read(1 << 20):
                pass  # the checksum of a compressed file stands at its end
    except tarfile.FilterError as error:
        raise ValueError(f"{archive}: a dangerous entry ({error})") from None
    except (tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{archive}: damaged tar file ({error})") from None


def _check_size(archive: Path, size: int, count: int, max_bytes: int, max_files: int) -> None:
    if size > max_bytes or count > max_files:
        raise ValueError(
            f"{archive}: unpacks to {size} bytes in {count} entries, at most {max_bytes} in {max_files} are expected"
        )
