"""`vcrast probe`: what an encoder has learnt of the parameters of generated sounds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vcrast.cli.options import add_model_options
from vcrast.config.registry import import_part

EXTENSION = "extensions.sound_probe.command"


def add_parser(subparsers: Any) -> None:
    """Declare the verb; what it does is a research part, imported when it is asked for."""
    parser = subparsers.add_parser(
        "probe",
        help="what an encoder knows of the parameters of generated sounds",
        description="Render sounds whose parameters are known, embed them with the frozen encoder and fit a linear "
        "model back to each parameter. Printed: R2 on held-out sounds (1 is exact, 0 no better than the mean) beside "
        "that of the same architecture untrained, and of the mean and std over time of the log-mel filterbank. "
        "extensions/sound_probe/README.md says which sounds a parameter is scored on.",
    )
    parser.add_argument("model", metavar="RUN", help="run folder or exported model")
    parser.add_argument("--sounds", type=int, default=2000, help="how many; a quarter is held out (default 2000)")
    parser.add_argument("--seconds", type=float, help="length of a sound; the model's clip length if left out")
    parser.add_argument(
        "--layers", type=int, default=1,
        help="sounds on top of each other (default 1); of several nothing says which is the first, so that a score "
        "cannot reach 1",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the sounds (default 0)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the scores")
    add_model_options(
        parser, stages="finetuned or pretrained; finetuned where there is one if left out", at_once="sounds"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Probe the model and print the scores.

    Raises:
        ValueError: an option out of its range, or scikit-learn is not installed.
        FileNotFoundError: no such model, or the folder for the plot does not exist.
    """
    return int(import_part("probe", EXTENSION).run(arguments))
