"""`vcrast report`: write a run's page again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser("report", help="write a run's report.html and figures again")
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder; it need not be finished")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page and print its path, after the table of numbers if there is one."""
    from vcrast.runs.report.page import write_report
    from vcrast.runs.report.summary_table import print_summary

    page = write_report(arguments.folder)
    if (arguments.folder / "summary.json").is_file():
        print_summary(arguments.folder)
    print(page)
    return 0
