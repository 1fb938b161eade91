"""`vcrast compare`: runs side by side, their seeds averaged, differences paired."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from vcrast.runs.compare import Comparison, Estimate
    from vcrast.runs.report.compare_table import ComparedRow

FORMATS = ("table", "markdown", "csv", "json")


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "compare",
        help="runs side by side: what differs, mean and scatter over seeds, paired differences",
        description="Runs that differ in nothing but run.seed are one variant. A cell is the mean over its runs (each "
        "the mean over the folds that all runs have) and their standard deviation; below it the difference to the "
        "first variant, averaged over the seeds that both have, and its standard error; then the same with the "
        "standard error over the test clips.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or folders of runs such as a sweep's")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME",
        help="a number of summary.json: knn_accuracy, pretrain.samples_per_s; may be repeated (default: accuracies)",
    )  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, default="table", help="csv and json have one entry per run")
    parser.add_argument(
        "--html", type=Path, metavar="FILE.html", help="also write a page: the table, every run as a dot, the curves"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison and what makes it less fair than it looks.

    Raises:
        FileNotFoundError: the folder for the page does not exist; other errors as in `vcrast.runs.compare.compare`.
    """
    from vcrast.runs.compare import compare
    from vcrast.runs.report.compare_table import rows_per_run

    if arguments.html is not None and not arguments.html.parent.is_dir():
        raise FileNotFoundError(f"--html {arguments.html}: the folder {arguments.html.parent} does not exist")
    found = compare(arguments.runs, arguments.metric)
    if arguments.format == "json":
        print(json.dumps(plain(found), indent=2))
    elif arguments.format == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows_per_run(found))
    else:
        show(found, arguments.format)
    if arguments.html is not None:
        from vcrast.runs.report.compare_page import write_comparison

        write_comparison(found, arguments.html)
        print(f"page: {arguments.html}", file=sys.stderr)
    return 0


def show(found: Comparison, form: str) -> None:
    """Print a comparison with its notes."""
    from vcrast.runs.report.compare_table import lines

    show_lines(*lines(found), found.notes, form)


def show_lines(header: Sequence[str], rows: Sequence[ComparedRow], notes: Sequence[str], form: str) -> None:
    """Print lines as a table, with notes."""
    from rich.console import Console
    from rich.markup import escape

    from vcrast.runs.report.compare_table import as_markdown

    if form == "markdown":
        print(as_markdown(header, rows, notes))
        return
    console = Console()
    console.print(table(header, rows))
    for note in notes:
        console.print(f"note: {escape(note)}", highlight=False)


def table(header: Sequence[str], rows: Sequence[ComparedRow]) -> Table:
    """The cells as a rich table, a line between variants."""
    from rich.markup import escape
    from rich.table import Table

    drawn = Table()
    for number, name in enumerate(header):
        drawn.add_column(escape(name), justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for row in rows:
        if not row.aside:
            drawn.add_section()
        drawn.add_row(*(f"[dim]{escape(text)}[/]" if row.aside else escape(text) for text in row.cells))
    return drawn


def plain(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON: runs with their values, estimates, notes."""

    def estimate(value: Estimate | None) -> dict[str, Any] | None:
        return None if value is None else vars(value)

    return {
        "metrics": list(found.metrics),
        "folds": list(found.folds),
        "variants": [
            {
                "settings": variant.settings,
                "runs": [
                    {"folder": str(run.folder), "seed": run.seed}
                    | {metric: run.value(metric, found.folds) for metric in found.metrics}
                    for run in variant.runs
                ],
                "mean": {metric: estimate(found.estimate(variant, metric)) for metric in found.metrics},
                "difference": {metric: estimate(found.difference(variant, metric)) for metric in found.metrics},
                "difference_by_clip": {
                    metric: estimate(found.difference_by_clip(variant, metric)) for metric in found.metrics
                },
            }
            for variant in found.variants
        ],
        "notes": list(found.notes),
    }
