"""Measure how fast clips are read: shards, cache, single files, other libraries' ways.

python benchmarks/loader.py [--sounds FOLDER] [--entries 2000000] [--seconds 120] [--workers 2] [--small]

Clips of 10 s at 16 kHz, made of the sounds of a folder or generated. First each way of reading in one process with one
thread, rounds of all ways in turn, so that noise of the machine falls on all of them. Then AudioSet's size: an index of
two million clips whose shards are names for the same few files, opened and read in a random order with worker
processes, memory noted on the way.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.loader_peers import Reader, peers
from benchmarks.machine import Table, header
from vcrast.cli.main import main as vcrast
from vcrast.config.compose import compose, read_option
from vcrast.data.audio import AudioFault, read_wav
from vcrast.data.dataset import ClipDataset
from vcrast.data.listing import find_sounds
from vcrast.data.loader import training_batches
from vcrast.data.open import open_corpus, open_data
from vcrast.data.shards.encode import encode
from vcrast.data.shards.layout import COLUMNS, INDEX, MANIFEST, Manifest, Shard
from vcrast.features.fbank import build_fbank

RATE, SECONDS, NUM_CLASSES = 16000, 10.0, 527


def make_clips(folder: Path, count: int, sounds: Path | None) -> None:
    """Write `count` FLAC files of 10 s: the sounds of a folder end to end, or generated ones."""
    length = round(RATE * SECONDS)
    if sounds is not None:
        paths = [str(path) for path in find_sounds(sounds).sounds]
    else:
        generated = open_corpus(compose(["data=synthetic", "data.clip_duration_s=5"]).data)
        paths = [clip.path for clip in generated.clips]
    wavs = _whole(paths)
    rest = np.zeros(0, np.float32)
    for number in range(count):
        while len(rest) < length:
            rest = np.concatenate([rest, next(wavs)])
        (folder / f"{number:05d}.flac").write_bytes(encode(rest[:length], RATE, "flac"))
        rest = rest[length:]


def _whole(paths: list[str]) -> Iterator[np.ndarray]:
    for path in itertools.cycle(paths):
        try:
            yield read_wav(path, sample_rate=RATE)
        except AudioFault:
            continue


def dataset(*words: str) -> ClipDataset:
    """The clips that `words` describe, as training reads them."""
    data = compose([*words, f"data.clip_duration_s={SECONDS:g}", "data.num_workers=0"]).data
    corpus = open_corpus(data)
    return open_data(data, corpus).dataset(corpus.clips, seed=0)


def own_readers(work: Path) -> dict[str, Reader]:
    """Ways of this toolkit: name -> function of the number of a clip."""
    sets = {
        "FLAC shards": dataset("data=shards", f"data.root={work / 'flac'}"),
        "WAV shards": dataset("data=shards", f"data.root={work / 'wav'}"),
        "Opus shards": dataset("data=shards", f"data.root={work / 'opus'}"),
        "FLAC files": dataset("data=folder", f"data.root={work / 'files'}", "data.cache=false"),
        "decoded cache": dataset("data=folder", f"data.root={work / 'files'}", f"data.cache_dir={work / 'cache'}"),
    }
    fbank = build_fbank({**read_option("features", "fbank"), "name": "fbank"}, sample_rate=RATE)
    readers: dict[str, Reader] = {name: _reader(found) for name, found in sets.items()}
    flac = sets["FLAC shards"]

    def with_filterbank(number: int) -> object:
        """Sixteen clips, and their log-mel values at once: counted as one sixteenth each."""
        if number % 16:
            return None
        wav = torch.stack([flac[((number + i) % len(flac), number + i)].wav for i in range(16)])
        return fbank(wav)

    return {**readers, "FLAC shards, filterbank of 16": with_filterbank}


def _reader(clips: ClipDataset) -> Reader:
    return lambda number: clips[(number % len(clips), number)].wav


def rates(readers: dict[str, Reader], *, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Clips per second of each reader, in each round."""
    found: dict[str, list[float]] = {name: [] for name in readers}
    for _, (name, read) in itertools.product(range(rounds), readers.items()):
        for number in range(16):
            read(number)
        started, number = time.perf_counter(), 0
        while number % 16 or time.perf_counter() - started < seconds:
            read(number)
            number += 1
        found[name].append(number / (time.perf_counter() - started))
    return found


def print_rates(found: dict[str, list[float]], file: Path | None, notes: list[str]) -> None:
    """One row each: clips per second, and how many times that of the slowest way of others."""
    table = Table(("way", "clips/s", "spread", "ms a clip", "x per-clip filterbank"), file, notes)
    base = statistics.median(found["per file, torchaudio's Kaldi filterbank"])
    for name, values in sorted(found.items(), key=lambda item: -statistics.median(item[1])):
        middle = statistics.median(values)
        table.add(
            (
                name,
                f"{middle:.0f}",
                f"{min(values):.0f}-{max(values):.0f}",
                f"{1000 / middle:.2f}",
                f"{middle / base:.1f}",
            )
        )


