"""Read rows from JSON: lines, an array of objects, or columns."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vcrast.data.table.rows import Row, Table
from vcrast.data.table.tracks import has_sound_suffix

SPACE = " \t\r\n"


def read_json(path: Path, text: str) -> Table:
    """Read objects, one a line; or an array of them; or one object of columns, of rows, or from files to labels.

    Rows of an object that holds them all have their number for a line.

    Raises:
        ValueError: one JSON object that is none of these.
    """
    faults: list[str] = []
    if text.lstrip().startswith("["):
        return Table(path, list(_array(text, text.index("["), faults)), "a JSON array", faults)
    whole = _single(text)
    if whole is None:
        return Table(path, list(_lines(text, faults)), "JSON lines", faults)
    return Table(path, _object(path, whole), "JSON")


def _single(text: str) -> dict[str, Any] | None:
    """Return the object that is the whole text; None if the text holds several, or none that can be read."""
    try:
        found, end = json.JSONDecoder().raw_decode(text.lstrip())
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and not text.lstrip()[end:].strip() else None


def _lines(text: str, faults: list[str]) -> Iterator[Row]:
    for line, part in enumerate(io.StringIO(text, newline=None), start=1):
        if not part.strip():
            continue
        try:
            cells = json.loads(part)
        except json.JSONDecodeError as error:
            faults.append(f"line {line}: not JSON ({error.msg})")
            continue
        yield from _row(line, cells, faults, where="one of which stands on every line")


def _array(text: str, place: int, faults: list[str]) -> Iterator[Row]:
    """Yield the objects of the array that begins at `place`, each with the line that it begins on."""
    decoder, counted, line = json.JSONDecoder(), 0, 1
    place += 1
    while True:
        while place < len(text) and text[place] in f"{SPACE},":
            place += 1
        line, counted = line + text.count("\n", counted, place), place
        if place >= len(text) or text[place] == "]":
            if place >= len(text):
                faults.append(f"line {line}: the array is not closed")
            return
        try:
            cells, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            faults.append(f"line {error.lineno}: not JSON ({error.msg})")
            return
        yield from _row(line, cells, faults, where="of which the array is made")


def _row(line: int, cells: Any, faults: list[str], *, where: str) -> Iterator[Row]:
    if isinstance(cells, dict):
        yield Row(line, cells)
    else:
        faults.append(f"line {line}: not a JSON object, {where}")


def _object(path: Path, whole: dict[str, Any]) -> list[Row]:
    """Return the rows of an object that holds them all."""
    listed = [key for key, value in whole.items() if _of_dicts(value)]
    if len(listed) == 1 or "data" in listed:
        return _numbered(whole["data" if "data" in listed else listed[0]])
    names, data = whole.get("columns"), whole.get("data")
    if isinstance(names, list) and isinstance(data, list):  # pandas, orient="split"
        return _numbered([dict(zip(map(str, names), cells, strict=False)) for cells in data])
    values = list(whole.values())
    if values and all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        return _numbered([dict(zip(whole, cells, strict=True)) for cells in zip(*values, strict=True)])
    if whole and all(has_sound_suffix(name) for name in whole):
        return _numbered([{"path": name, **(v if isinstance(v, dict) else {"label": v})} for name, v in whole.items()])
    if values and all(isinstance(value, dict) for value in values):  # pandas, orient="columns"
        keys = list(dict.fromkeys(key for value in values for key in value))
        return _numbered([{name: column.get(key) for name, column in whole.items()} for key in keys])
    if values and all(isinstance(value, list | dict) for value in values):
        raise ValueError(f"{path}: a JSON object that holds neither rows nor columns; write an array of objects")
    return [Row(1, whole)]


def _of_dicts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _numbered(cells: list[dict[str, Any]]) -> list[Row]:
    return [Row(number, found) for number, found in enumerate(cells, start=1)]
