"""Turn the cells of a fold column into names of folds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from vcrast.data.corpus import TRAIN
from vcrast.data.splits import standard_split
from vcrast.data.table.names import column_name
from vcrast.data.table.rows import Row, is_empty

TRUE, FALSE = ("true", "yes", "1", "1.0"), ("false", "no", "0", "0.0")


def read_folds(rows: Sequence[Row], column: str, faults: list[str]) -> tuple[list[str], list[str]]:
    """Return the fold of every row, "" where its cell is empty (a fault), and lines on how cells were read.

    Splits are `train`, `val`, `test` or `eval` in any spelling; whole numbers may be written as 1.0. A column such as
    `is_test` of yes and no makes the folds `test` and `train`.
    """
    texts = ["" if is_empty(row.cells.get(column)) else str(row.cells[column]).strip() for row in rows]
    faults += [f"{row.where}: {column} is missing or empty" for row, text in zip(rows, texts, strict=True) if not text]
    distinct = Counter(text for text in texts if text)
    meant = _yes_or_no(column, distinct) or {text: standard_split(text) or text for text in distinct}
    if all(re.fullmatch(r"\d+(\.0+)?", text) for text in meant.values()):
        meant = {text: name.partition(".")[0] for text, name in meant.items()}
    changed = [
        f"{text} read as {meant[text]} ({count} rows)"
        for text, count in distinct.items()
        if meant[text] != text and not text[:1].isdigit()
    ]
    said = [f"{column}: {', '.join(changed)}"] if changed else []
    return [meant.get(text, "") for text in texts], said


def splits_of_paths(paths: Sequence[str]) -> list[str] | None:
    """Return the split that each path names in one of its folders; None unless all do and some are for training."""
    found = [
        next((split for split in map(standard_split, PurePosixPath(path).parts[:-1]) if split), None) for path in paths
    ]
    splits = [split for split in found if split is not None]
    whole = len(splits) == len(paths) and TRAIN in splits and len(set(splits)) > 1
    return splits if whole else None


def odd_folds(folds: Sequence[str]) -> str | None:
    """Return a warning where folds have `train` in their names, but none is `train` itself."""
    names = sorted({name for name in folds if name})
    trained = [name for name in names if TRAIN in re.split(r"[\W_]+", name.lower())]
    if not trained or TRAIN in names:
        return None
    return f"no fold is called train: all folds but the tested one are trained on, not only {', '.join(trained)}"


def _yes_or_no(column: str, distinct: Counter[Any]) -> dict[str, str] | None:
    """Return the fold of each cell of a column such as `is_test`."""
    words = [word for word in column_name(column).words if word != "is"]
    split = standard_split("".join(words).removeprefix("is"))
    if split is None or not {text.lower() for text in distinct} <= {*TRUE, *FALSE}:
        return None
    other = "test" if split == TRAIN else TRAIN
    return {text: split if text.lower() in TRUE else other for text in distinct}
