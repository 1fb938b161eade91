"""`vcrast list`: what can be chosen on the command line of a run."""

from __future__ import annotations

import argparse
from typing import Any

from vcrast.config.files import GROUPS, LISTS, add_own_dirs, config_dir, first_comment, option_files
from vcrast.config.words import suggest

KIND = ("recipe", *GROUPS, *LISTS)


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser("list", help="recipes, datasets, models and other choices")
    parser.add_argument("kind", nargs="?", help=f"one of {', '.join(KIND)}; all of them if left out")
    parser.add_argument("--recipes", action="append", default=[], metavar="DIR", help="a folder of your own recipes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print every option of a kind, or of all, with the first comment of its file; of your own, where they lie.

    Raises:
        ValueError: no such kind.
    """
    add_own_dirs(arguments.recipes)
    kind = arguments.kind
    # `vcrast list recipes` reads better, so the plural is understood too.
    kind = kind.removesuffix("s") if kind and kind not in KIND and kind.removesuffix("s") in KIND else kind
    if kind is not None and kind not in KIND:
        raise ValueError(f"list {kind}: no such kind; {suggest(kind, KIND)}")
    for group in [kind] if kind else KIND:
        found = option_files(group)
        width = max(map(len, found), default=0)
        how = {"recipe": "vcrast run NAME", **{each: f"{each}=[NAME,NAME]" for each in LISTS}}.get(
            group, f"{group}=NAME"
        )
        print(f"{group} ({how})")
        for name, path in found.items():
            place = "" if path.is_relative_to(config_dir()) else f"  [{path}]"
            print(f"  {name:<{width}}  {first_comment(path)}{place}".rstrip())
    return 0
