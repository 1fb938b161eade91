"""Find the damaged shard, and the damaged clips in it."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vcrast.data.audio import AudioFault, read_wav
from vcrast.data.clips import Clips
from vcrast.data.members import ADDRESS, name_of
from vcrast.data.processes import num_cores
from vcrast.data.remote import RemoteFiles, StoreError, is_remote
from vcrast.data.shards.layout import INDEX, Manifest, Shard, clips_of, read_index
from vcrast.data.shards.open import open_shards, read_manifest

READ_BYTES = 1 << 22


class Damage(NamedTuple):
    """What is wrong with a file: the file, what it is, and which clips it concerns."""

    file: str
    reason: str
    clips: tuple[str, ...] = ()


def verify(root: str, remote: RemoteFiles, *, decode: bool = False) -> tuple[Manifest, list[Damage]]:
    """Compare every file with the manifest's hashes; look for the damaged clips of a damaged shard.

    Args:
        root: folder or URL.
        remote: keeps copies of what lies elsewhere.
        decode: also decode every clip.

    Returns:
        The manifest, and the damage in order of the files; empty if all is well.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: the manifest cannot be read.
    """
    base = root.rstrip("/") if is_remote(root) else str(Path(root).expanduser().absolute())
    manifest = read_manifest(base, remote)
    if is_remote(base):
        clips: Clips | None = open_shards(root, remote).clips  # checks the index as it comes
        damage: list[Damage] = []
    else:
        damage = list(_index_damage(Path(base), manifest))
        clips = None if damage else clips_of(manifest, read_index(Path(base) / INDEX), base)
    with ThreadPoolExecutor(num_cores()) as pool:  # hashing and decoding release the interpreter
        check = partial(_shard_damage, base=base, clips=clips, remote=remote, decode=decode)
        for found in pool.map(check, range(len(manifest.shards)), manifest.shards):
            damage += found
    return manifest, damage


def _index_damage(base: Path, manifest: Manifest) -> Iterator[Damage]:
    for name, wanted in manifest.index.items():
        path = base / INDEX / name
        if not path.is_file():
            yield Damage(f"{INDEX}/{name}", "missing file")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            yield Damage(f"{INDEX}/{name}", "its sha256 is another one; copy it again")


def _shard_damage(
    number: int, shard: Shard, *, base: str, clips: Clips | None, remote: RemoteFiles, decode: bool
) -> list[Damage]:
    url = f"{base}/{shard.file}"
    try:
        path = Path(remote.path(url) if is_remote(base) else url)
        with path.open("rb") as file:
            digest = hashlib.sha256()
            size = 0
            while block := file.read(READ_BYTES):
                digest.update(block)
                size += len(block)
    except FileNotFoundError:
        return [Damage(shard.file, "missing file")]
    except (OSError, StoreError) as error:
        return [Damage(shard.file, f"cannot be read ({error})")]
    whole = digest.hexdigest() == shard.sha256
    if whole and not decode:
        return []
    reason = "" if whole else f"{size} bytes of {shard.bytes}" if size != shard.bytes else "its sha256 is another one"
    if clips is None or clips.block is None:
        return [Damage(shard.file, reason)] if reason else []
    inside = clips.take((clips.block == number).nonzero()[0])
    bad = tuple(_bad_clips(path, inside, decode=decode))
    return [Damage(shard.file, reason or "clips that cannot be decoded", bad)] if reason or bad else []


def _bad_clips(path: Path, clips: Clips, *, decode: bool) -> Iterator[str]:
    with path.open("rb") as file:
        for clip in clips:
            found = ADDRESS.fullmatch(clip.path)
            if found is None:
                continue
            file.seek(int(found[1]))
            content = file.read(int(found[2]))
            if len(content) < int(found[2]):
                yield f"{name_of(clip.path)}: is missing"
            elif found[3] is not None and zlib.crc32(content) != int(found[3], 16):
                yield f"{name_of(clip.path)}: damaged"
            elif decode:
                try:
                    wav = read_wav(clip.path, sample_rate=16000, keep_silent=True)
                    if not np.isfinite(wav).all():
                        yield f"{name_of(clip.path)}: NaN or infinite samples"
                except AudioFault as fault:
                    yield f"{name_of(clip.path)}: {fault.reason}"
