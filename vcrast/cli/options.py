"""Declare the options of verbs that compute with a model."""

from __future__ import annotations

from argparse import ArgumentParser, _ArgumentGroup


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
