"""Compare containers for many clips: random reads warm and cold, opening, bytes.

python benchmarks/storage.py [--clips 4000] [--bytes 170000] [--reads 2000] [--rounds 3] [--work FOLDER] [--small]

The clips are random bytes of about the given size: only storage is measured, nothing is decoded. `cold` asks the system
to drop the file from its cache before a round (posix_fadvise); a virtual machine's host may still have it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import Table, header
from vcrast.data.members import OpenFile
from vcrast.data.shards.tar import TarWriter

Read = Callable[[int], bytes]
Store = tuple[Callable[[Path, Iterator[bytes]], None], Callable[[Path], Read]]


def write_tar(folder: Path, clips: Iterator[bytes]) -> None:
    """One tar and the offsets of its members, as in a shard."""
    with (folder / "clips.tar").open("wb") as file:
        writer = TarWriter(file)
        rows = [(writer.add(f"{number:09d}.flac", clip), len(clip)) for number, clip in enumerate(clips)]
        writer.close()
    np.save(folder / "index.npy", np.array(rows))


def open_tar(folder: Path) -> Read:
    """Read where the index says."""
    file, index = OpenFile(str(folder / "clips.tar")), np.load(folder / "index.npy", mmap_mode="r")
    return lambda number: file.read(int(index[number, 0]), int(index[number, 1]))


def write_files(folder: Path, clips: Iterator[bytes]) -> None:
    """One file a clip, a thousand in a folder."""
    for number, clip in enumerate(clips):
        path = folder / f"{number // 1000:04d}" / f"{number:09d}.flac"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(clip)


def open_files(folder: Path) -> Read:
    """Open, read, close."""
    return lambda number: (folder / f"{number // 1000:04d}" / f"{number:09d}.flac").read_bytes()


def write_parquet(folder: Path, clips: Iterator[bytes]) -> None:
    """Rows of bytes, a hundred in a row group, not compressed: as audio lies on the Hugging Face hub."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"audio": pa.array(list(clips), pa.large_binary())})
    pq.write_table(table, folder / "clips.parquet", row_group_size=100, compression="none", use_dictionary=False)


def open_parquet(folder: Path) -> Read:
    """Read the row group and take the row: Parquet has no smaller unit."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(folder / "clips.parquet", memory_map=True)
    return lambda number: file.read_row_group(number // 100)["audio"][number % 100].as_py()


def write_arrow(folder: Path, clips: Iterator[bytes]) -> None:
    """Record batches of a hundred rows, as Hugging Face's `save_to_disk` writes them."""
    import pyarrow as pa

    schema = pa.schema([("audio", pa.large_binary())])
    everything = list(clips)
    with pa.OSFile(str(folder / "clips.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for first in range(0, len(everything), 100):
            part = pa.array(everything[first : first + 100], pa.large_binary())
            writer.write_batch(pa.record_batch([part], schema=schema))


def open_arrow(folder: Path) -> Read:
    """Map the file and take the row."""
    import pyarrow as pa

    reader = pa.ipc.open_file(pa.memory_map(str(folder / "clips.arrow")))
    return lambda number: reader.get_batch(number // 100)["audio"][number % 100].as_py()


def write_lance(folder: Path, clips: Iterator[bytes]) -> None:
    """A Lance dataset of bytes."""
    import lance  # type: ignore[import-not-found]  # installed by hand where it is to be measured
    import pyarrow as pa

    lance.write_dataset(pa.table({"audio": pa.array(list(clips), pa.large_binary())}), str(folder / "clips.lance"))


def open_lance(folder: Path) -> Read:
    """Take the row."""
    import lance

    found = lance.dataset(str(folder / "clips.lance"))
    return lambda number: found.take([number])["audio"][0].as_py()


STORES: dict[str, Store] = {
    "indexed tar": (write_tar, open_tar),
    "one file a clip": (write_files, open_files),
    "Arrow file, mapped": (write_arrow, open_arrow),
    "Parquet, 100 rows a group": (write_parquet, open_parquet),
    "Lance": (write_lance, open_lance),
}


def clips(count: int, size: int) -> Iterator[bytes]:
    """Random bytes; sizes vary by a third, as FLAC's do."""
    random = np.random.default_rng(0)
    for _ in range(count):
        yield random.bytes(int(size * random.uniform(2 / 3, 4 / 3)))


def drop(folder: Path) -> None:
    """Ask the system to forget the files."""
    for path in folder.rglob("*"):
        if path.is_file():
            number = os.open(path, os.O_RDONLY)
            os.fsync(number)
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(number)


def rate(read: Read, order: np.ndarray) -> float:
    """Clips per second."""
    started = time.perf_counter()
    for number in order.tolist():
        read(number)
    return len(order) / (time.perf_counter() - started)


def main(arguments: list[str] | None = None) -> int:
    """Write, open and read each store in turn; keep the rows in `--out`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=4000, help="that each store holds (default %(default)s)")
    parser.add_argument("--bytes", type=int, default=170_000, help="of a clip (default %(default)s)")
    parser.add_argument("--reads", type=int, default=2000, help="in a round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of all stores in turn (default %(default)s)")
    parser.add_argument("--work", type=Path, help="folder for the data (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="folder for storage.json")
    parser.add_argument("--small", action="store_true", help="a moment, to try it")
    args = parser.parse_args(arguments)
    if args.small:
        args.clips, args.bytes, args.reads, args.rounds = 250, 500, 100, 1
    notes = header(torch.device("cpu"), "fp32", f"{args.clips} clips of {args.bytes} bytes, {args.reads} random reads")
    print("\n".join(notes))
    work = Path(tempfile.mkdtemp(prefix="vcrast-storage-", dir=args.work))
    order, orders = np.random.default_rng(1), {}
    found: dict[str, dict[str, list[float]]] = {}
    try:
        for name, (write, _) in STORES.items():
            folder = work / name.replace(" ", "_")
            folder.mkdir()
            try:
                write(folder, clips(args.clips, args.bytes))
                found[name] = {"open": [], "warm": [], "cold": []}
            except ImportError as error:
                print(f"left out: {name} ({error})")
        for number in range(args.rounds):
            orders[number] = order.permutation(args.clips)[: args.reads]
            for name, values in found.items():
                folder = work / name.replace(" ", "_")
                started = time.perf_counter()
                read = STORES[name][1](folder)
                values["open"].append(time.perf_counter() - started)
                drop(folder)
                values["cold"].append(rate(read, orders[number]))
                values["warm"].append(rate(read, orders[number]))
        table = Table(
            ("store", "warm clips/s", "cold clips/s", "open ms", "bytes beyond the clips'"),
            args.out and args.out / "storage.json",
            notes,
        )
        total = sum(map(len, clips(args.clips, args.bytes)))
        for name, values in found.items():
            size = sum(path.stat().st_size for path in (work / name.replace(" ", "_")).rglob("*") if path.is_file())
            warm, cold, opened = (statistics.median(values[key]) for key in ("warm", "cold", "open"))
            table.add((name, f"{warm:.0f}", f"{cold:.0f}", f"{1000 * opened:.1f}", f"{100 * (size / total - 1):.2f} %"))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
