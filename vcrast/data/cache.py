"""Decode and resample a corpus once; read 16-bit samples from a memory map ever after.

A cache is `<key>.json` (index) and `<key>-<content>.i16` (samples). The key covers the sample rate and every clip's
path, stretch and file size; the index holds modification times and content hashes, so that a file that was only
touched or copied again is not decoded again and one that changed is. Both files are written aside and renamed, samples
first: a build killed at any moment leaves no half cache, and two builds at once write the same files.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from vcrast.config.atomic import open_aside, publish, remove_abandoned
from vcrast.data import ffmpeg
from vcrast.data.audio import READERS, AudioFault, is_generated, read_scaled
from vcrast.data.clip import Clip
from vcrast.data.preflight import LISTED, allowed_faults, fault_list
from vcrast.data.processes import can_start_workers, fork_server, num_cores, start_decoder
from vcrast.data.store import SCALE, Index, WavStore

log = logging.getLogger(__name__)

VERSION = 3  # raise when decoding changes what ends up in the cache
CHUNK = 8  # clips per message to a worker
PROGRESS_S = 5.0


class Stat(NamedTuple):
    """Size in bytes and modification time of a file; -1 for a missing or generated one."""

    size: int
    mtime_ns: int


class Task(NamedTuple):
    """What a worker decodes: one clip."""

    path: str
    stat: Stat
    start_s: float
    duration_s: float | None
    sample_rate: int
    keep_silent: bool


class Decoded(NamedTuple):
    """A worker's answer for one clip: 16-bit samples and their full scale, or the reason why there are none."""

    samples: np.ndarray
    content: str
    reason: str
    scale: float = 1.0


def default_cache_dir() -> Path:
    """Return $VCRAST_CACHE, or ~/.cache/vcrast."""
    return Path(os.environ.get("VCRAST_CACHE") or Path.home() / ".cache" / "vcrast")


def open_or_build(
    clips: Sequence[Clip],
    *,
    sample_rate: int,
    cache_dir: str | Path | None,
    num_workers: int | None,
    max_bad_fraction: float,
    keep_silent: bool = False,
    classes: Sequence[str] = (),
) -> WavStore:
    """Open the cache of these clips; build it if there is none, or if a file's content changed.

    Args:
        clips: in any order, which is the order of the store.
        sample_rate: Hz.
        cache_dir: None for `default_cache_dir()`.
        num_workers: processes that decode; 0 is this one, None one per core.
        max_bad_fraction: of the clips that may fail to decode; those are left out, named and counted.
        keep_silent: as in `read_wav`.
        classes: their names, for messages.

    Raises:
        ValueError: more clips than that failed; lists the first 20, and names classes that are silent.
        OSError: the folder cannot be written, or the disk is full; says how many bytes are needed.
    """
    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    stats = _stats(clips)
    key = cache_key(clips, stats, sample_rate, keep_silent=keep_silent)
    path = folder / f"{key}.json"
    index = _current(path, clips, stats)
    if index is None:
        index = _build(path, clips, stats, sample_rate, num_workers, max_bad_fraction, keep_silent, classes)
    else:
        log.info("data cache: %d clips already decoded in %s", len(clips) - len(index.faults), folder)
    faults = [(clips[int(i)], reason) for i, reason in index.faults.items()]
    if faults:
        _check_faults(faults, clips, len(clips), max_bad_fraction, classes)
        listed = fault_list([f"{clip.where}: {reason}" for clip, reason in faults])
        log.warning("data: %d of %d clips are left out%s", len(faults), len(clips), listed)
    return WavStore(path.with_name(index.data), index, clips)


def cache_key(clips: Sequence[Clip], stats: Sequence[Stat], sample_rate: int, *, keep_silent: bool = False) -> str:
    """Hash the settings and each clip's path, stretch and file size to the name of the cache."""
    rows = [[os.path.abspath(c.path) if not is_generated(c.path) else c.path, c.start_s, c.duration_s] for c in clips]
    settings = [sample_rate, keep_silent] if keep_silent else [sample_rate]
    described = json.dumps([VERSION, *settings, [[*row, stat.size] for row, stat in zip(rows, stats, strict=True)]])
    return hashlib.blake2b(described.encode(), digest_size=12).hexdigest()


