"""`vcrast embed`: one vector per sound file."""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "embed",
        help="sound files -> one vector each",
        description="One vector per sound file. Bad files are named and left out; exit code 1 if none could be read.",
    )
    parser.add_argument("model", metavar="RUN", help="run folder or exported model")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="sound files, or folders to search through")
    parser.add_argument(
        "--out", type=Path, default=Path("embeddings.npz"), help=".npz (default embeddings.npz) or .csv"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="windows computed at once (default 32)")
    parser.add_argument("--fold", help="which fold's model; the first if left out")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Embed the files and write them.

    Raises:
        ValueError: a format that we do not write, or a batch size below 1.
    """
    if arguments.out.suffix not in (".npz", ".csv"):
        raise ValueError(f"--out {arguments.out}: choose a name that ends in .npz or .csv")
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size {arguments.batch_size}: must be at least 1")
    if not arguments.out.parent.is_dir():
        raise FileNotFoundError(f"--out {arguments.out}: the folder {arguments.out.parent} does not exist")
    from vcrast.cli.files import find_sounds, read_sounds
    from vcrast.inference import load

    files = find_sounds(arguments.paths)
    model = load(arguments.model, fold=arguments.fold, device=arguments.device)
    sounds = read_sounds(model, files)
    names: list[str] = []
    vectors: list[np.ndarray] = []
    while some := list(itertools.islice(sounds, arguments.batch_size)):
        names += [path for path, _ in some]
        vectors += list(model.embed([wav for _, wav in some], batch_size=arguments.batch_size).numpy())
    if not names:
        return 1
    write_vectors(arguments.out, names, vectors)
    print(f"{len(names)} vectors of {model.embed_dim} numbers -> {arguments.out}")
    return 0


def write_vectors(path: Path, names: list[str], vectors: list[np.ndarray]) -> None:
    """`.npz` with `paths` (n,) and `embeddings` (n, D), or `.csv` with one row per file."""
    import numpy as np

    if path.suffix == ".npz":
        np.savez(path, paths=np.array(names), embeddings=np.stack(vectors))
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *(f"d{number}" for number in range(len(vectors[0])))])
        for name, vector in zip(names, vectors, strict=True):
            # repr of a float32 is the shortest text that reads back as the same number.
            writer.writerow([name, *(str(value) for value in vector)])
