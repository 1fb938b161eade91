"""Download Speech Commands V2, check and unpack it."""

from __future__ import annotations

from pathlib import Path

from vcrast.config.registry import DOWNLOADS
from vcrast.data.archive import Archive, install_once
from vcrast.data.sources.speechcommands import ARCHIVE_FOLDER, DEFAULT_ROOT, LISTS, WORDS, read_lists

URL = "https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
CHECKSUM = "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"
NUM_CLIPS = 105_829


@DOWNLOADS.register("speechcommands")
def download_speechcommands(root: Path | None = None, *, url: str = URL, pause_s: float = 1.0) -> Path:
    """Put Speech Commands V2 (2.4 GB to fetch, 3.8 GB unpacked, CC BY 4.0) into `root`, unless it is there.

    Args:
        root: default data/speechcommands.
        url: of the archive, for mirrors, whose content is checked and not their checksum.
        pause_s: before a failed transfer is repeated.

    Returns:
        The folder with the words and the two lists.

    Raises:
        ConnectionError: see `fetch`.
        ValueError: the archive is damaged, or something else; it is deleted, so that the next call fetches anew.
        OSError: the disk is full.
    """
    return install_once(ARCHIVE, DEFAULT_ROOT if root is None else root, url=url, pause_s=pause_s)


def content_fault(folder: Path) -> str:
    """Say what is missing in a folder of Speech Commands, or ""."""
    missing = [name for name in (*LISTS, *WORDS) if not (folder / name).exists()]
    if missing:
        return f"no {missing[0]}"
    try:
        listed = read_lists(folder).split
    except ValueError as error:
        return str(error)
    gone = [name for name in listed if not (folder / name).is_file() or not (folder / name).stat().st_size]
    return f"{gone[0]} is missing or empty" if gone else ""


# The real archive unpacks to 3.8 GB in about 105,900 entries.
ARCHIVE = Archive(
    URL,
    "speech_commands_v0.02.tar.gz",
    ARCHIVE_FOLDER,
    max_bytes=8_000_000_000,
    max_files=200_000,
    fault=content_fault,
    licence="CC BY 4.0",
    checksum=CHECKSUM,
)  # fmt: skip
