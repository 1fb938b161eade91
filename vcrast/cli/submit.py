"""`vcrast submit`: a recipe, or a sweep over its settings, as jobs on a Slurm cluster."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from vcrast.cli.run import call


def add_parser(subparsers: Any) -> None:
    """Declare the verb for `vcrast --help`; its words go to the launcher unread (`vcrast.cli.main`)."""
    parser = subparsers.add_parser("submit", help="the same as a job, or an array of jobs, on Slurm", add_help=False)
    parser.add_argument("words", nargs="*")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Submit a recipe from plain words."""
    return start(arguments.words)


def start(words: Sequence[str]) -> int:
    """Submit a recipe; returns the launcher's exit code."""
    return call("slurm", "submit", words)