def make_index(work: Path, entries: int) -> Path:
    """Write a folder of shards with `entries` clips: links to the few packed files, and a real index of all."""
    few, out = work / "flac", work / "audioset"
    manifest = Manifest.parse((few / MANIFEST).read_text(), str(few))
    small = {name: np.load(few / INDEX / f"{name}.npy") for name in COLUMNS}
    copies = -(-entries // manifest.num_clips)
    shards: list[Shard] = []
    (out / INDEX).mkdir(parents=True)
    for _, shard in itertools.product(range(copies), manifest.shards):
        name = f"clips-{len(shards):06d}.tar"
        os.link(few / shard.file, out / name)
        shards.append(shard._replace(file=name))
    random, total = np.random.default_rng(0), copies * manifest.num_clips
    counts = random.integers(1, 4, total)  # AudioSet has two labels a clip
    names = [f"Y{number:011d}".encode() for number in range(total)]
    columns = {name: np.tile(small[name], copies) for name in ("offset", "size", "crc", "num_samples")}
    columns["shard"] = np.concatenate([small["shard"] + copy * len(manifest.shards) for copy in range(copies)])
    columns["fold"] = np.ones(total)
    columns["labels"], columns["label_starts"] = random.integers(0, NUM_CLASSES, counts.sum()), np.cumsum([0, *counts])
    columns["names"] = np.frombuffer(b"".join(names), np.uint8)
    columns["name_starts"] = np.arange(total + 1) * len(names[0])
    hashes = {}
    for name, dtype in COLUMNS.items():
        buffer = io.BytesIO()
        np.save(buffer, columns[name].astype(dtype))
        (out / INDEX / f"{name}.npy").write_bytes(buffer.getvalue())
        hashes[f"{name}.npy"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    whole = dataclasses.replace(
        manifest, classes=tuple(f"class {number}" for number in range(NUM_CLASSES)), multilabel=True, folds=("train",),
        shards=tuple(shards), index=hashes,
    )  # fmt: skip
    (out / MANIFEST).write_text(whole.text())
    return out


def memory(pid: int | str = "self") -> tuple[float, float]:
    """MiB of a process alone, and of what it shares, its part counted."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
    own = kib["Private_Clean"] + kib["Private_Dirty"]
    return own / 1024, kib["Pss"] / 1024


def at_scale(folder: Path, *, seconds: float, workers: int, batch_size: int) -> list[tuple[str, str]]:
    """Open the two million, read for a while; what was measured, in words."""
    rows = [("index on the disk", f"{sum(path.stat().st_size for path in (folder / INDEX).iterdir()) / 1e6:.0f} MB")]
    before = memory()[0]
    started = time.perf_counter()
    clips = dataset("data=shards", f"data.root={folder}")
    rows.append((f"open {len(clips):,} clips", f"{time.perf_counter() - started:.2f} s"))
    rows.append(("memory of the main process for it", f"{memory()[0] - before:.0f} MiB"))
    started = time.perf_counter()
    clips.order(0).epoch(0)
    rows.append(("order of an epoch", f"{time.perf_counter() - started:.2f} s"))
    batches = training_batches(
        clips, batch_size=batch_size, seed=0, start_step=0, num_steps=10**6, num_workers=workers, device="cpu"
    )
    started = time.perf_counter()
    next(batches)
    rows.append((f"first batch of {batch_size}, {workers} processes started", f"{time.perf_counter() - started:.1f} s"))
    watched: list[tuple[float, float]] = []
    started, count, noted = time.perf_counter(), 0, 0.0
    while (passed := time.perf_counter() - started) < seconds:
        count += len(next(batches).index)
        if passed - noted >= seconds / 6:
            noted = passed
            watched.append((memory()[0], _workers_memory()))
    rows.append((f"clips/s, {workers} processes, {seconds:.0f} s", f"{count / seconds:.0f}"))
    rows.append(("memory of the main process on the way", ", ".join(f"{own:.0f}" for own, _ in watched) + " MiB"))
    rows.append(("memory of a worker alone on the way", ", ".join(f"{own:.0f}" for _, own in watched) + " MiB"))
    batches.close()  # type: ignore[attr-defined]  # a generator
    return rows


def _workers_memory() -> float:
    """Mean MiB of the children of the fork server, which are the readers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"forkserver" in path.read_bytes() and _grandparent(path.parent) == os.getpid():
                found.append(memory(path.parent.name)[0])
        except (OSError, ValueError):
            continue
    return statistics.mean(found) if found else float("nan")


def _grandparent(folder: Path) -> int:
    parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
    return int((Path("/proc") / parent / "stat").read_text().rsplit(")", 1)[1].split()[1])


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and keep the rows in `--out`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sounds", type=Path, help="a folder of sound files; left out: generated")
    parser.add_argument("--clips", type=int, default=400, help="of 10 s that the payload has (default %(default)s)")
    parser.add_argument("--entries", type=int, default=2_000_000, help="of the index (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=120.0, help="of reading at scale (default %(default)s)")
    parser.add_argument("--each", type=float, default=3.0, help="seconds of a way in a round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of all ways (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes at scale (default %(default)s)")
    parser.add_argument("--work", type=Path, help="folder for the data (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="folder for loader.json")
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes, to try it")
    args = parser.parse_args(arguments)
    if args.small:
        args.clips, args.entries, args.seconds, args.each, args.rounds = 24, 2000, 1.0, 0.05, 1
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp(prefix="vcrast-loader-", dir=args.work))
    try:
        (work / "files").mkdir()
        make_clips(work / "files", args.clips, args.sounds)
        for codec in ("flac", "wav", "opus"):
            words = ["data", "shard", "folder", f"data.root={work / 'files'}", "--out", str(work / codec)]
            vcrast([*words, "--codec", codec, "--clips-per-shard", "100"])
        notes = header(torch.device("cpu"), "fp32", f"{args.clips} clips of 10 s, one process, one thread")
        print("\n".join(notes))
        others, missing = peers(work)
        for text in missing:
            print(f"left out: {text}")
        found = rates({**own_readers(work), **others}, seconds=args.each, rounds=args.rounds)
        print_rates(found, args.out and args.out / "loader.json", notes)
        folder = make_index(work, args.entries)
        table = Table(("at AudioSet's size", "measured"), args.out and args.out / "loader_scale.json", notes)
        batch = 16 if args.small else 96
        for row in at_scale(folder, seconds=args.seconds, workers=args.workers, batch_size=batch):
            table.add(row)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
