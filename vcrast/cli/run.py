"""`vcrast run`: a recipe, or a sweep over its settings, on this machine."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from vcrast.config.registry import importable_name


def add_parser(subparsers: Any) -> None:
    """Declare the verb for `vcrast --help`; its words go to the launcher unread (`vcrast.cli.main`)."""
    parser = subparsers.add_parser("run", help="pretrain, finetune, evaluate: a recipe on this machine", add_help=False)
    parser.add_argument("words", nargs="*")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run a recipe from plain words."""
    return start(arguments.words)


def start(words: Sequence[str]) -> int:
    """Run a recipe; returns the launcher's exit code."""
    return call("local", "run", words)


def call(name: str, verb: str, words: Sequence[str]) -> int:
    """Hand the words of a verb to `launch/NAME.py`."""
    program = launcher("arguments").Program.of_verb(verb)
    return int(launcher(name).main(words, program))


def launcher(name: str) -> ModuleType:
    """The module `launch/NAME.py`, from the wheel or the clone that vcrast belongs to."""
    return importlib.import_module(importable_name(f"launch.{name}"))
