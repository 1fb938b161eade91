"""Check a corpus before the first step; all faults in one error."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from vcrast.data.audio import AudioFault, header, is_address
from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus, select_folds
from vcrast.data.processes import num_cores

log = logging.getLogger(__name__)
T = TypeVar("T")
LISTED = 20
MAX_HEADERS = 20_000  # files opened of a corpus that a listing found: seconds on a slow disk, minutes on none


def allowed_faults(num_clips: int, max_bad_fraction: float) -> int:
    """Count the bad clips that `data.max_bad_fraction` allows: at least one, however few clips there are, unless 0."""
    return max(int(max_bad_fraction * num_clips), 1 if max_bad_fraction > 0 else 0)


def fault_list(faults: Sequence[str]) -> str:
    """Join the first faults, one a line, and the number of others."""
    more = [f"... and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
    return "\n  ".join(["", *faults[:LISTED], *more])


def preflight(corpus: Corpus, *, folds: Any, max_bad_fraction: float) -> None:
    """Check every clip's file, labels and fold; read headers, decode nothing.

    Of a corpus that a listing found (`Corpus.listed`), at most `MAX_HEADERS` files are opened, spread evenly. Wrong
    entries (missing file, label out of range, the same clip twice) always stop. Files that are there but empty or
    unreadable are left to the quarantine as long as no more than `max_bad_fraction` of the clips are.

    Raises:
        ValueError: listing the first 20 faults, with line numbers where there is a manifest, and the total.
    """
    if not corpus.clips:
        raise ValueError(f"{corpus.name} has no clips; check data.root or data.path")
    looked: Sequence[Clip] = corpus.clips
    if corpus.listed or corpus.content:
        looked = () if corpus.content else spread(corpus.clips, MAX_HEADERS)
    damaged = file_faults(looked)
    wrong = [text for text, hard in damaged if hard] + label_faults(corpus)
    if not corpus.listed and not corpus.content:
        wrong += duplicates(corpus.clips)
    soft = [text for text, hard in damaged if not hard]
    if wrong or len(soft) > allowed_faults(len(looked), max_bad_fraction):
        faults = wrong + soft
        raise ValueError(f"{corpus.name}: {len(faults)} faults in {len(looked)} clips{fault_list(faults)}")
    if soft:
        log.warning("%s: %d unreadable files will be left out%s", corpus.name, len(soft), fault_list(soft))
    for fold in select_folds(corpus, folds):
        train, test = corpus.split(fold)
        if not train or not test:
            counts = f"{len(train)} clips to train on and {len(test)} to test"
            raise ValueError(f"data.folds: fold {fold} of {corpus.name} leaves {counts}")


def spread(clips: Sequence[T], count: int) -> Sequence[T]:
    """Take at most `count` clips, evenly spread."""
    return clips if len(clips) <= count else [clips[i * len(clips) // count] for i in range(count)]


def duplicates(clips: Iterable[Clip]) -> list[str]:
    """List clips of the same file and stretch: twice the weight in training, or test clips trained on."""
    first: dict[tuple[str, float, float | None], Clip] = {}
    faults = []
    for clip in clips:
        other = first.setdefault(clip.segment, clip)
        if other is not clip:
            faults.append(f"{clip.where}: the same clip as " + (f"line {other.line}" if other.line else "another one"))
    return faults


def label_faults(corpus: Corpus) -> list[str]:
    """List class indices outside the corpus's classes, and several labels where one is promised."""
    clips = corpus.table
    labels, counts = clips.labels()
    owner = np.repeat(np.arange(len(clips)), counts)
    wrong = np.zeros(len(clips), bool) if corpus.multilabel else counts > 1
    wrong[owner[(labels < 0) | (labels >= len(corpus.classes))]] = True
    faults = []
    for clip in clips.take(wrong.nonzero()[0]):
        beyond = [label for label in clip.labels if not 0 <= label < len(corpus.classes)]
        if beyond:
            faults.append(f"{clip.where}: label {beyond[0]} is outside the {len(corpus.classes)} classes")
        else:
            faults.append(f"{clip.where}: {len(clip.labels)} labels in a dataset with one label per clip")
    return faults


def file_faults(clips: Sequence[Clip]) -> list[tuple[str, bool]]:
    """List faults of the files, each with whether it is the manifest's (True) or the file's own (False)."""
    paths = list({(clip.path, clip.time_expansion): None for clip in clips if not is_address(clip.path)})
    # Opening a file waits for the disk or the network and releases the interpreter: threads help, also on one core.
    with ThreadPoolExecutor(max_workers=min(16, 4 * num_cores())) as pool:
        headers = dict(zip(paths, pool.map(_header, paths), strict=True))
    faults = []
    for clip in clips:
        reason, hard, duration_s = headers.get((clip.path, clip.time_expansion), ("", False, None))
        if not reason and duration_s is not None and clip.start_s > 0 and clip.start_s >= duration_s:
            reason, hard = f"starts at {clip.start_s:g} s, but the file has {duration_s:.3f} s", True
        if reason:
            faults.append((f"{clip.where}: {reason}", hard))
    return faults


def _header(file: tuple[str, float]) -> tuple[str, bool, float | None]:
    """Return the fault or "", whether it is the manifest's, and the length in seconds or None if unknown."""
    path, time_expansion = file
    if os.path.isdir(path):
        return "is a folder, not a file", True, None
    try:
        sample_rate, frames = header(path, time_expansion)
    except AudioFault as fault:
        return fault.reason, fault.reason == "missing file", None
    return ("no samples", False, None) if frames == 0 else ("", False, frames / sample_rate)
