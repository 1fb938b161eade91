"""Choose and find the models that finetuning keeps of its epochs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

EPOCH = re.compile(r"epoch_([1-9]\d*)")
SPAN = re.compile(r"([1-9]\d*)(?:-([1-9]\d*))?")
ENDLESS = sys.maxsize
Epochs = tuple[range, ...]


def epoch_name(epoch: int) -> str:
    """The folder, beside `finetuned`, and the stage of an epoch's model; they count from 1."""
    return f"epoch_{epoch}"


def epoch_number(name: str) -> int | None:
    """The epoch that a folder or stage is of; None for any other."""
    found = EPOCH.fullmatch(name)
    return None if found is None else int(found[1])


def parse_epochs(value: Any, where: str) -> Epochs:
    """Read which epochs are meant: `6-25`, `1,3,5-8`, a number, a list of these, or `all`.

    Args:
        value: as the user wrote it.
        where: beginning of messages.

    Raises:
        ValueError: none of these.
    """
    if value == "all":
        return (range(1, ENDLESS),)
    words = [word for item in (value if _is_list(value) else [value]) for word in str(item).split(",")]
    spans = []
    for word in words:
        found = SPAN.fullmatch(word.strip())
        if found is None or isinstance(value, bool) or int(found[2] or found[1]) < int(found[1]):
            raise ValueError(f"{where}: give epochs, counted from 1, as 6-25, [1,3,5] or all")
        spans.append(range(int(found[1]), int(found[2] or found[1]) + 1))
    if not spans:
        raise ValueError(f"{where}: names no epoch; give them as 6-25, [1,3,5] or all")
    return tuple(spans)


def among(epoch: int, epochs: Epochs) -> bool:
    """Whether an epoch is one of those that are meant."""
    return any(epoch in span for span in epochs)


def last_named(epochs: Epochs) -> int | None:
    """The last epoch that is named; None where all are meant."""
    last = max(span.stop for span in epochs) - 1
    return None if last == ENDLESS - 1 else last


def kept_in(folder: Path, marker: str) -> dict[int, Path]:
    """The folders of epochs, in order, in which `marker` says that a model is whole.

    Args:
        folder: of one fold's exported models; it need not exist.
        marker: name of the file that is written last.
    """
    found = ((epoch_number(path.name), path) for path in folder.glob("epoch_*") if (path / marker).is_file())
    return dict(sorted((number, path) for number, path in found if number is not None))


def in_words(epochs: Iterable[int]) -> str:
    """Numbers of epochs as they may be given.

    >>> in_words([6, 7, 8, 10])
    '6-8,10'
    """
    spans: list[list[int]] = []
    for epoch in sorted(epochs):
        if spans and epoch == spans[-1][1] + 1:
            spans[-1][1] = epoch
        else:
            spans.append([epoch, epoch])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in spans)


def _is_list(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str)
