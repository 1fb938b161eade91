"""The `vcrast` command. Torch is imported by the verbs that need it, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from vcrast.cli import compare, data, doctor, embed, export, predict, probe, report, sync
from vcrast.cli import list as list_
from vcrast.config.version import __version__
from vcrast.config.words import suggest

VERBS = {
    "doctor": doctor,
    "list": list_,
    "data": data,
    "embed": embed,
    "predict": predict,
    "export": export,
    "probe": probe,
    "report": report,
    "compare": compare,
    "sync": sync,
}

EPILOG = """\
training:
  python launch/local.py RECIPE [group=option] [key=value ...]

`vcrast VERB --help` explains a verb; VCRAST_DEBUG=1 shows the traceback of an error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 when all went well, 1 when the verb found something wrong (see its help), 2 for a mistake in what was asked.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and not words[0].startswith("-") and words[0] not in VERBS:
            raise ValueError(f"{words[0]}: no such verb; {suggest(words[0], VERBS)}")
        arguments = parser().parse_args(words)
        return int(arguments.run(arguments))
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, KeyError, OSError) as error:
        if os.environ.get("VCRAST_DEBUG"):
            raise
        print(f"vcrast: error: {message(error)}", file=sys.stderr)
        return 2


class Parser(argparse.ArgumentParser):
    """Takes words and options in any order: `vcrast compare A --metric NAME B`, which argparse refuses by itself."""

    has_verbs, mixing = False, False

    def add_subparsers(self, **options: Any) -> Any:
        """As usual; a parser of verbs cannot mix, those of its verbs, which are of this class, can."""
        self.has_verbs = True
        return super().add_subparsers(**options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As usual, options first, then what is left of the words; argparse calls back while it does so."""
        if self.has_verbs or self.mixing:
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
        description="Self-supervised audio spectrogram transformers: look around, prepare data, use trained models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vcrast {__version__}")
    subparsers = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS.values():
        verb.add_parser(subparsers)
    return top


def message(error: BaseException) -> str:
    """The message of an error without the quotes that KeyError puts around it; a list of faults keeps its lines."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text.strip() or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
