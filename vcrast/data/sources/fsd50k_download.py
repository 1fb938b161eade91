"""Download FSD50K, check and unpack it; its zips lie in several files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from vcrast.config.registry import DOWNLOADS
from vcrast.data.archive import Archive, install
from vcrast.data.sources.fsd50k import AUDIO, DEFAULT_ROOT, GROUND_TRUTH, VOCABULARY, read_classes, read_rows

log = logging.getLogger(__name__)

URL = "https://zenodo.org/records/4060432/files"
NUM_CLIPS = {"dev": 40_966, "eval": 10_231}
METADATA, DOC = "FSD50K.metadata", "FSD50K.doc"
LICENCES = ("dev_clips_info_FSD50K.json", "eval_clips_info_FSD50K.json")
FILES = {
    GROUND_TRUTH.name: {".zip": "md5:ca27382c195e37d2269c4c866dd73485"},
    METADATA: {".zip": "md5:b9ea0c829a411c1d42adb9da539ed237"},
    DOC: {".zip": "md5:3516162b82dc2945d3e7feba0904e800"},
    AUDIO["dev"]: {
        ".z01": "md5:faa7cf4cc076fc34a44a479a5ed862a3", ".z02": "md5:8f9b66153e68571164fb1315d00bc7bc",
        ".z03": "md5:1196ef47d267a993d30fa98af54b7159", ".z04": "md5:d088ac4e11ba53daf9f7574c11cccac9",
        ".z05": "md5:81356521aa159accd3c35de22da28c7f", ".zip": "md5:c480d119b8f7a7e32fdb58f3ea4d6c5a",
    },
    AUDIO["eval"]: {
        ".z01": "md5:3090670eaeecc013ca1ff84fe4442aeb", ".zip": "md5:6fa47636c3a3ad5c7dfeba99f2637982",
    },
}  # fmt: skip
"""Folder -> ending of each file that its zip lies in, in order -> checksum; the larger set first takes less disk."""
MAX_BYTES, MAX_FILES = 50_000_000_000, 100_000  # the development set unpacks to 26 GB in 40,967 entries


@DOWNLOADS.register("fsd50k")
def download_fsd50k(root: Path | None = None, *, url: str = URL, pause_s: float = 1.0) -> Path:
    """Put FSD50K (25 GB to fetch, 35 GB unpacked, CC BY 4.0) into `root`, those of its folders that are not there.

    Args:
        root: default data/fsd50k.
        url: of the folder with `FSD50K.*.zip` and `.z01` to `.z05`, for mirrors, whose content is checked and not
            their checksums. Files that lie in `root` are not fetched; they are deleted once they are unpacked.
        pause_s: before a failed transfer is repeated.

    Returns:
        `root`.

    Raises:
        ConnectionError: see `fetch`.
        ValueError: an archive is damaged, or something else; it is deleted, so that the next call fetches it anew.
        OSError: the disk is full.
    """
    root = DEFAULT_ROOT if root is None else root
    for folder, checksums in FILES.items():
        fault = content_check(folder, root)
        if not fault(root / folder):
            log.info("%s is already in %s", folder, root)
            continue
        *before, last = ((folder + ending, checksum if url == URL else None) for ending, checksum in checksums.items())
        name, checksum = last
        archive = Archive(
            f"{url.rstrip('/')}/{name}", name, folder, MAX_BYTES, MAX_FILES, fault=fault, licence="CC BY 4.0",
            checksum=checksum, before=tuple(before),
        )  # fmt: skip
        install(archive, root, pause_s=pause_s)
    log.info("FSD50K (CC BY 4.0) is in %s; each clip has a licence of its own, in %s", root, root / METADATA)
    return root


def content_check(folder: str, root: Path) -> Callable[[Path], str]:
    """Return what says what is missing in a folder of FSD50K, or "" (`Archive.fault`).

    Args:
        folder: its name.
        root: where the lists are by the time that the sounds are checked.
    """
    if folder == GROUND_TRUTH.name:
        return _lists_fault
    needed = {METADATA: LICENCES, DOC: ("LICENSE-DATASET",)}.get(folder)
    if needed is not None:
        return lambda place: next((f"no {name}" for name in needed if not (place / name).is_file()), "")
    part = next(part for part, name in AUDIO.items() if name == folder)

    def sounds_fault(place: Path) -> str:
        if place.name != folder or not place.is_dir():
            return f"no folder {folder}"
        with os.scandir(place) as files:
            there = {Path(file.name).stem for file in files if file.is_file() and file.stat().st_size}
        rows = read_rows(root, part, read_classes(root / VOCABULARY))
        gone = [stem for row in rows if (stem := Path(row.path).stem) not in there]
        return f"{gone[0]}.wav is missing or empty" if gone else ""

    return sounds_fault


def _lists_fault(place: Path) -> str:
    root = place.parent
    if place.name != GROUND_TRUTH.name or not place.is_dir():
        return f"no folder {GROUND_TRUTH}"
    try:
        classes = read_classes(root / VOCABULARY)
        counts = {part: len(read_rows(root, part, classes)) for part in AUDIO}
    except (ValueError, OSError) as error:
        return str(error)
    wrong = [part for part, count in counts.items() if count != NUM_CLIPS[part]]
    return f"{counts[wrong[0]]} clips in {wrong[0]}.csv, expected {NUM_CLIPS[wrong[0]]}" if wrong else ""
