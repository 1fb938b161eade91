"""Make a corpus of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vcrast.config.schema import DataConfig
from vcrast.data.audio import MEMBERS
from vcrast.data.cache import default_cache_dir
from vcrast.data.corpus import Corpus, fold_names
from vcrast.data.expansion import expanded
from vcrast.data.members import SCHEME, Members
from vcrast.data.remote import RemoteFiles, is_remote
from vcrast.data.shards.layout import MANIFEST, Manifest
from vcrast.data.shards.open import open_shards

GIGABYTE = 10**9
REMOTE = "remote"  # folder of copies, in the cache folder
ANY = "shards"  # the dataset that takes the shards of any other


def remote_files(data: DataConfig) -> RemoteFiles:
    """Return where copies of remote files are kept, and how much of them (`data.copies_gb`)."""
    folder = Path(data.cache_dir) if data.cache_dir is not None else default_cache_dir()
    return RemoteFiles(folder.expanduser() / REMOTE, round(data.copies_gb * GIGABYTE), data.fetch_attempts)


def are_shards(root: str) -> bool:
    """Tell whether a folder holds shards; an address holds nothing else."""
    return is_remote(root) or (Path(root).expanduser() / MANIFEST).is_file()


def shard_corpus(data: DataConfig) -> Corpus:
    """Open the shards at `data.root`; classes, labels and folds are those of the packed dataset.

    Raises:
        FileNotFoundError: `data.root` is not set, or has no manifest.
        ValueError: shards of another dataset, or packed with other options; missing or damaged ones.
        ConnectionError: a URL cannot be fetched from.
    """
    if data.root is None:
        raise FileNotFoundError(
            "data=shards: set data.root=FOLDER or URL, made by `vcrast data shard SOURCE --out DIR`"
        )
    for name, value in (("path", data.path), ("label", data.label)):
        if value is not None:
            raise ValueError(f"data.{name}={value}: shards have their own labels; leave it null")
    remote = remote_files(data)
    MEMBERS[SCHEME] = Members(remote)
    manifest, clips = open_shards(data.root, remote)
    _check_origin(data, manifest)
    notes = list(manifest.notes)
    if manifest.sample_rate < data.sample_rate:
        notes.append(
            f"shards at {manifest.sample_rate} Hz are heard at {data.sample_rate} Hz: nothing above "
            f"{manifest.sample_rate / 2:g} Hz is there"
        )
    if manifest.left_out:
        notes.append(f"{len(manifest.left_out)} clips were left out when the shards were made")
    corpus = Corpus(
        manifest.name, clips, manifest.classes, manifest.multilabel, fold_names(clips), notes=tuple(notes),
        content=manifest.content, shards=tuple((shard.file, shard.sha256) for shard in manifest.shards),
    )  # fmt: skip
    return expanded(corpus, data, packed=manifest.origin.get("time_expansion"))


def origin(data: DataConfig) -> dict[str, Any]:
    """What the manifest says of the dataset that is packed."""
    slowed = {} if data.time_expansion in (None, 1) else {"time_expansion": data.time_expansion}
    return {"name": data.name, "options": data.options, **slowed}


def _check_origin(data: DataConfig, manifest: Manifest) -> None:
    if data.name == ANY or not manifest.origin:
        return
    if manifest.origin["name"] != data.name:
        raise ValueError(f"data.root={data.root}: holds shards of {manifest.origin['name']}, not of {data.name}")
    packed = manifest.origin["options"]
    for key in {**packed, **data.options}:
        if packed.get(key) != data.options.get(key):
            raise ValueError(
                f"data.options.{key}={data.options.get(key)}: the shards at {data.root} were packed with "
                f"{packed.get(key)}; set that, or pack others"
            )