def corpus_key(clips: Sequence[Clip], sample_rate: int) -> str:
    """Hash clips as they are now, modification times included, to a name for what is derived from them."""
    stats = _stats(clips)
    times = [stat.mtime_ns for stat in stats]
    return hashlib.blake2b(f"{cache_key(clips, stats, sample_rate)} {times}".encode(), digest_size=12).hexdigest()


def _stats(clips: Sequence[Clip]) -> list[Stat]:
    known: dict[str, Stat] = {}
    return [known[c.path] if c.path in known else known.setdefault(c.path, _stat(c.path)) for c in clips]


def _stat(path: str) -> Stat:
    if is_generated(path):
        return Stat(-1, -1)
    try:
        found = os.stat(path)
    except OSError:
        return Stat(-1, -1)
    return Stat(found.st_size, found.st_mtime_ns)


def _current(path: Path, clips: Sequence[Clip], stats: Sequence[Stat]) -> Index | None:
    """Return the index, if the cache is whole and every file has the content that it was built from."""
    try:
        index = Index.read(path)
        touched = [i for i, stat in enumerate(stats) if stat.mtime_ns != index.mtime_ns[i]]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, LookupError) as error:
        log.warning("data cache: %s is damaged (%s); building it again", path, error)
        return None
    changed = [i for i in touched if _content(clips[i].path, stats[i]) != index.content[i]]
    if changed:
        log.info("data cache: %d files changed, the first is %s; building again", len(changed), clips[changed[0]].path)
        return None
    if touched:
        index.mtime_ns = [stat.mtime_ns for stat in stats]
        try:
            index.write(path)
        except OSError as error:  # a shared cache may be read-only; the content is right all the same
            log.info("data cache: new modification times not noted in %s (%s)", path, error)
    return index


@functools.lru_cache(maxsize=64)
def _content(path: str, stat: Stat) -> str:
    """Hash a file's bytes; remembered, because the clips of one long recording share it."""
    if is_generated(path) or stat.size < 0:
        return path
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _decode(task: Task) -> Decoded:
    path, stat, start_s, duration_s, sample_rate, keep_silent = task
    try:
        content = _content(path, stat)
        wav, _, scale = read_scaled(
            path, sample_rate=sample_rate, start_s=start_s, duration_s=duration_s, keep_silent=keep_silent
        )
    except AudioFault as fault:
        return Decoded(np.zeros(0, "<i2"), content, fault.reason)
    except OSError as error:
        return Decoded(np.zeros(0, "<i2"), "", f"cannot be read ({error})")
    return Decoded(np.clip(np.rint(wav * SCALE), -SCALE, SCALE - 1).astype("<i2"), content, "", scale)


