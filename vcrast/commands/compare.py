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

    from vcrast.compare import Comparison, Estimate

FORMATS = ("table", "markdown", "csv", "json")
DIFFERENCE = "against the first"
NONE = "–"  # noqa: RUF001 (an en dash is the usual mark of an empty cell)


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "compare",
        help="runs side by side: what differs, mean and scatter over seeds, paired differences",
        description="Runs that differ in nothing but run.seed are one variant. A cell is the mean over its runs (each "
        "the mean over the folds that all runs have) and their standard deviation; below it the difference to the "
        "first variant, averaged over the seeds that both have, and its standard error.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or folders of runs such as a sweep's")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME",
        help="a number of summary.json: knn_accuracy, pretrain.samples_per_s; may be repeated (default: accuracies)",
    )  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, default="table", help="csv and json have one entry per run")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw every run, a panel per metric")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison and what makes it less fair than it looks."""
    from vcrast.commands.probe import check_plot
    from vcrast.compare import compare

    check_plot(arguments.plot)
    found = compare(arguments.runs, arguments.metric)
    if arguments.format == "json":
        print(json.dumps(plain(found), indent=2))
    elif arguments.format == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows_per_run(found))
    else:
        show(found, arguments.format)
    if arguments.plot is not None:
        from vcrast.report.compare_figure import compare_figure

        compare_figure(found).save(arguments.plot)
    return 0


def show(found: Comparison, form: str) -> None:
    """Print a table with its notes."""
    from rich.console import Console
    from rich.markup import escape

    header, rows = cells(found)
    if form == "markdown":
        print("\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)))
        print("".join(f"\n- {note}" for note in found.notes))
        return
    console = Console()
    console.print(table(header, rows))
    for note in found.notes:
        console.print(f"note: {escape(note)}", highlight=False)


def cells(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows: two of a variant, its means and its differences to the first one, which has only the former."""
    from vcrast.compare import title

    header = ["", "runs", *(title(metric) for metric in found.metrics)]
    rows = []
    for number, variant in enumerate(found.variants):
        means = [found.estimate(variant, metric) for metric in found.metrics]
        rows.append([variant.label, str(len(variant.runs)), *map(cell, found.metrics, means)])
        if number:
            pairs = [found.difference(variant, metric) for metric in found.metrics]
            count = max((pair.count for pair in pairs if pair is not None), default=0)
            seeds = f"{count} seed{'s' * (count != 1)} in common"
            rows.append(
                [
                    f"{DIFFERENCE}, {seeds}",
                    "",
                    *(cell(*each, signed=True) for each in zip(found.metrics, pairs, strict=True)),
                ]
            )
    return header, rows


def cell(metric: str, estimate: Estimate | None, *, signed: bool = False) -> str:
    """`65.5 ± 2.1`, or `+1.3 ± 0.8`."""
    from vcrast.compare import as_text

    if estimate is None:
        return NONE
    sign = "" if not signed else "+" if estimate.mean >= 0 else "-"
    value = as_text(metric, abs(estimate.mean) if signed else estimate.mean)
    return f"{sign}{value}" + ("" if estimate.error is None else f" ± {as_text(metric, estimate.error)}")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """The cells as a rich table, a line between variants."""
    from rich.markup import escape
    from rich.table import Table

    drawn = Table()
    for number, name in enumerate(header):
        drawn.add_column(escape(name), justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for row in rows:
        aside = row[0].startswith(DIFFERENCE)
        if not aside:
            drawn.add_section()
        drawn.add_row(*(f"[dim]{escape(text)}[/]" if aside else escape(text) for text in row))
    return drawn


def rows_per_run(found: Comparison) -> list[list[Any]]:
    """A header and a row per run: the settings that differ, seed, folder, values with all their digits."""
    keys = list(dict.fromkeys(key for variant in found.variants for key in variant.settings))
    rows: list[list[Any]] = [[*keys, "run.seed", "folder", *found.metrics]]
    for variant in found.variants:
        for each in variant.runs:
            values = [each.value(metric, found.folds) for metric in found.metrics]
            rows.append([*(variant.settings.get(key) for key in keys), each.seed, str(each.folder), *values])
    return rows


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
            }
            for variant in found.variants
        ],
        "notes": list(found.notes),
    }
