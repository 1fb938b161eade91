"""The `vcrast` command; verbs import torch when they need it, so `--help` is quick."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from vcrast.cli import (
    average,
    best,
    compare,
    data,
    doctor,
    embed,
    evaluate,
    explain,
    export,
    import_,
    ls,
    predict,
    probe,
    replay,
    report,
    submit,
    sync,
    table,
    watch,
)
from vcrast.cli import list as list_
from vcrast.cli import run as run_
from vcrast.cli.errors import exit_code
from vcrast.config.files import add_own_dirs, options
from vcrast.config.version import __version__
from vcrast.config.words import suggest

VERBS = {
    "run": run_,
    "submit": submit,
    "doctor": doctor,
    "list": list_,
    "data": data,
    "embed": embed,
    "predict": predict,
    "explain": explain,
    "evaluate": evaluate,
    "export": export,
    "import": import_,
    "average": average,
    "probe": probe,
    "report": report,
    "replay": replay,
    "compare": compare,
    "table": table,
    "ls": ls,
    "best": best,
    "watch": watch,
    "sync": sync,
}

EPILOG = """\
`vcrast VERB --help` explains a verb; VCRAST_DEBUG=1 shows the traceback of a mistake, too.
"""
LAUNCHERS = {"run": run_.start, "submit": submit.start}
"""Verbs whose words are Hydra's: argparse would take `-m` or `-sc` for its own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 when all went well, 1 when the verb found something wrong (see its help), 2 for a mistake in what was asked,
        and as `vcrast.cli.errors` and the launchers say.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["-sc"]:  # a shell asks for completions, of whichever verb
        words = ["run", *words]
    if words and words[0] in LAUNCHERS:
        return LAUNCHERS[words[0]](words[1:])
    return exit_code("vcrast", lambda: _main(words))


def _main(words: list[str]) -> int:
    add_own_dirs()
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        recipes = [name for name, _ in options("recipe")]
        meant = f"did you mean `vcrast run {words[0]}`?" if words[0] in recipes else suggest(words[0], VERBS)
        raise ValueError(f"{words[0]}: no such verb; {meant}")
    arguments = parser().parse_args(words)
    return int(arguments.run(arguments))


class Parser(argparse.ArgumentParser):
    """Takes words and options in any order: `vcrast compare A --metric NAME B`, which argparse refuses by itself."""

    has_verbs, mixing = False, False

    def add_subparsers(self, **options: Any) -> Any:
        """As usual; a parser of verbs cannot mix, those of its verbs, which are of this class, can."""
        self.has_verbs = True
        return super().add_subparsers(**options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As usual, options first, then what is left of the words; argparse calls back while it does so.

        Not for help: while argparse mixes, words have no defaults that it could tell.
        """
        if self.has_verbs or self.mixing or {"-h", "--help"} & set(args or ()):
            return super().parse_known_args(args, namespace)
        self.mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.mixing = False


def parser() -> argparse.ArgumentParser:
    """The command line of all verbs."""
    top = Parser(
        prog="vcrast",
        description="Self-supervised audio spectrogram transformers: train, prepare data, use trained models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vcrast {__version__}")
    subparsers = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS.values():
        verb.add_parser(subparsers)
    return top


if __name__ == "__main__":
    sys.exit(main())
