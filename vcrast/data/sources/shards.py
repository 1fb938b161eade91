"""Shards that `vcrast data shard` wrote, on this machine or another."""

from __future__ import annotations

from pathlib import Path

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.audio import MEMBERS
from vcrast.data.cache import default_cache_dir
from vcrast.data.corpus import Corpus, fold_names
from vcrast.data.members import SCHEME, Members
from vcrast.data.remote import RemoteFiles
from vcrast.data.settings import refuse_settings
from vcrast.data.shards.open import open_shards

GIGABYTE = 10**9
REMOTE = "remote"  # folder of copies, in the cache folder


def remote_files(data: DataConfig) -> RemoteFiles:
    """Return where copies of remote files are kept, and how much of them (`data.options.copies_gb`).

    Raises:
        ValueError: an option out of its range.
    """
    size, attempts = data.options["copies_gb"], data.options["attempts"]
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise ValueError(f"data.options.attempts={attempts!r}: must be a whole number from 1")
    if isinstance(size, bool) or not isinstance(size, int | float) or not size > 0:
        raise ValueError(f"data.options.copies_gb={size!r}: must be a number above 0")
    folder = Path(data.cache_dir) if data.cache_dir is not None else default_cache_dir()
    return RemoteFiles(folder.expanduser() / REMOTE, round(size * GIGABYTE), attempts)


@SOURCES.register("shards")
def shards(data: DataConfig) -> Corpus:
    """Open the shards at `data.root`, a folder or URL; classes, labels and folds are those of the packed dataset.

    Raises:
        FileNotFoundError: `data.root` is not set, or has no manifest.
        ValueError: shards are missing or damaged.
        ConnectionError: a URL cannot be fetched from.
    """
    refuse_settings(data, options=("copies_gb", "attempts"))
    if data.root is None:
        raise FileNotFoundError(
            "data=shards: set data.root=FOLDER or URL; `vcrast data shard SOURCE --out DIR` makes it"
        )
    remote = remote_files(data)
    MEMBERS[SCHEME] = Members(remote)
    manifest, clips = open_shards(data.root, remote)
    notes = list(manifest.notes)
    if manifest.sample_rate < data.sample_rate:
        notes.append(
            f"shards at {manifest.sample_rate} Hz are heard at {data.sample_rate} Hz: nothing above "
            f"{manifest.sample_rate / 2:g} Hz is there"
        )
    if manifest.left_out:
        notes.append(f"{len(manifest.left_out)} clips were left out when the shards were made")
    return Corpus(
        manifest.name, clips, manifest.classes, manifest.multilabel, fold_names(clips), notes=tuple(notes),
        content=manifest.content, shards=tuple((shard.file, shard.sha256) for shard in manifest.shards),
    )  # fmt: skip
