"""Read the CSV files of known datasets strictly; name the line of a fault."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from vcrast.data.preflight import fault_list

Row = TypeVar("Row")


def read_metadata(path: Path, columns: Collection[str], make: Callable[[dict[str, str], int], Row]) -> list[Row]:
    """Read every row.

    Args:
        path: of a CSV file in UTF-8 whose first line names its columns; others than `columns` are allowed.
        columns: that must be there and have no empty cell.
        make: (cells, line) -> row; raises ValueError for cells that it cannot read.

    Raises:
        ValueError: a column is missing, or cells cannot be read; lists the first 20 with their lines.
    """
    rows: list[Row] = []
    faults: list[str] = []
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: no column {missing[0]!r}; it has {', '.join(reader.fieldnames or ())}")
        for cells in reader:
            try:
                if any(not cells[column] for column in columns):
                    raise ValueError("a cell is empty")
                rows.append(make(cells, reader.line_num))
            except ValueError as error:
                faults.append(f"line {reader.line_num}: {error}")
    if faults or not rows:
        raise ValueError(f"{path}: {len(rows)} rows, {len(faults)} faults{fault_list(faults)}")
    return rows
