"""Turn the cells of a label column into names of classes."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from vcrast.data.table.names import column_name
from vcrast.data.table.rows import Row, is_empty

SEPARATORS = {";": "semicolon", "|": "bar", ",": "comma", " ": "space"}
"""What may stand between labels -> its name on the command line, where the character itself is hard to quote."""
PLURAL = ("labels", "tags", "categories", "classes")
"""Names of columns that promise several labels in a cell."""


class Labels(NamedTuple):
    """The labels of every row, whether a clip may have several, and lines on how cells were read."""

    names: list[list[str]]
    multilabel: bool
    said: list[str]
    doubts: list[str]


def read_labels(
    rows: Sequence[Row], column: str | None, *, separator: Any, classes: Collection[str] | None, faults: list[str]
) -> Labels:
    """Read the labels of every row; an empty cell is a fault, an empty list a clip without a class.

    Args:
        rows: of the table.
        column: of the labels; None: no clip has any.
        separator: between the labels of a cell; "" or False: a cell is one label; None: found out by `find_separator`.
        classes: all allowed labels, where they are known.
        faults: takes cells that cannot be read.

    Raises:
        ValueError: a separator that is no text.
    """
    if column is None:
        return Labels([[] for _ in rows], False, [], [])
    known = frozenset(classes or ())
    cells = [_cell(row, column, known, faults) for row in rows]
    texts: dict[str, int] = {}
    for row, cell in zip(rows, cells, strict=True):
        if isinstance(cell, str):
            texts.setdefault(cell, row.line)
    said, doubts = [], []
    plural = column_name(column).key in PLURAL
    if separator is None:
        chosen, doubt = find_separator(texts, plural=plural, classes=known)
        doubts += [f"{column}: {doubt}"] if doubt else []
    else:
        chosen = _asked(separator)
    if chosen:
        example = next((text for text in texts if chosen in text and text not in known), None)
        shown = f"such as {example!r}, line {texts[example]}" if example else "which no cell holds"
        said.append(f"{column}: several labels in a cell, separated by {chosen!r} ({shown})")
    whole = known if separator is None else frozenset[str]()
    names = [_names(cell, chosen, whole) for cell in cells]
    faults += [
        f"{row.where}: {column}={cell!r} holds no label"
        for row, cell, found in zip(rows, cells, names, strict=True)
        if isinstance(cell, str) and not found
    ]
    multilabel = plural or bool(chosen) or any(isinstance(cell, list) for cell in cells)
    return Labels(names, multilabel, said, doubts)


def find_separator(
    texts: Mapping[str, int], *, plural: bool, classes: Collection[str] = ()
) -> tuple[str | None, str | None]:
    """Return what stands between several labels in a cell (None if nothing does), and a line where that is doubtful.

    A class may be called "Inside, small room". So a character counts only if at least half of the pieces that it makes
    (two thirds where a blank follows every comma) are labels elsewhere: alone in a cell, in another combination, or
    among `classes`. In a column called `labels` or the like, only commas with blanks have to show that.

    Args:
        texts: distinct cells -> the first line of each.
        plural: the column's name promises several labels.
        classes: all allowed labels, where they are known; a cell that is one of them is not split.
    """
    for separator in (";", "|", ","):
        holding = [text for text in texts if separator in text and text not in classes]
        if not holding:
            continue
        pieces = Counter(piece for text in holding for piece in set(_split(text, separator)))
        elsewhere = [piece for piece, count in pieces.items() if count > 1 or piece in texts or piece in classes]
        spaced = separator == "," and not any(re.search(r",\S", text) for text in holding)
        needed = (0.5 if spaced else 0.0) if plural else (2 / 3 if spaced else 0.5)
        if pieces and len(elsewhere) / len(pieces) >= needed:
            return separator, None
        if not classes:
            example = holding[0]
            return None, (
                f"cells with {separator!r} are one class each, such as {example!r} (line {texts[example]}): few of "
                f"their parts are labels elsewhere; data.options.label_separator={SEPARATORS[separator]} splits them"
            )
    return None, None


def told_classes(rows: Sequence[Row], labels: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return for each class how many rows have it, and the first."""
    counts: Counter[str] = Counter()
    first: dict[str, Row] = {}
    for row, names in zip(rows, labels, strict=True):
        for name in names:
            counts[name] += 1
            first.setdefault(name, row)
    return {name: f"{_rows(count)}, first {first[name].where}" for name, count in counts.items()}


def _rows(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''}"


def _asked(separator: Any) -> str | None:
    """Return the separator that the user set."""
    if separator is False or separator == "":
        return None
    if not isinstance(separator, str):
        raise ValueError(
            f"data.options.label_separator={separator}: give a character, its name "
            f"({', '.join(SEPARATORS.values())}), or false for one label a cell"
        )
    return next((sign for sign, name in SEPARATORS.items() if separator == name), separator)


def _cell(row: Row, column: str, classes: frozenset[str], faults: list[str]) -> list[str] | str | None:
    """Return a list of labels, or the text of a cell; None, and a fault, where it is empty or a broken list."""
    cell = row.cells.get(column)
    if is_empty(cell) and not (isinstance(cell, str) and cell.strip() in classes - {""}):
        said = f", which stands for an empty cell: {cell.strip()}" if isinstance(cell, str) and cell.strip() else ""
        faults.append(f"{row.where}: {column} is missing or empty{said}")
        return None
    if isinstance(cell, list):
        return _unique(cell)
    text = str(cell).strip()
    if text[0] + text[-1] not in ("[]", "()", "{}") or text in classes:
        return text
    found = _list(text)
    if found is None and text[0] == "[":
        faults.append(f"{row.where}: {column} is not a list as JSON or Python write it: {text}")
        return None
    return text if found is None else found


def _list(text: str) -> list[str] | None:
    """Read a list as JSON, Python or numpy (blanks for commas) writes it; None for any other text."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        if re.search(r"""['"]\s+['"]""", text) and not re.search(r"""['"]\s*,""", text):
            return _unique(re.findall(r"""'([^']*)'|"([^"]*)\"""", text))
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if isinstance(found, set):
        found = sorted(found, key=str)
    return _unique(found) if isinstance(found, list | tuple) else None


def _unique(names: Sequence[Any]) -> list[str]:
    texts = ("".join(name) if isinstance(name, tuple) else str(name) for name in names)
    return [text for text in dict.fromkeys(text.strip() for text in texts) if text]


def _split(text: str, separator: str) -> list[str]:
    return _unique(text.split(separator))


def _names(cell: list[str] | str | None, separator: str | None, whole: frozenset[str]) -> list[str]:
    if isinstance(cell, list):
        return cell
    if cell is None:
        return []
    return _split(cell, separator) if separator and cell not in whole else [cell]
