"""Unpack a zip that came over the network: regular files only, inside one folder, within limits."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

BLOCK = 1 << 20


def extract(archive: Path, folder: Path, *, max_bytes: int, max_files: int) -> None:
    """Unpack `archive` into `folder`; every entry is judged before the first byte is written.

    Args:
        archive: a zip file.
        folder: where to; made if need be.
        max_bytes: that all files together may unpack to, measured while unpacking and not as declared.
        max_files: entries that it may have.

    Raises:
        ValueError: not a zip, damaged, too large, or an entry that is no plain file inside `folder`.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            entries = source.infolist()
            if len(entries) > max_files:
                raise ValueError(f"{archive}: {len(entries)} entries, at most {max_files} are expected")
            declared = sum(entry.file_size for entry in entries)
            if declared > max_bytes:
                raise ValueError(f"{archive}: unpacks to {declared} bytes, at most {max_bytes} are expected")
            targets = [(entry, _target(archive, entry, folder)) for entry in entries]
            left = max_bytes
            for entry, target in targets:
                if target is not None:
                    left -= _unpack(source, entry, target, left)
    # zipfile raises NotImplementedError for a method of compression or a version that it does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{archive}: damaged zip file ({error})") from None


def _target(archive: Path, entry: zipfile.ZipInfo, folder: Path) -> Path | None:
    """Where an entry goes; None for a folder."""
    # orig_filename: zipfile cuts the other one at a zero byte and turns backslashes round on some systems.
    name = PurePosixPath(entry.orig_filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if name.is_absolute() or ".." in name.parts or any(char in entry.orig_filename for char in "\\:\0"):
        raise ValueError(f"{archive}: entry {entry.orig_filename!r} points outside the archive; nothing was unpacked")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError(f"{archive}: entry {entry.orig_filename!r} is a link or a device; nothing was unpacked")
    if entry.flag_bits & 1:
        raise ValueError(f"{archive}: entry {entry.orig_filename!r} is encrypted; nothing was unpacked")
    target = folder.joinpath(*name.parts)
    # A link that already lies in the folder could still lead out of it.
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{archive}: entry {entry.orig_filename!r} leads outside {folder}; nothing was unpacked")
    return None if entry.is_dir() or kind == stat.S_IFDIR else target


def _unpack(source: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, limit: int) -> int:
    """Write one file and return its size; its checksum is compared by zipfile at the end of the stream."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with source.open(entry) as stream, open(target, "xb") as file:
        while block := stream.read(BLOCK):
            size += len(block)
            if size > limit:
                raise ValueError(f"{source.filename}: unpacks to more bytes than expected")
            file.write(block)
    return size
