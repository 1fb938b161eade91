"""Find files with the same bytes, and test clips that are copies of training clips."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from vcrast.data.audio import is_address
from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus
from vcrast.data.listing import in_short
from vcrast.data.processes import num_cores

HEAD_BYTES = 1 << 14
SHOWN = 3  # contradictions named in a note


class File(NamedTuple):
    """A file as it is now: what is known of one version of it holds as long as these are equal."""

    path: str
    size: int
    mtime_ns: int


def find_copies(paths: Iterable[str]) -> dict[str, str]:
    """Map each file that is a copy, byte for byte, to the first of its kind, by path.

    Only files of one size are opened, only those of one beginning read to their end. Empty, missing and generated ones
    are nobody's copies.

    Returns:
        path of a copy -> path of the first with the same bytes, which is itself no key.
    """
    files = []
    for path in sorted(set(paths)):
        if is_address(path):
            continue
        try:
            found = os.stat(path)
        except OSError:
            continue
        if found.st_size:
            files.append(File(path, found.st_size, found.st_mtime_ns))
    return dict(_copies(tuple(files)))


def copies_across(corpus: Corpus) -> str | None:
    """Say how many clips are copies of others, and how many test clips of each fold are also trained on.

    Two clips are copies when their files hold the same bytes and they are the same stretch of it; two stretches of one
    recording are not.

    Returns:
        One line, or None where no clip is a copy.
    """
    first = find_copies(clip.path for clip in corpus.clips)
    if not first:
        return None

    def sound(clip: Clip) -> tuple[str, float, float | None]:
        return first.get(clip.path, clip.path), clip.start_s, clip.duration_s

    kinds: dict[tuple[str, float, float | None], list[Clip]] = defaultdict(list)
    for clip in corpus.clips:
        kinds[sound(clip)].append(clip)
    extra = len(corpus.clips) - len(kinds)
    if not extra:
        return None
    text = f"{extra} of {len(corpus.clips)} clips are byte copies of others"
    across = []
    for fold in corpus.folds:
        train, test = corpus.split(fold)
        trained = {sound(clip) for clip in train}
        if leaked := sum(sound(clip) in trained for clip in test):
            across.append(f"{leaked} of {len(test)} test clips of fold {fold} are also in training")
    if across:
        text += f"; {in_short(across)}: the test is easier than it looks"
    elif corpus.folds:
        text += "; no fold has one in training and in test"
    return text + _contradictions(kinds.values(), corpus.classes)


def _contradictions(kinds: Iterable[Sequence[Clip]], classes: Sequence[str]) -> str:
    """Name copies that have different labels."""
    wrong = []
    for clips in kinds:
        other = next((clip for clip in clips if set(clip.labels) != set(clips[0].labels)), None)
        if other is not None:
            named = (" and ".join(classes[label] for label in clip.labels) or "no class" for clip in (clips[0], other))
            wrong.append(f"{clips[0].path} ({next(named)}) = {other.path} ({next(named)})")
    if not wrong:
        return ""
    return f"; copies with different labels ({len(wrong)}): {in_short(wrong, SHOWN)}"


@functools.lru_cache(maxsize=1)
def _copies(files: tuple[File, ...]) -> tuple[tuple[str, str], ...]:
    """(copy, first of its kind); remembered, because a corpus is asked for its copies more than once."""
    groups = _divide(files, lambda file: file.size)
    # Opening a file waits for the disk or the network, and hashing releases the interpreter: threads help twice.
    with ThreadPoolExecutor(max_workers=min(16, 4 * num_cores())) as pool:
        for read in (_hash_head, _hash_all):
            asked = [file for group in groups for file in group]
            known = dict(zip(asked, pool.map(read, asked), strict=True))
            groups = [part for group in groups for part in _divide(group, known.__getitem__) if known[part[0]]]
    return tuple((file.path, group[0].path) for group in groups for file in group[1:])


def _divide(files: Iterable[File], key: Callable[[File], object]) -> list[list[File]]:
    """Group files by a key, in order; files that are alone are left out."""
    groups: dict[object, list[File]] = defaultdict(list)
    for file in files:
        groups[key(file)].append(file)
    return [group for group in groups.values() if len(group) > 1]


def _hash_head(file: File) -> bytes:
    return _hash(file, HEAD_BYTES)


def _hash_all(file: File) -> bytes:
    return _hash(file, file.size)


def _hash(file: File, num_bytes: int) -> bytes:
    """Hash the first bytes of a file; b"" where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(file.path, "rb") as opened:
            while num_bytes > 0 and (block := opened.read(min(num_bytes, 1 << 20))):
                digest.update(block)
                num_bytes -= len(block)
    except OSError:
        return b""
    return digest.digest()
