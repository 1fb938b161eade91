"""`vcrast table`: the tables that runs started with `table=NAME` fill."""

from __future__ import annotations

import argparse
import csv
import sys
from typing import Any

FORMATS = ("table", "markdown", "csv")


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "table",
        help="tables of the thesis, filled by runs that were started with table=NAME",
        description="Prints every table that the runs belong to (python launch/local.py thesis table=5.3): a cell is "
        "the mean over its seeds, each the mean over the folds that all runs have, and their standard deviation; "
        "below it the difference to the first row with its standard error. Published numbers stand beside ours.",
    )
    parser.add_argument("runs", nargs="+", metavar="FOLDER", help="the folder of a table, or run folders")
    parser.add_argument("--format", choices=FORMATS, default="table", help="csv has one line per run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the tables; errors as in `vcrast.runs.filled_tables.fill_tables`."""
    from vcrast.cli.compare import show_lines
    from vcrast.runs.filled_tables import fill_tables, rows_per_run
    from vcrast.runs.report.compare_table import lines

    for number, found in enumerate(fill_tables(arguments.runs)):
        if number:
            print()
        if arguments.format == "csv":
            csv.writer(sys.stdout, lineterminator="\n").writerows(rows_per_run(found))
            continue
        print(f"{found.title}\n")
        header, rows = lines(found)
        published = [found.published(variant) for variant in found.variants]
        if any(published):
            beside = iter(published)
            header = [*header, "published"]
            rows = [row._replace(cells=[*row.cells, "" if row.aside else next(beside)]) for row in rows]
        show_lines(header, rows, found.notes, arguments.format)
    return 0
