"""Open shards on this machine, or on another one by http, s3 and the like."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from vcrast.config.atomic import write_atomic
from vcrast.data.clips import Clips
from vcrast.data.preflight import fault_list
from vcrast.data.remote import RemoteFiles, StoreError, is_remote
from vcrast.data.shards.layout import INDEX, MANIFEST, PLAN, Manifest, clips_of, read_index


class OpenShards(NamedTuple):
    """A manifest and its clips."""

    manifest: Manifest
    clips: Clips


def open_shards(root: str, remote: RemoteFiles) -> OpenShards:
    """Open a folder of shards; no clip is read, and of two million clips the index takes milliseconds.

    Args:
        root: the folder, or its URL.
        remote: keeps copies of what lies elsewhere.

    Raises:
        FileNotFoundError: no manifest there.
        ValueError: shards that are missing or have another size, or a damaged index.
        ConnectionError: another machine's files cannot be fetched.
    """
    base = root.rstrip("/") if is_remote(root) else str(Path(root).expanduser().absolute())
    manifest = read_manifest(base, remote)
    if is_remote(base):
        columns = read_index(_fetch_index(base, manifest, remote))
    else:
        _check_files(Path(base), manifest)
        columns = read_index(Path(base) / INDEX)
    sizes = {len(columns[name]) for name in ("shard", "offset", "size", "crc", "num_samples", "fold")}
    if sizes != {manifest.num_clips}:
        raise ValueError(f"{base}: the index has {max(sizes)} clips, the manifest {manifest.num_clips}")
    return OpenShards(manifest, clips_of(manifest, columns, base))


def read_manifest(base: str, remote: RemoteFiles) -> Manifest:
    """Read the manifest of a folder or URL; that of a URL is fetched anew.

    Raises:
        FileNotFoundError: there is none; says what is there instead.
        ValueError: it is damaged.
        ConnectionError: it cannot be fetched.
    """
    if is_remote(base):
        url = f"{base}/{MANIFEST}"
        remote.forget(url)
        try:
            text = remote.use(url, lambda copy: Path(copy).read_text(encoding="utf-8"))
        except StoreError as error:
            raise ConnectionError(str(error)) from None
        return Manifest.parse(text, url)
    path = Path(base) / MANIFEST
    if not path.is_file():
        begun = (Path(base) / PLAN).is_file()
        there = "packing it was not finished: run" if begun else "make shards with"
        raise FileNotFoundError(f"data.root={base}: has no {MANIFEST}; {there} `vcrast data shard SOURCE --out DIR`")
    return Manifest.parse(path.read_text(encoding="utf-8"), str(path))


def _check_files(base: Path, manifest: Manifest) -> None:
    """Ask for the size of every shard."""
    faults = []
    for shard in manifest.shards:
        try:
            size = (base / shard.file).stat().st_size
        except FileNotFoundError:
            faults.append(f"{shard.file}: missing file")
            continue
        if size != shard.bytes:
            faults.append(f"{shard.file}: {size} bytes, {shard.bytes} in the manifest")
    if faults:
        raise ValueError(f"data.root={base}: {len(faults)} of {len(manifest.shards)} shards{fault_list(faults)}")


def _fetch_index(base: str, manifest: Manifest, remote: RemoteFiles) -> Path:
    """Fetch the index into a folder of its own, once for each content."""
    folder = remote.folder / f"index-{manifest.content[:16]}"
    files = RemoteFiles(folder, 1 << 62, remote.attempts, remote.pause_s)
    for name, wanted in manifest.index.items():
        place, url = folder / name, f"{base}/{INDEX}/{name}"
        if place.exists():
            continue
        try:
            content = files.use(url, lambda copy: Path(copy).read_bytes())
        except StoreError as error:
            raise ConnectionError(str(error)) from None
        found = hashlib.sha256(content).hexdigest()
        if found == wanted:
            write_atomic(place, content)  # other processes may do the same just now
        files.forget(url)
        if found != wanted:
            raise ValueError(f"{url}: sha256 {found[:12]}, expected {wanted[:12]}; it is damaged, or being replaced")
    return folder