def _build(
    path: Path,
    clips: Sequence[Clip],
    stats: Sequence[Stat],
    sample_rate: int,
    num_workers: int | None,
    max_bad_fraction: float,
    keep_silent: bool,
    classes: Sequence[str],
) -> Index:
    tasks = [
        Task(clip.path, stat, clip.start_s, clip.duration_s, sample_rate, keep_silent)
        for clip, stat in zip(clips, stats, strict=True)
    ]
    index = Index("", sample_rate, [c.path for c in clips], [], [stat.mtime_ns for stat in stats], [], {}, {})
    log.info("data cache: decoding %d clips into %s", len(clips), path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        with _decoders(tasks, num_workers) as decoded, open_aside(path.with_suffix(".i16")) as file:
            _write(file, decoded, index, clips, max_bad_fraction, classes)
            digest = hashlib.blake2b("\n".join(index.content).encode(), digest_size=8).hexdigest()
            index.data = f"{path.stem}-{digest}.i16"
            publish(file, path.with_name(index.data))
        index.write(path)
    except OSError as error:
        raise _unwritable(error, path.parent, index, len(clips)) from None
    return index


def _unwritable(error: OSError, folder: Path, index: Index, total: int) -> OSError:
    """Make the error to raise; what a full disk lacks is extrapolated from the clips decoded so far."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        text = f"{folder}: the data cache cannot be made here ({error.strerror or error})"
        return OSError(f"{text}; set data.cache_dir or data.cache=false")
    done = max(1, len(index.num_samples))
    needed = 2 * sum(index.num_samples) * total // done
    text = f"{folder}: disk full after {done} of {total} clips; the data cache needs about {needed} bytes, "
    text += f"{shutil.disk_usage(folder).free} are free; set data.cache_dir to another disk or data.cache=false"
    return OSError(text)


@contextmanager
def _decoders(tasks: Sequence[Task], num_workers: int | None) -> Iterator[Iterable[Decoded]]:
    """Yield the decoded clips in order, from worker processes where enough clips pay for starting them."""
    workers = min(num_cores() if num_workers is None else num_workers, len(tasks) // (2 * CHUNK))
    if workers < 1 or not can_start_workers():
        try:
            yield map(_decode, tasks)
        finally:
            ffmpeg.forget()
        return
    pool = ProcessPoolExecutor(workers, mp_context=fork_server(), initializer=start_decoder, initargs=(dict(READERS),))
    try:
        yield pool.map(_decode, tasks, chunksize=CHUNK)
    except BrokenProcessPool:
        raise RuntimeError(
            "data cache: a decoding process was killed, perhaps for lack of memory; set data.num_workers=1, or 0 to "
            "decode in the main process. A program of your own must start below `if __name__ == '__main__':`"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _write(
    file: BinaryIO,
    decoded: Iterable[Decoded],
    index: Index,
    clips: Sequence[Clip],
    max_bad_fraction: float,
    classes: Sequence[str],
) -> None:
    """Append the clips' samples to `file` and what is known of them to `index`."""
    faults: list[tuple[Clip, str]] = []
    start = last = time.monotonic()
    for i, (samples, content, reason, scale) in enumerate(decoded):
        index.num_samples.append(len(samples))
        index.content.append(content)
        if scale != 1.0:
            index.scales[str(i)] = scale
        if reason:
            index.faults[str(i)] = reason
            faults.append((clips[i], reason))
            if len(faults) >= LISTED:  # enough to list; do not decode the rest of a dataset that cannot be used
                _check_faults(faults, clips[: i + 1], len(clips), max_bad_fraction, classes)
        file.write(samples.tobytes())
        if time.monotonic() - last > PROGRESS_S:
            last = time.monotonic()
            log.info("data cache: %d of %d clips, %.0f per second", i + 1, len(clips), (i + 1) / (last - start))
    _check_faults(faults, clips, len(clips), max_bad_fraction, classes)


def _check_faults(
    faults: Sequence[tuple[Clip, str]],
    seen: Sequence[Clip],
    total: int,
    max_bad_fraction: float,
    classes: Sequence[str],
) -> None:
    if len(faults) <= allowed_faults(total, max_bad_fraction):
        return
    silent = silent_classes(seen, faults, classes)
    kept = f"; every clip of {', '.join(silent)} is silent: data.keep_silent=true keeps them" if silent else ""
    raise ValueError(
        f"{len(faults)} of {len(seen)} clips cannot be used ({total} in all); data.max_bad_fraction="
        f"{max_bad_fraction:g} allows {allowed_faults(total, max_bad_fraction)}: repair or remove them, or raise it"
        f"{kept}{fault_list([f'{clip.where}: {reason}' for clip, reason in faults])}"
    )


def silent_classes(seen: Sequence[Clip], faults: Sequence[tuple[Clip, str]], classes: Sequence[str]) -> list[str]:
    """Name the classes of which every clip seen is digital silence."""
    there = Counter(label for clip in seen for label in clip.labels)
    silent = Counter(label for clip, reason in faults for label in clip.labels if reason.startswith("silent"))
    return [classes[label] for label in sorted(silent) if label < len(classes) and silent[label] == there[label]]
