"""What several verbs share: options of a model, settings of a dataset, the log."""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace, _ArgumentGroup
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vcrast.config.schema import Config


def add_model_options(parser: ArgumentParser | _ArgumentGroup, *, stages: str, at_once: str = "windows") -> None:
    """Declare `--fold`, `--stage`, `--device` and `--batch-size`.

    Args:
        parser: or a group of its options.
        stages: which stages the verb takes, and which one if none is given.
        at_once: what a batch is made of.
    """
    parser.add_argument("--fold", help="which fold's model; the first if left out")
    parser.add_argument("--stage", help=stages)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help=f"{at_once} computed at once (default 32)"
    )


def check_batch_size(batch_size: int) -> None:
    """Refuse what is no number of things.

    Raises:
        ValueError: below 1.
    """
    if batch_size < 1:
        raise ValueError(f"--batch-size {batch_size}: must be at least 1")


def add_dataset(parser: ArgumentParser) -> None:
    """Declare `NAME key=value ...`: a dataset and its settings."""
    parser.add_argument("name", metavar="NAME", help="a dataset: esc50, esc10, folder, manifest, ...")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, such as data.root=DIR")


def config_of(args: Namespace) -> Config:
    """Compose the settings that `add_dataset` took; errors as in `compose`."""
    from vcrast.config.compose import compose

    return compose([f"data={args.name}", *args.overrides])


def show_log() -> None:
    """Show progress and warnings on standard error: standard output stays fit for a pipe."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # no effect if already set up
