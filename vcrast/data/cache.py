"""Decode and resample a corpus once; read 16-bit samples from a memory map ever after.

A cache is `<key>.json` (index) and `<key>-<content>.i16` (samples). The key covers the sample rate and every clip's
path, stretch and file size; the index holds modification times and content hashes, so that a file that was only
touched or copied again is not decoded again and one that changed is. Both files are written aside and renamed, samples
first: a build killed at any moment leaves no half cache, the next one goes on from what it had decoded
(`vcrast.data.partial`), and two builds at once write the same files.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import json
import logging
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vcrast.config.atomic import remove_abandoned
from vcrast.data import ffmpeg
from vcrast.data.audio import MEMBERS, AudioFault, is_address, is_generated, read_scaled, readers
from vcrast.data.clip import Clip
from vcrast.data.clips import Clips
from vcrast.data.members import file_of
from vcrast.data.partial import Decoded, Facts, Partial, open_partial, remove_stale
from vcrast.data.preflight import LISTED, allowed_faults, fault_list
from vcrast.data.processes import can_start_workers, fork_server, num_cores, start_decoder
from vcrast.data.room import NoRoomError, check_room
from vcrast.data.store import SCALE, Index, WavStore

log = logging.getLogger(__name__)

VERSION = 3  # raise when decoding changes what ends up in the cache
CHUNK = 8  # clips per message to a worker
PROGRESS_S = 5.0


class Stat(NamedTuple):
    """Size in bytes and modification time of a file, or of that which a sound lies in; -1 for a missing one."""

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
    time_expansion: float


Check = Callable[[Sequence[tuple[int, str]], int], None]


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
        OSError: the folder cannot be written, has no room for the clips, or the disk is full; says how much is needed.
    """
    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    stats = _stats(clips)
    key = cache_key(clips, stats, sample_rate, keep_silent=keep_silent)
    path = folder / f"{key}.json"
    index = _current(path, clips, stats)
    if index is None:
        tasks = [
            Task(clip.path, stat, clip.start_s, clip.duration_s, sample_rate, keep_silent, clip.time_expansion)
            for clip, stat in zip(clips, stats, strict=True)
        ]
        check = partial(_check_faults, clips=clips, max_bad_fraction=max_bad_fraction, classes=classes)
        room = partial(_check_room, clips=clips, stats=stats, sample_rate=sample_rate, folder=folder)
        index = _build(path, tasks, num_workers, check, room)
    else:
        log.info("data cache: %d clips already decoded in %s", len(clips) - len(index.faults), folder)
    faults = [(int(i), reason) for i, reason in index.faults.items()]
    if faults:
        _check_faults(faults, len(clips), clips=clips, max_bad_fraction=max_bad_fraction, classes=classes)
        listed = fault_list([f"{clips[i].where}: {reason}" for i, reason in faults])
        log.warning("data: %d of %d clips are left out%s", len(faults), len(clips), listed)
    return WavStore(path.with_name(index.data), index, clips)


def cache_key(clips: Sequence[Clip], stats: Sequence[Stat], sample_rate: int, *, keep_silent: bool = False) -> str:
    """Hash the settings and each clip's path, stretch and file size to the name of the cache."""
    rows = [[os.path.abspath(c.path) if not is_address(c.path) else c.path, c.start_s, c.duration_s] for c in clips]
    settings: list[Any] = [sample_rate, keep_silent] if keep_silent else [sample_rate]
    if slowed := {place: clip.time_expansion for place, clip in enumerate(clips) if clip.time_expansion != 1.0}:
        settings += [slowed]
    described = json.dumps([VERSION, *settings, [[*row, stat.size] for row, stat in zip(rows, stats, strict=True)]])
    return hashlib.blake2b(described.encode(), digest_size=12).hexdigest()


