"""`vcrast embed`: one vector per sound, or per window."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcrast.cli.hearing import add_options, check, described, in_windows

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".npz", ".csv")


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "embed",
        help="sounds -> one vector each",
        **described(
            "One vector for each sound, or for each window of long recordings. Sounds that cannot be read are named on "
            "stderr and left out; exit code 1 if none could be read.",
            "vcrast embed RUN recordings/ --out vectors.npz",
            "vcrast embed RUN night.flac --hop 1 --out night.csv",
            "vcrast embed RUN recordings/ --stage pretrained --device cuda",
        ),
    )
    parser.add_argument("model", metavar="RUN", help="run folder or exported model")
    add_options(parser, stages="finetuned, pretrained or probe; the first of them that there is if left out")
    parser.add_argument(
        "--out", type=Path, default=Path("embeddings.npz"), metavar="FILE",
        help=".npz (default embeddings.npz) with paths and embeddings, of windows also starts and ends; or .csv",
    )  # fmt: skip
    parser.set_defaults(run=run, verb="embed")


def run(arguments: argparse.Namespace) -> int:
    """Embed the sounds and write them.

    Raises:
        ValueError: a format that we do not write, or an option out of its range.
        FileNotFoundError: no such model, sound or folder.
    """
    out = arguments.out
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out {out}: choose a name that ends in .npz or .csv")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: the folder {out.parent} does not exist")
    check(arguments)
    from vcrast.cli.files import Sounds
    from vcrast.cli.hearing import Hearing
    from vcrast.inference import load

    sounds = Sounds(arguments.paths)
    model = load(arguments.model, fold=arguments.fold, stage=arguments.stage, device=arguments.device)
    windows = in_windows(arguments)
    hearing = Hearing(model, sounds, arguments, windows=windows)
    names: list[str] = []
    times: list[tuple[float, float]] = []
    vectors: list[np.ndarray] = []
    try:
        for piece, row in hearing.results(model.vectors):
            names.append(piece.sound)
            times.append((piece.start_s, piece.end_s))
            vectors.append(row.numpy())
    except BaseException:  # Ctrl-C as well: hours of work are kept
        if names:
            write_vectors(out, names, vectors, times if windows else None)
            print(f"note: stopped early; the {len(names)} vectors so far are in {out}", file=sys.stderr)
        raise
    code = hearing.finish()
    if names:
        write_vectors(out, names, vectors, times if windows else None)
        what = f"{len(names)} {'vector' if len(names) == 1 else 'vectors'} of {model.embed_dim} numbers"
        print(f"{what} ({len(hearing.read)} sounds in windows) -> {out}" if windows else f"{what} -> {out}")
    return code


def write_vectors(
    path: Path, names: list[str], vectors: list[np.ndarray], times: list[tuple[float, float]] | None
) -> None:
    """`.npz` with `paths` (n,), `embeddings` (n, D), for windows `starts` and `ends` (n,) in s; or `.csv` rows."""
    import numpy as np

    from vcrast.config.atomic import write_atomic

    spans = np.array(times if times is not None else np.zeros((len(names), 2))).round(4)
    if path.suffix.lower() == ".npz":
        columns: dict[str, Any] = {} if times is None else {"starts": spans[:, 0], "ends": spans[:, 1]}
        packed = io.BytesIO()
        np.savez(packed, paths=np.array(names), embeddings=np.stack(vectors), **columns)
        write_atomic(path, packed.getvalue())
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    heads = ["path"] if times is None else ["path", "start", "end"]
    writer.writerow([*heads, *(f"d{number}" for number in range(len(vectors[0])))])
    for name, span, vector in zip(names, spans.tolist(), vectors, strict=True):
        # str of a float32 is the shortest text that reads back as the same number.
        writer.writerow([name, *([] if times is None else span), *(str(value) for value in vector)])
    write_atomic(path, text.getvalue())
