"""Fingerprint the clips of a fold: names, stretches, labels, order, sizes, some content."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from vcrast.data.audio import MEMBERS, AudioFault, is_address, is_generated
from vcrast.data.clip import Clip
from vcrast.data.clips import Clips
from vcrast.data.corpus import Corpus
from vcrast.data.listing import in_short
from vcrast.data.members import file_of
from vcrast.data.preflight import MAX_HEADERS, spread

MAX_READ, READ_BYTES, MAX_SHARDS = 64, 4096, 64


def fingerprint(corpus: Corpus, fold: str) -> dict[str, Any]:
    """Describe the clips that a fold trains on and is tested on; equal where the dataset has only been moved.

    Paths count from the folder that all clips of the corpus share; of a large corpus the sizes of `MAX_HEADERS` files,
    spread evenly, count. Recordings of one length have one size, so a little of `MAX_READ` files is read as well.

    Returns:
        `train` and `test`, how many there are, `digest`, and `content`, which runs of an earlier version do not have.
    """
    train, test = corpus.split(fold)
    if corpus.content:
        return _of_shards(corpus, train, test)
    base = shared_folder(corpus.clips)
    digest = hashlib.blake2b(json.dumps(corpus.classes).encode(), digest_size=16)
    content = hashlib.blake2b(digest_size=8)
    for part in (train, test):
        digest.update(f"{len(part)} clips\n".encode())
        hash_clips(digest, part, base)
        for clip in spread(part, MAX_HEADERS):
            digest.update(f"{_size(clip.path)} ".encode())
        for clip in spread(part, MAX_READ):
            content.update(_middle(clip.path))
    return {"train": len(train), "test": len(test), "digest": digest.hexdigest(), "content": content.hexdigest()}


def _of_shards(corpus: Corpus, train: Clips, test: Clips) -> dict[str, Any]:
    """The manifest's hash stands for all clips; which of them are meant are numbers."""
    digest = hashlib.blake2b(corpus.content.encode(), digest_size=16)
    for part in (train, test):
        rows = np.arange(len(part)) if part.rows is None else part.rows
        digest.update(f"{len(part)} clips\n".encode() + rows.astype("<i8").tobytes())
    found = {"train": len(train), "test": len(test), "digest": digest.hexdigest(), "content": corpus.content[:16]}
    return {**found, "shards": shard_hashes(corpus.shards)}


def shard_hashes(shards: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Hash at most `MAX_SHARDS` stretches of shards, each by the names of its first and last."""
    size = -(-len(shards) // MAX_SHARDS) or 1
    found = {}
    for start in range(0, len(shards), size):
        part = shards[start : start + size]
        name = part[0][0] if len(part) == 1 else f"{part[0][0]} to {part[-1][0]}"
        found[name] = hashlib.blake2b("".join(digest for _, digest in part).encode(), digest_size=4).hexdigest()
    return found


def changed_shards(was: dict[str, Any], now: dict[str, Any]) -> str:
    """Name the shards that differ between two fingerprints; "" where they have none, or the same."""
    before, after = was.get("shards", {}), now.get("shards", {})
    gone, new = [name for name in before if name not in after], [name for name in after if name not in before]
    other = [name for name in after if name in before and before[name] != after[name]]
    kinds = (("gone", gone), ("new", new), ("other bytes in", other))
    return "; ".join(f"{text}: {in_short(names)}" for text, names in kinds if names)


def without_content(found: dict[str, Any]) -> dict[str, Any]:
    """The fingerprint as an earlier version made it."""
    return {key: value for key, value in found.items() if key != "content"}


class Digest(Protocol):
    """A hash that is added to."""

    def update(self, content: bytes, /) -> None:
        """Add bytes."""


def hash_clips(digest: Digest, clips: Clips, base: str) -> None:
    """Add names below `base`, stretches and labels to a hash; millions of clips take seconds."""
    columns, names = clips.columns, clip_names(clips.paths(), base)
    while some := list(itertools.islice(names, 4096)):
        digest.update("\n".join([*some, ""]).encode("utf-8", "surrogateescape"))
    for column in (columns.start_s, columns.duration_s, columns.time_expansion):
        digest.update(b"" if column is None else np.ascontiguousarray(clips.of_rows(column), "<f8").tobytes())
    for values in clips.labels():
        digest.update(np.ascontiguousarray(values, "<i8").tobytes())


def shared_folder(clips: Iterable[Clip]) -> str:
    """Return the folder that all files lie in, "" if there is none."""
    paths = clips.paths() if isinstance(clips, Clips) else (clip.path for clip in clips)
    folders = {os.path.dirname(file) for file in map(_file, paths) if file is not None}
    try:
        return os.path.commonpath(set(map(os.path.abspath, folders))) if folders else ""
    except ValueError:  # two drives share nothing
        return ""


def clip_name(path: str, base: str) -> str:
    """Name a file, and a sound in one, by where it lies below a folder, with slashes; other addresses as they are."""
    return next(clip_names([path], base))


def clip_names(paths: Iterable[str], base: str) -> Iterator[str]:
    """Call `clip_name` for each of many paths, of which many lie in one folder."""
    below: dict[str, str] = {}
    for path in paths:
        file = _file(path)
        if file is None:
            yield path
            continue
        folder, name = os.path.split(file)
        if folder not in below:
            inside = os.path.abspath(folder).removeprefix(base).replace(os.sep, "/").strip("/")
            below[folder] = f"{inside}/" if inside else ""
        yield f"{path.removesuffix(file)}{below[folder]}{name}"


def _file(path: str) -> str | None:
    """The file on this machine that a clip is in; None where there is none."""
    if not is_address(path):
        return path
    file = path if is_generated(path) else file_of(path)
    return None if is_address(file) else file


def _middle(path: str) -> bytes:
    if _file(path) is None:
        return b""
    try:
        with MEMBERS[path.split("://", 1)[0]](path)() if is_address(path) else open(path, "rb") as file:
            file.seek(file.seek(0, os.SEEK_END) // 2)
            return file.read(READ_BYTES)
    except (OSError, AudioFault):  # missing: left to the checks of the data
        return b""


def _size(path: str) -> int:
    file = _file(path)
    try:
        return -1 if file is None else os.stat(file).st_size
    except OSError:  # missing: left to the checks of the data
        return -1
