"""Turn the cells of start, end and duration into seconds."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from vcrast.data.table.names import column_name
from vcrast.data.table.roles import Roles
from vcrast.data.table.rows import EMPTY, Row

AGREE_S = 0.010  # between end - start and duration, which tables round
DIGITS = 9  # after the point of a difference: 0.6 - 0.2 is 0.4


class Stretch(NamedTuple):
    """Where a clip begins in its file and how long it is, in seconds; None is up to the end."""

    start_s: float
    duration_s: float | None


def stretch(row: Row, roles: Roles, *, decimal_comma: bool, faults: list[str]) -> Stretch:
    """Read the times of a row; what is wrong goes to `faults`."""
    before = len(faults)
    start, end, duration = (
        None if column is None else _seconds(row, column, decimal_comma, faults)
        for column in (roles.start, roles.end, roles.duration)
    )
    if duration == 0:
        faults.append(f"{row.where}: {roles.duration} is 0")
    if end is None or len(faults) > before:
        return Stretch(start or 0.0, duration)
    length = round(end - (start or 0.0), DIGITS)
    if length <= 0:
        faults.append(f"{row.where}: {roles.end}={end:g} is not after {roles.start or 'the beginning'}={start or 0:g}")
    elif duration is not None and abs(length - duration) > AGREE_S + 1e-9:
        faults.append(
            f"{row.where}: {roles.start or 'the beginning'} to {roles.end} is {length:g} s, but {roles.duration} is "
            f"{duration:g} s; data.options.columns.duration=false (or end) leaves one out"
        )
    return Stretch(start or 0.0, length)


def _seconds(row: Row, column: str, decimal_comma: bool, faults: list[str]) -> float | None:
    cell: Any = row.cells.get(column)
    if cell is None or (isinstance(cell, str) and cell in EMPTY and cell.lower() != "nan"):
        return None
    text = cell
    if isinstance(cell, str) and decimal_comma and re.fullmatch(r"\s*[+-]?\d*,\d+\s*", cell):
        text = cell.replace(",", ".")
    try:
        value = math.nan if isinstance(text, bool) else float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        faults.append(f"{row.where}: {column}={cell!r} is not a number of seconds")
        return None
    return round(value * column_name(column).unit_s, DIGITS)
