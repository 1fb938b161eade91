"""`vcrast list`: what can be chosen on the command line of a run."""

from __future__ import annotations

import argparse
from typing import Any

from vcrast.config.files import GROUPS, LISTS, options
from vcrast.config.words import suggest

KIND = ("recipe", *GROUPS, *LISTS)


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser("list", help="recipes, datasets, models and other choices")
    parser.add_argument("kind", nargs="?", help=f"one of {', '.join(KIND)}; all of them if left out")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print every option of a kind, or of all, with the first comment of its file.

    Raises:
        ValueError: no such kind.
    """
    kind = arguments.kind
    # `vcrast list recipes` reads better, so the plural is understood too.
    kind = kind.removesuffix("s") if kind and kind not in KIND and kind.removesuffix("s") in KIND else kind
    if kind is not None and kind not in KIND:
        raise ValueError(f"list {kind}: no such kind; {suggest(kind, KIND)}")
    for group in [kind] if kind else KIND:
        found = list(options(group))
        width = max((len(name) for name, _ in found), default=0)
        how = {"recipe": "vcrast run NAME", **{each: f"{each}=[NAME,NAME]" for each in LISTS}}.get(
            group, f"{group}=NAME"
        )
        print(f"{group} ({how})")
        for name, comment in found:
            print(f"  {name:<{width}}  {comment}".rstrip())
    return 0
