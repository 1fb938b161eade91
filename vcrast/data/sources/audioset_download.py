"""Download AudioSet's segment lists and class names; nobody may distribute its audio."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from vcrast.config.registry import DOWNLOADS
from vcrast.data.download import fetch
from vcrast.data.sources.audioset import DEFAULT_ROOT, LABELS, SEGMENTS, read_classes, read_segments

log = logging.getLogger(__name__)

URL = "https://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"


@DOWNLOADS.register("audioset")
def download_audioset(root: Path | None = None, *, url: str = URL, pause_s: float = 1.0) -> Path:
    """Put the three segment lists and the list of classes into `root`, unless they are there and whole.

    Args:
        root: default data/audioset.
        url: of the folder that holds the four files, for mirrors.
        pause_s: before a failed transfer is repeated.

    Returns:
        `root`.

    Raises:
        ConnectionError: see `fetch`.
        ValueError: a file is not what it should be; it is deleted, so that the next call fetches it anew.
        OSError: the disk is full.
    """
    root = DEFAULT_ROOT if root is None else root
    for name in (LABELS, *SEGMENTS.values()):
        path = root / name
        if path.is_file() and not list_fault(path):
            log.info("%s is already there", path)
            continue
        log.info("download: %s/%s", url.rstrip("/"), name)
        fetch(f"{url.rstrip('/')}/{name}", path, pause_s=pause_s)
        if fault := list_fault(path):
            path.unlink()
            raise ValueError(f"{path}: {fault}; check --url")
    log.info("the lists of AudioSet (CC BY 4.0) are in %s", root)
    return root


def list_fault(path: Path) -> str:
    """Say what is wrong with one of the files, or ""; a segment list states its number of segments."""
    try:
        if path.name == LABELS:
            read_classes(path)
            return ""
        faults: list[str] = []
        rows = sum(1 for _ in read_segments(path, faults))
        with open(path, encoding="utf-8-sig") as file:
            comments = "".join(line for line, _ in zip(file, range(3), strict=False) if line.startswith("#"))
    except ValueError as error:
        return str(error)
    stated = re.search(r"num_segs=(\d+)", comments)
    if faults:
        return f"{len(faults)} damaged lines, the first is {faults[0]}"
    if stated is None:
        return "no comment says num_segs=..., so this is no segment list of AudioSet"
    return "" if rows == int(stated[1]) else f"{rows} segments, its comment says {stated[1]}"
