"""Define what a folder of shards holds: tar files, an index of arrays, and a manifest.

    manifest.json             what the clips are, and a hash of every other file
    plan.json                 what the folder was begun with
    wids.json                 the list of shards that the library `wids` of WebDataset reads
    index/*.npy               a row for each clip: where it lies, its length, fold, labels and name
    clips-000000.tar ...      uncompressed; <number>.flac and <number>.json of each clip
    parts/clips-000000.npz    the rows of one shard, written when it is whole; what a stopped packing goes on from

A sound file in a shard begins at `offset` and has `size` bytes: reading it takes no look at the tar's own headers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vcrast.data.clips import Clips, Columns, Texts
from vcrast.data.mapped import Lent, Mapped, attach
from vcrast.data.members import address

FORMAT, VERSION = "vcrast shards", 1
MANIFEST, PLAN, WIDS, INDEX, PARTS = "manifest.json", "plan.json", "wids.json", "index", "parts"
COLUMNS = {
    "shard": np.int32,
    "offset": np.int64,
    "size": np.int64,
    "crc": np.uint32,
    "num_samples": np.int64,
    "fold": np.uint16,
    "labels": np.int32,
    "label_starts": np.int64,
    "names": np.uint8,
    "name_starts": np.int64,
}
"""Files of the index and their types. `labels` and `names` of all clips stand behind one another; those of clip i begin
at `label_starts[i]` and `name_starts[i]`. `crc` is the CRC-32 of the sound file's bytes."""


class Shard(NamedTuple):
    """A tar file: its name, how many clips it has, its bytes, their sha256."""

    file: str
    clips: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
        name: of the dataset.
        source: hash of what was asked for: clips, labels, folds and settings.
        codec: flac, wav or opus.
        sample_rate: of all clips, Hz.
        clips_per_shard: that a shard has if none of its clips is left out.
        classes: names of the labels.
        multilabel: whether a clip may have several.
        folds: names of the folds; the index numbers them.
        notes: what a reader of results should know.
        left_out: clips that could not be read, and why.
        origin: `name`, `options` and perhaps `time_expansion` of the data settings; empty if it was packed without.
        shards: the files.
        index: sha256 of each file of the index.
    """

    name: str
    source: str
    codec: str
    sample_rate: int
    clips_per_shard: int
    classes: tuple[str, ...]
    multilabel: bool
    folds: tuple[str, ...]
    notes: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    origin: dict[str, Any] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()
    index: dict[str, str] = field(default_factory=dict)

    @property
    def num_clips(self) -> int:
        """Clips in all shards."""
        return sum(shard.clips for shard in self.shards)

    @property
    def content(self) -> str:
        """A hash of all that clips are read from: other shards have another one."""
        return hashlib.blake2b(self.text().encode(), digest_size=16).hexdigest()

    def text(self) -> str:
        """The file's text."""
        shards = [shard._asdict() for shard in self.shards]
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self), "shards": shards}, indent=1) + "\n"

    @classmethod
    def parse(cls, text: str, where: str) -> Manifest:
        """Read the file's text.

        Args:
            text: of the file.
            where: its path, for messages.

        Raises:
            ValueError: something else, damaged, or of another version.
        """
        try:
            found: dict[str, Any] = json.loads(text)
            if found.pop("format") != FORMAT:
                raise ValueError("another format")
            if (version := found.pop("version")) != VERSION:
                raise ValueError(f"version {version}, this toolkit reads {VERSION}")
            shards = tuple(Shard(**shard) for shard in found.pop("shards"))
            left_out = tuple((name, reason) for name, reason in found.pop("left_out"))
            texts: dict[str, Any] = {key: tuple(found.pop(key)) for key in ("classes", "folds", "notes")}
            return cls(shards=shards, left_out=left_out, **texts, **found)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{where}: no manifest of shards ({error})") from None


class ShardPaths:
    """The addresses of clips in shards, see `vcrast.data.members`.

    Args:
        files: path or URL of each shard.
        columns: of the index.
    """

    def __init__(self, files: tuple[str, ...], columns: dict[str, np.ndarray]) -> None:
        self.files = files
        self.columns = {name: columns[name] for name in ("shard", "offset", "size", "crc")}
        self.names = Texts(columns["names"], columns["name_starts"])
        self.lent = Lent()

    def __reduce__(self) -> tuple[Any, ...]:
        found = {name: self.lent.lend(column) for name, column in self.columns.items()}
        return _attach_paths, (self.files, found, self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> str:
        found = self.columns
        return address(
            int(found["offset"][row]), int(found["size"][row]), int(found["crc"][row]), self.names[row],
            self.files[found["shard"][row]],
        )  # fmt: skip


def _attach_paths(files: tuple[str, ...], columns: dict[str, np.ndarray | Mapped], names: Texts) -> ShardPaths:
    found = {name: attach(column) for name, column in columns.items()}
    return ShardPaths(files, {**found, "names": names.content, "name_starts": names.starts})


def read_index(folder: Path) -> dict[str, np.ndarray]:
    """Map the arrays of the index into memory.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one is damaged.
    """
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in COLUMNS}


def clips_of(manifest: Manifest, columns: dict[str, np.ndarray], base: str) -> Clips:
    """Return the clips of all shards.

    Args:
        manifest: what they are.
        columns: of the index.
        base: the folder or URL that the shards lie in.
    """
    files = tuple(f"{base}/{shard.file}" for shard in manifest.shards)
    return Clips(
        Columns(
            ShardPaths(files, columns),
            columns["labels"],
            columns["label_starts"],
            columns["fold"],
            ("", *manifest.folds),
            seconds=columns["num_samples"] / manifest.sample_rate,
            block=columns["shard"],
        )
    )
