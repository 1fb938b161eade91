"""`vcrast ls`: the runs of a folder at a glance."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcrast.runs.overview import Overview

WIDTH = 160  # of a table that no terminal shows


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    ls = subparsers.add_parser(
        "ls",
        help="run folders: recipe, state, step, number, age",
        description="Every run folder below FOLDER: running, stopped (run.resume=FOLDER goes on) or done.",
    )
    ls.add_argument("folder", nargs="?", type=Path, default=Path("runs"), metavar="FOLDER", help="default: %(default)s")
    ls.add_argument("--state", choices=("running", "stopped", "done"), help="only runs in this state")
    ls.add_argument("--format", choices=("table", "json"), default="table")
    ls.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, or its rows as JSON.

    Raises:
        FileNotFoundError: no such folder.
    """
    from vcrast.runs.overview import find_run_folders, look

    found = [look(folder) for folder in find_run_folders(arguments.folder)]
    chosen = [each for each in found if arguments.state in (None, each.state)]
    if arguments.format == "json":
        print(json.dumps([as_json(each) for each in chosen], indent=2))
    elif chosen:
        show(
            ("run", "recipe", "state", "last logged", "number", "age"),
            [cells(each, arguments.folder) for each in chosen],
        )
    if not chosen:
        kind = f"{arguments.state} " if arguments.state and found else ""
        print(f"{arguments.folder}: no {kind}runs here or below", file=sys.stderr)
    return 0


def cells(each: Overview, top: Path) -> tuple[str, ...]:
    """A run as text, its folder as seen from `top`."""
    warned = f", {each.warnings} warning{'s' * (each.warnings > 1)}" if each.warnings else ""
    if "summary.json: damaged" in each.fault:
        warned += ", summary.json damaged"
    elif each.fault:
        warned += f", {each.fault}"
    where = each.folder.name if each.folder == top else str(each.folder.relative_to(top))
    left = f", {age(each.place.left_s)} left" if each.state == "running" and each.place.left_s else ""
    at = "" if each.state == "done" else f"{each.place}{left}"
    return (where, each.recipe, each.state + warned, at, each.number, age(each.age_s))


def age(seconds: float) -> str:
    """Seconds in the largest unit that fits: `3 days`, `5 h`, `12 min`."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= (2 if unit == "days" else 1) * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def as_json(each: Overview) -> dict[str, Any]:
    """A run as plain data."""
    return {
        "folder": str(each.folder), "recipe": each.recipe, "state": each.state, "at": str(each.place),
        "left_s": each.place.left_s, "samples_per_s": each.place.samples_per_s, "age_s": each.age_s,
        "numbers": dict(each.numbers), "warnings": each.warnings, "fault": each.fault,
    }  # fmt: skip


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
