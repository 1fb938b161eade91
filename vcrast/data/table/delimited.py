"""Read rows of cells between commas, semicolons, tabs or bars."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from vcrast.data.table.rows import Row, Table
from vcrast.data.table.tracks import headless_names, raven

DELIMITERS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars"}
LOOKED_AT = 50  # rows that show the delimiter
CELL_LIMIT = 2**24  # characters; Python's own is 131,072


def read_delimited(path: Path, text: str) -> Table:
    """Read a table whose first line names its columns, or one of the forms without names (`headless_names`).

    Empty lines, empty cells behind the last column and Excel's first line `sep=;` are left out. In the faults are rows
    with more or fewer cells than the header.
    """
    csv.field_size_limit(CELL_LIMIT)
    delimiter, text = _declared(text)
    delimiter = delimiter or find_delimiter(text)
    table = Table(path, [], DELIMITERS.get(delimiter, repr(delimiter)), decimal_comma=delimiter != ",")
    head: list[str] = []
    for line, cells in _records(text, delimiter, table.faults):
        if not head:
            head, table.headless = _head(line, cells, path, table.faults)
            if not table.headless:
                continue
        extra = cells[len(head) :]
        if table.headless and cells[0].startswith("\\"):  # Audacity's second line of a label: its frequencies
            continue
        if table.headless and len(cells) < len(head):
            cells = [*cells, *[""] * (len(head) - len(cells))]
        if len(cells) < len(head) or any(extra):
            advice = f"; quote cells that hold {DELIMITERS.get(delimiter, delimiter)}" if any(extra) else ""
            table.faults.append(f"line {line}: {len(cells)} cells, the header has {len(head)}{advice}")
            continue
        table.rows.append(Row(line, dict(zip(head, cells, strict=False))))
    return raven(table)


def find_delimiter(text: str) -> str:
    """Return the character that cuts the first line and most others into the same number of cells; "," if none does."""
    lines = [line for line in io.StringIO(text[: 2**20], newline="") if line.strip()][:LOOKED_AT]
    best, chosen = (0.0, 0), ","
    for delimiter in DELIMITERS:
        counts = [len(cells) for cells in csv.reader(lines, delimiter=delimiter) if any(cells)]
        if not counts or counts[0] < 2:
            continue
        same = sum(count == counts[0] for count in counts) / len(counts)
        if delimiter == "\t" and same >= 0.5:  # hardly ever in a name, as commas are
            return delimiter
        if (same, counts[0]) > best:
            best, chosen = (same, counts[0]), delimiter
    return chosen


def _declared(text: str) -> tuple[str | None, str]:
    """Return the delimiter of Excel's line `sep=;`, and the text with that line empty."""
    first, end, rest = text.partition("\n")
    if first.lower().startswith("sep=") and len(first.rstrip("\r")) == 5:
        return first[4], end + rest
    return None, text


def _records(text: str, delimiter: str, faults: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the stripped cells of every row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    before = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.append(f"line {reader.line_num}: cannot be read ({error})")
            return
        first, before = before + 1, reader.line_num
        cells = [cell.strip() for cell in cells]
        if reader.line_num > first and any("\n" in cell or "\r" in cell for cell in cells):
            faults.append(
                f"line {first}: a cell with a line break, up to line {reader.line_num}; is a quote not closed?"
            )
        elif any(cells):
            yield reader.line_num, cells


def _head(line: int, cells: list[str], path: Path, faults: list[str]) -> tuple[list[str], bool]:
    """Return the names of the columns, and whether they are made up because the first row is data."""
    made_up = headless_names(cells, path)
    if made_up:
        return made_up, True
    while cells and not cells[-1]:
        cells = cells[:-1]
    head = [cell or f"column {place}" for place, cell in enumerate(cells, start=1)]
    twice = [name for name in head if head.count(name) > 1]
    if twice:
        faults.append(f"line {line}: two columns called {twice[0]!r}")
    return head, False
