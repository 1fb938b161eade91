"""Download UrbanSound8K, check and unpack it."""

from __future__ import annotations

import os
from pathlib import Path

from vcrast.config.registry import DOWNLOADS
from vcrast.data.archive import Archive, install_once
from vcrast.data.sources.urbansound8k import ARCHIVE_FOLDER, DEFAULT_ROOT, META, read_rows

URL = "https://zenodo.org/records/1203745/files/UrbanSound8K.tar.gz"
CHECKSUM = "md5:9aa69802bbf37fb986f71ec1483a196e"
NUM_CLIPS = 8732


@DOWNLOADS.register("urbansound8k")
def download_urbansound8k(root: Path | None = None, *, url: str = URL, pause_s: float = 1.0) -> Path:
    """Put UrbanSound8K (6 GB to fetch, 7 GB unpacked, CC BY-NC 4.0) into `root`, unless it is there.

    Args:
        root: default data/urbansound8k.
        url: of the archive, for mirrors, whose content is checked and not their checksum.
        pause_s: before a failed transfer is repeated.

    Returns:
        The folder with `audio/` and `metadata/`.

    Raises:
        ConnectionError: see `fetch`.
        ValueError: the archive is damaged, or something else; it is deleted, so that the next call fetches anew.
        OSError: the disk is full.
    """
    return install_once(ARCHIVE, DEFAULT_ROOT if root is None else root, url=url, pause_s=pause_s)


def content_fault(folder: Path) -> str:
    """Say what is missing in a folder of UrbanSound8K, or ""."""
    if not (folder / META).is_file():
        return f"no {META}"
    try:
        rows = read_rows(folder)
    except ValueError as error:
        return str(error)
    if len(rows) != NUM_CLIPS:
        return f"{len(rows)} clips in {META}, expected {NUM_CLIPS}"
    gone = [row.path for row in rows if not os.path.isfile(row.path) or not os.path.getsize(row.path)]
    return f"{gone[0]} is missing or empty" if gone else ""


# The real archive unpacks to 7 GB in about 8,760 entries.
ARCHIVE = Archive(
    URL,
    "UrbanSound8K.tar.gz",
    ARCHIVE_FOLDER,
    max_bytes=15_000_000_000,
    max_files=20_000,
    fault=content_fault,
    licence="CC BY-NC 4.0",
    checksum=CHECKSUM,
)