def corpus_key(clips: Sequence[Clip], sample_rate: int) -> str:
    """Hash clips as they are now, modification times included, to a name for what is derived from them."""
    stats = _stats(clips)
    times = [stat.mtime_ns for stat in stats]
    return hashlib.blake2b(f"{cache_key(clips, stats, sample_rate)} {times}".encode(), digest_size=12).hexdigest()


def _stats(clips: Sequence[Clip]) -> list[Stat]:
    known: dict[str, Stat] = {}
    files = [file_of(c.path) if is_address(c.path) and not is_generated(c.path) else c.path for c in clips]
    return [known[file] if file in known else known.setdefault(file, _stat(file)) for file in files]


def _stat(file: str) -> Stat:
    if is_address(file):
        return Stat(-1, -1)
    try:
        found = os.stat(file)
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
    try:
        with _bytes_of(path) as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except AudioFault:  # of a sound in a larger file; decoding it says what is wrong
        return ""


def _bytes_of(path: str) -> Any:
    return MEMBERS[path.split("://", 1)[0]](path)() if is_address(path) else open(path, "rb")


def _decode(task: Task) -> Decoded:
    path, stat, start_s, duration_s, sample_rate, keep_silent, time_expansion = task
    try:
        content = _content(path, stat)
        wav, _, scale = read_scaled(
            path, sample_rate=sample_rate, start_s=start_s, duration_s=duration_s, keep_silent=keep_silent,
            time_expansion=time_expansion,
        )  # fmt: skip
    except AudioFault as fault:
        return Decoded(np.zeros(0, "<i2"), content, fault.reason)
    except OSError as error:
        return Decoded(np.zeros(0, "<i2"), "", f"cannot be read ({error})")
    return Decoded(np.clip(np.rint(wav * SCALE), -SCALE, SCALE - 1).astype("<i2"), content, "", scale)


def _check_room(done: int, *, clips: Sequence[Clip], stats: Sequence[Stat], sample_rate: int, folder: Path) -> None:
    """Raise where what is left to decode would not fit, see `check_room`; `done` clips are on the disk already."""
    left = [stat.size for stat in stats[done:]]
    check_room(Clips.of(clips)[done:], left, sample_rate=sample_rate, folder=folder)


def _build(
    path: Path, tasks: Sequence[Task], num_workers: int | None, check: Check, room: Callable[[int], None]
) -> Index:
    digest = hashlib.blake2b(json.dumps([VERSION, *tasks]).encode(), digest_size=16).hexdigest()
    done: Sequence[Facts] = ()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        remove_stale(path.parent)
        with open_partial(path.with_suffix(".i16"), digest) as part:
            done = part.facts
            room(len(done))
            going_on = f", going on after {len(done)}" if done else ""
            log.info("data cache: decoding %d clips into %s%s", len(tasks), path.parent, going_on)
            with _decoders(tasks[len(done) :], num_workers) as decoded:
                _write(part, decoded, len(tasks), check)
            index = _index(path, tasks, done)
            part.publish(path.with_name(index.data))
        index.write(path)
    except NoRoomError:
        raise
    except OSError as error:
        raise _unwritable(error, path.parent, done, len(tasks)) from None
    return index


def _index(path: Path, tasks: Sequence[Task], done: Sequence[Facts]) -> Index:
    digest = hashlib.blake2b("\n".join(facts.content for facts in done).encode(), digest_size=8).hexdigest()
    return Index(
        data=f"{path.stem}-{digest}.i16",
        sample_rate=tasks[0].sample_rate,
        path=[task.path for task in tasks],
        num_samples=[facts.num_samples for facts in done],
        mtime_ns=[task.stat.mtime_ns for task in tasks],
        content=[facts.content for facts in done],
        faults={str(i): facts.reason for i, facts in enumerate(done) if facts.reason},
        scales={str(i): facts.scale for i, facts in enumerate(done) if facts.scale != 1.0},
    )


