"""Read the rows of a table, whatever its format."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

EMPTY = {"", "nan", "NaN", "NAN", "None", "null", "Null", "NULL", "<NA>", "#N/A"}
"""What programs write for a cell without a value. `none` is left to be a class."""


class Row(NamedTuple):
    """One row as read: its line, its cells as text or (JSON) as values, and its file where there are several."""

    line: int
    cells: dict[str, Any]
    source: str = ""

    @property
    def where(self) -> str:
        """The row as named in a message."""
        return f"{self.source} line {self.line}" if self.source else f"line {self.line}"


@dataclass
class Table:
    """The rows of one or several files.

    Attributes:
        path: of the file, or of the folder of files.
        rows: in order.
        form: how it is written, in words.
        faults: rows that cannot be read.
        notes: what was guessed and may be wrong.
        decimal_comma: whether a comma may stand in a number.
        headless: the columns have no names in the file; they were given by their place.
    """

    path: Path
    rows: list[Row]
    form: str
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    decimal_comma: bool = False
    headless: bool = False

    @property
    def names(self) -> list[str]:
        """The names of the columns, in order."""
        heads = dict.fromkeys(tuple(row.cells) for row in self.rows)  # one, mostly
        return list(dict.fromkeys(name for head in heads for name in head))


def is_empty(cell: Any) -> bool:
    """Tell whether a cell holds no value: nothing, or what pandas and databases write for nothing."""
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and cell.strip() in EMPTY)


def in_order(faults: Iterable[str]) -> list[str]:
    """Sort faults by the file and the line that they begin with."""

    def place(text: str) -> tuple[str, int]:
        found = re.match(r"(.*?)line (\d+)", text)
        return (found[1], int(found[2])) if found else ("", 0)

    return sorted(faults, key=place)
