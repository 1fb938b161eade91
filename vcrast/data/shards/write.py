"""Pack a corpus into shards: parallel, over machines, resumable, always the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from vcrast.config.atomic import remove_abandoned, write_atomic
from vcrast.data.audio import readers
from vcrast.data.corpus import Corpus
from vcrast.data.fingerprint import hash_clips, shared_folder
from vcrast.data.preflight import LISTED, allowed_faults, fault_list
from vcrast.data.processes import can_start_workers, fork_server, num_cores, start_decoder
from vcrast.data.shards.encode import check_codec
from vcrast.data.shards.layout import COLUMNS, INDEX, MANIFEST, PARTS, PLAN, WIDS, Manifest, Shard
from vcrast.data.shards.tar import NUMBERS, Packing, Task, part_file, shard_name, write_shard

log = logging.getLogger(__name__)
PROGRESS_S = 5.0


class Faults(ValueError):
    """More clips than allowed cannot be read."""


def pack(
    corpus: Corpus, out: Path, packing: Packing, *, part: tuple[int, int] = (1, 1), num_workers: int | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Manifest | None:  # fmt: skip
    """Write the shards of a corpus, or one part of them; those that are there already are left.

    Clips are dealt to shards in an order that depends on their number alone: each shard holds clips of all kinds, so
    that mixing a few shards mixes the dataset.

    Args:
        corpus: what to pack; unreadable clips are left out.
        out: the folder.
        packing: how.
        part: (i, n): this call writes the i-th of n parts of the shards, counted from 1; who finishes last, in whatever
            order, writes the index and the manifest.
        num_workers: processes that encode; 0 is this one, None one per core.
        origin: `name` and `options` of the data settings, to be noted.

    Returns:
        The manifest, or None as long as other parts are missing.

    Raises:
        ValueError: a wrong setting, other clips or settings than those that the folder was begun with.
        Faults: too many unreadable clips.
        OSError: the folder cannot be written, or the disk is full.
    """
    number, total = part
    if not 1 <= number <= total:
        raise ValueError(f"--part {number}/{total}: give i/n with i from 1 to n")
    source = begin(corpus, out, packing)
    shards = range(num_shards(corpus, packing))
    # Neighbours are written at the same time by different machines: whoever is late, no stretch of files is missing.
    mine = [shard for shard in shards[number - 1 :: total] if not _is_done(out, shard)]
    log.info("shards: %d of %d to write in %s", len(mine), len(shards[number - 1 :: total]), out)
    _write_all(corpus, out, packing, mine, num_workers)
    if missing := sum(not _is_done(out, shard) for shard in shards):
        log.info("shards: %d of %d are missing, which other parts write", missing, len(shards))
        return None
    return _finish(corpus, out, packing, source, shards, dict(origin or {}))


def begin(corpus: Corpus, out: Path, packing: Packing) -> str:
    """Make the folder and note what it is for, or check that it is for the same; returns a hash of it.

    Raises:
        ValueError: a wrong setting, other clips or settings than those that the folder was begun with.
        OSError: the folder cannot be written.
    """
    check_codec(packing.codec, packing.sample_rate)
    if packing.clips_per_shard < 1:
        raise ValueError(f"--clips-per-shard {packing.clips_per_shard}: must be at least 1")
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    for folder in (out, out / PARTS):
        remove_abandoned(folder)
    return _noted(corpus, out, packing)


def num_shards(corpus: Corpus, packing: Packing) -> int:
    """Return how many files a corpus is packed into."""
    return -(-len(corpus.clips) // packing.clips_per_shard)


def unfinished_parts(out: Path, count: int, parts: int) -> list[int]:
    """Return which of `parts` parts, counted from 1, have something to do: the first if only the manifest is missing.

    Args:
        out: the folder.
        count: of its shards.
        parts: that they are shared by.
    """
    found = sorted({shard % parts + 1 for shard in range(count) if not _is_done(out, shard)})
    return found or ([] if (out / MANIFEST).exists() else [1])


def packing_order(num_clips: int) -> np.ndarray:
    """Return (n,) places of the clips in the order in which they are dealt to shards."""
    return np.random.Generator(np.random.Philox(num_clips)).permutation(num_clips)


def _noted(corpus: Corpus, out: Path, packing: Packing) -> str:
    clips, digest = corpus.table, hashlib.blake2b(digest_size=16)
    base = shared_folder(clips)
    digest.update(json.dumps([corpus.name, corpus.classes, corpus.multilabel, asdict(packing)]).encode())
    hash_clips(digest, clips, base)
    digest.update(json.dumps(clips.columns.fold_names).encode() + clips.fold.astype("<i8").tobytes())
    plan = {"name": corpus.name, "clips": len(clips), **asdict(packing), "source": digest.hexdigest()}
    path = out / PLAN
    if not path.exists():
        if any(out.glob("*.tar")):
            raise ValueError(f"{out}: holds tar files of something else; choose another --out")
        write_atomic(path, json.dumps(plan, indent=1) + "\n")
    found = json.loads(path.read_text(encoding="utf-8"))
    if found != plan:
        wrong = next((key for key in plan if found.get(key) != plan[key]), "source")
        reason = "other clips or labels" if wrong == "source" else f"{wrong}={found.get(wrong)}, now {plan[wrong]}"
        raise ValueError(f"{out}: was begun with {reason}; choose another --out, or remove it")
    return digest.hexdigest()


def _is_done(out: Path, shard: int) -> bool:
    return part_file(out, shard).exists() and (out / f"{shard_name(shard)}.tar").exists()


def _write_all(corpus: Corpus, out: Path, packing: Packing, shards: Sequence[int], num_workers: int | None) -> None:
    clips = corpus.table
    order, base, size = packing_order(len(clips)), shared_folder(clips), packing.clips_per_shard

    def tasks() -> Iterator[Task]:
        for shard in shards:
            places = np.sort(order[shard * size : (shard + 1) * size])
            yield Task(out, shard, clips.take(places), places, base, corpus.classes, packing)

    faults: list[str] = []
    start = last = time.monotonic()
    for done, (written, found) in enumerate(_written(tasks(), len(shards), num_workers), start=1):
        faults += found
        if len(faults) > allowed_faults(len(clips), packing.max_bad_fraction) and len(faults) >= LISTED:
            raise _too_many(faults, len(clips), packing)
        if time.monotonic() - last > PROGRESS_S:
            last = time.monotonic()
            log.info("shards: %d of %d, the last is %s; %.0f s", done, len(shards), written, last - start)
    if len(faults) > allowed_faults(len(clips), packing.max_bad_fraction):
        raise _too_many(faults, len(clips), packing)


def _too_many(faults: Sequence[str], num_clips: int, packing: Packing) -> Faults:
    return Faults(
        f"{len(faults)} of {num_clips} clips cannot be read; data.max_bad_fraction={packing.max_bad_fraction:g} allows "
        f"{allowed_faults(num_clips, packing.max_bad_fraction)}: repair or remove them, or raise it{fault_list(faults)}"
    )


def _written(tasks: Iterator[Task], count: int, num_workers: int | None) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the faults of each shard, as they are done."""
    workers = min(num_cores() if num_workers is None else num_workers, count)
    if workers < 1 or not can_start_workers():
        yield from map(write_shard, tasks)
        return
    pool = ProcessPoolExecutor(workers, mp_context=fork_server(), initializer=start_decoder, initargs=(readers(),))
    running: set[Future[tuple[str, list[str]]]] = set()
    try:
        for task in tasks:
            running.add(pool.submit(write_shard, task))
            if len(running) > workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done)
        yield from (each.result() for each in running)
    except BrokenProcessPool:
        raise RuntimeError(
            "shards: a process was killed, perhaps for lack of memory; run the command again with fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _finish(
    corpus: Corpus, out: Path, packing: Packing, source: str, shards: range, origin: dict[str, Any]
) -> Manifest:
    """Join the rows of all shards; write the index and, last, the manifest."""
    path = out / MANIFEST
    if path.exists():
        return Manifest.parse(path.read_text(encoding="utf-8"), str(path))
    parts = [dict(np.load(part_file(out, shard))) for shard in shards]
    about = [json.loads(bytes(part["about"])) for part in parts]
    left_out = tuple((name, reason) for each in about for name, reason in each["left_out"])
    if len(left_out) > allowed_faults(len(corpus.clips), packing.max_bad_fraction):
        raise _too_many([f"{name}: {reason}" for name, reason in left_out], len(corpus.clips), packing)
    folds = tuple(sorted({name for each in about for name in each["fold"]} - {""}))
    number = {name: code for code, name in enumerate(("", *folds))}

    def joined(name: str) -> np.ndarray:
        return np.concatenate([part[name] for part in parts])

    columns = {
        **{name: joined(name) for name in (*NUMBERS, "labels", "names")},
        "shard": np.repeat(np.arange(len(parts)), [len(part["place"]) for part in parts]),
        "fold": np.array([number[name] for each in about for name in each["fold"]]),
        **{
            f"{n}_starts": np.cumsum([0, *np.concatenate([p[f"{n}_counts"] for p in parts])]) for n in ("label", "name")
        },
    }
    (out / INDEX).mkdir(exist_ok=True)
    hashes = {}
    for name, dtype in COLUMNS.items():
        buffer = io.BytesIO()
        np.save(buffer, columns[name].astype(dtype))
        write_atomic(out / INDEX / f"{name}.npy", buffer.getvalue())
        hashes[f"{name}.npy"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    manifest = Manifest(
        corpus.name, source, packing.codec, packing.sample_rate, packing.clips_per_shard, corpus.classes,
        corpus.multilabel, folds, corpus.notes, left_out, origin,
    )  # fmt: skip
    manifest = replace(manifest, shards=tuple(Shard(**each["shard"]) for each in about), index=hashes)
    wids = {
        "__kind__": "wids-shard-index-v1", "wids_version": 1, "name": corpus.name,
        "shardlist": [{"url": shard.file, "nsamples": shard.clips} for shard in manifest.shards],
    }  # fmt: skip
    write_atomic(out / WIDS, json.dumps(wids, indent=1) + "\n")
    write_atomic(path, manifest.text())
    return manifest