def _unwritable(error: OSError, folder: Path, done: Sequence[Facts], total: int) -> OSError:
    """Make the error to raise; what a full disk lacks is extrapolated from the clips decoded so far."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        text = f"{folder}: the data cache cannot be made here ({error.strerror or error})"
        return OSError(f"{text}; set data.cache_dir or data.cache=false")
    needed = 2 * sum(facts.num_samples for facts in done) * total // max(1, len(done))
    text = f"{folder}: disk full after {len(done)} of {total} clips; the data cache needs about {needed} bytes, "
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
    pool = ProcessPoolExecutor(workers, mp_context=fork_server(), initializer=start_decoder, initargs=(readers(),))
    try:
        yield _from_pool(pool, tasks, 4 * workers)
    except BrokenProcessPool:
        raise RuntimeError(
            "data cache: a decoding process was killed, perhaps for lack of memory; set data.num_workers=1, or 0 to "
            "decode in the main process. A program of your own must start below `if __name__ == '__main__':`"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _from_pool(pool: ProcessPoolExecutor, tasks: Sequence[Task], ahead: int) -> Iterator[Decoded]:
    """Yield in order; at most `ahead` chunks are decoded and not yet asked for, so that memory stays bounded."""
    coming: deque[Future[list[Decoded]]] = deque()
    starts = iter(range(0, len(tasks), CHUNK))
    while True:
        for start in itertools.islice(starts, ahead - len(coming)):
            coming.append(pool.submit(_decode_chunk, tasks[start : start + CHUNK]))
        if not coming:
            return
        yield from coming.popleft().result()


def _decode_chunk(tasks: Sequence[Task]) -> list[Decoded]:
    return [_decode(task) for task in tasks]


def _write(part: Partial, decoded: Iterable[Decoded], total: int, check: Check) -> None:
    """Add the clips to those that are there already."""
    faults = [(i, facts.reason) for i, facts in enumerate(part.facts) if facts.reason]
    before, start = len(part.facts), time.monotonic()
    last = start
    for one in decoded:
        if one.reason:
            faults.append((len(part.facts), one.reason))
        part.add(one)
        if one.reason and len(faults) >= LISTED:  # enough to list; do not decode the rest of what cannot be used
            check(faults, len(part.facts))
        if time.monotonic() - last > PROGRESS_S:
            last, done = time.monotonic(), len(part.facts)
            log.info("data cache: %d of %d clips, %.0f per second", done, total, (done - before) / (last - start))
    check(faults, total)


def _check_faults(
    found: Sequence[tuple[int, str]],
    num_seen: int,
    *,
    clips: Sequence[Clip],
    max_bad_fraction: float,
    classes: Sequence[str],
) -> None:
    """Raise when more clips than allowed have faults, (place, reason), among the first `num_seen`."""
    if len(found) <= allowed_faults(len(clips), max_bad_fraction):
        return
    faults = [(clips[place], reason) for place, reason in found]
    silent = silent_classes(clips[:num_seen], faults, classes)
    kept = f"; every clip of {', '.join(silent)} is silent: data.keep_silent=true keeps them" if silent else ""
    raise ValueError(
        f"{len(faults)} of {num_seen} clips cannot be used ({len(clips)} in all); data.max_bad_fraction="
        f"{max_bad_fraction:g} allows {allowed_faults(len(clips), max_bad_fraction)}: repair or remove them, or raise "
        f"it{kept}{fault_list([f'{clip.where}: {reason}' for clip, reason in faults])}"
    )


def silent_classes(seen: Sequence[Clip], faults: Sequence[tuple[Clip, str]], classes: Sequence[str]) -> list[str]:
    """Name the classes of which every clip seen is digital silence."""
    there = Counter(label for clip in seen for label in clip.labels)
    silent = Counter(label for clip, reason in faults for label in clip.labels if reason.startswith("silent"))
    return [classes[label] for label in sorted(silent) if label < len(classes) and silent[label] == there[label]]
