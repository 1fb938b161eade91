"""`vcrast predict`: the likeliest labels of sound files."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "predict",
        help="sound files -> labels and probabilities",
        description="The likeliest labels of each file. Bad files are named and left out; exit code 1 if none is good.",
    )
    parser.add_argument("model", metavar="RUN", help="run folder or exported model, finetuned")
    parser.add_argument("paths", nargs="+", metavar="FILE", help="sound files, or folders to search through")
    parser.add_argument("--top", type=int, default=3, help="labels per file (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line: path and scores")
    parser.add_argument("--fold", help="which fold's model; the first if left out")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the labels of every file.

    Raises:
        ValueError: `--top` below 1, or a model without classifier.
    """
    if arguments.top < 1:
        raise ValueError(f"--top {arguments.top}: must be at least 1")
    from vcrast.cli.files import find_sounds, read_sounds
    from vcrast.inference import load

    files = find_sounds(arguments.paths)
    model = load(arguments.model, fold=arguments.fold, device=arguments.device)
    model.require_head()
    width = max(len(path) for path in files)
    read = 0
    for path, wav in read_sounds(model, files):
        found = model.predict(wav, top=arguments.top)
        read += 1
        if arguments.json:
            print(json.dumps({"path": path, "scores": found}), flush=True)
        else:
            print(f"{path:<{width}}  " + "   ".join(f"{label} {100 * score:.1f} %" for label, score in found.items()))
    return 0 if read else 1
