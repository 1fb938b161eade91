"""`vcrast best`: the run with the best number."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vcrast.cli.ls import show


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    best = subparsers.add_parser(
        "best",
        help="the run with the best number: vcrast best knn_accuracy",
        description="Runs that have the number, the best first; with --path only the folder of the best, for scripts.",
    )
    best.add_argument("metric", metavar="METRIC", help="a number of the evaluation, as summary.json names it")
    best.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs"), metavar="FOLDER", help="default: %(default)s"
    )
    best.add_argument("--path", action="store_true", help="print nothing but the best run's folder")
    best.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the runs that have the number, the best first.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no run has the number.
    """
    from vcrast.config.words import suggest
    from vcrast.runs.overview import find_run_folders, look

    name = arguments.metric.removeprefix("evaluate.")
    found = [look(folder) for folder in find_run_folders(arguments.folder)]
    having = [each for each in found if name in each.numbers]
    if not having:
        known = dict.fromkeys(metric for each in found for metric in each.numbers)
        meant = suggest(name, known) if known else "none is evaluated yet"
        raise ValueError(f"{name}: no run in {arguments.folder} has it; {meant}")
    lower = having[0].shown[name].better == "lower"
    having.sort(key=lambda each: each.numbers[name], reverse=not lower)
    if arguments.path:
        print(having[0].folder)
        return 0
    rows = [
        (each.shown[name].text(each.numbers[name]), str(each.num_folds), str(each.folder), each.recipe, each.state)
        for each in having
    ]
    show((having[0].shown[name].short or name, "folds", "run", "recipe", "state"), rows)
    return 0
