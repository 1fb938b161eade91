"""The user's own list of clips: CSV, TSV, or JSON lines."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.config.words import suggest
from vcrast.data.audio import is_generated
from vcrast.data.clip import Clip, Corpus, fold_names
from vcrast.data.preflight import duplicates, fault_list
from vcrast.data.settings import refuse_settings

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
POSITION = ("path", "start", "duration")


class Columns(NamedTuple):
    """The columns that labels and folds come from; None where there are none."""

    label: str | None
    fold: str | None


class ManifestRow(NamedTuple):
    """One row as read: its line, and its cells as text or (JSON) as values."""

    line: int
    cells: dict[str, Any]


@SOURCES.register("manifest")
def manifest(data: DataConfig) -> Corpus:
    """Open the clips that `data.path` lists, labels from the column `data.label` (default: `label` or `labels`).

    `data.options`: `fold`, the column of folds (default: `fold` or `split`); `classes`, the allowed labels in order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown column, or bad rows; lists the first 20 with their lines.
    """
    refuse_settings(data, options=("fold", "classes"), root=False, path=True, label=True)
    if data.path is None:
        raise FileNotFoundError("data=manifest: set data.path=FILE, a CSV or JSON lines file with a column `path`")
    path = Path(data.path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"data.path={data.path}: no such file")
    faults: list[str] = []
    rows = list(_read(path, faults))
    if not rows and not faults:
        raise ValueError(f"{path}: no rows")
    names = list(dict.fromkeys(name for row in rows for name in row.cells))
    columns = _columns(data, path, names)
    allowed = data.options["classes"]
    labels = [_labels(row, columns.label, faults) for row in rows]
    multilabel = columns.label == "labels" or any(_is_list(row, columns.label) for row in rows)
    classes = _classes(labels) if allowed is None else tuple(str(name) for name in allowed)
    number = {name: i for i, name in enumerate(classes)}
    clips = [_clip(row, cell, columns, number, path.parent, faults) for row, cell in zip(rows, labels, strict=True)]
    kept = tuple(clip for clip in clips if clip is not None)
    faults += duplicates(kept)
    if faults:
        faults.sort(key=lambda text: int(text.split(":")[0].removeprefix("line ")))
        raise ValueError(f"{path}: {len(faults)} faults in {len(rows)} rows{fault_list(faults)}")
    return Corpus("manifest", kept, classes, multilabel, fold_names(kept))


def _read(path: Path, faults: list[str]) -> Iterator[ManifestRow]:
    """Yield the rows; lines that cannot be parsed go to `faults`. A byte order mark (Windows) is skipped."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            if path.suffix.lower() in JSON_SUFFIXES:
                yield from _read_json(file, faults)
            else:
                yield from _read_csv(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","), faults)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
            ) from None


def _read_json(file: Any, faults: list[str]) -> Iterator[ManifestRow]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            cells = json.loads(text)
        except json.JSONDecodeError as error:
            faults.append(f"line {line}: not JSON ({error.msg})")
            continue
        if isinstance(cells, dict):
            yield ManifestRow(line, cells)
        else:
            faults.append(f"line {line}: not a JSON object, one of which stands on every line")


def _read_csv(reader: Any, faults: list[str]) -> Iterator[ManifestRow]:
    head: list[str] = []
    for cells in reader:
        line = reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if not head:
            head = [cell.strip() for cell in cells]
            twice = [name for name in head if head.count(name) > 1]
            if twice:
                faults.append(f"line {line}: two columns called {twice[0]!r}")
        elif len(cells) == len(head):
            yield ManifestRow(line, dict(zip(head, (cell.strip() for cell in cells), strict=True)))
        else:
            faults.append(f"line {line}: {len(cells)} cells, the header has {len(head)}; quote cells that hold commas")


def _columns(data: DataConfig, path: Path, names: list[str]) -> Columns:
    """Return the chosen columns, or the usual ones that are there."""
    if names and "path" not in names:
        raise ValueError(f"{path}: no column 'path'; it has {', '.join(names)}")
    for key, name in (("label", data.label), ("options.fold", data.options["fold"])):
        if name is not None and name not in names:
            raise ValueError(f"data.{key}={name}: {path} has no such column; {suggest(str(name), names)}")
    if data.label is None and {"label", "labels"} <= set(names):
        raise ValueError(f"{path} has the columns label and labels; choose with data.label=")
    label = data.label or next((name for name in ("label", "labels") if name in names), None)
    fold = data.options["fold"] or next((name for name in ("fold", "split") if name in names), None)
    return Columns(label, fold)


def _is_list(row: ManifestRow, column: str | None) -> bool:
    cell = row.cells.get(column) if column else None
    return isinstance(cell, list) or (isinstance(cell, str) and (";" in cell or cell.startswith("[")))


def _labels(row: ManifestRow, column: str | None, faults: list[str]) -> list[str]:
    """Return the label names of a row; an empty JSON list is a clip without a class, an empty cell a fault."""
    cell = row.cells.get(column) if column else []
    if isinstance(cell, str) and cell.startswith("["):
        try:
            cell = json.loads(cell)
        except json.JSONDecodeError:
            faults.append(f"line {row.line}: {column} is not a JSON list: {cell}")
            return []
    if isinstance(cell, list):
        return list(dict.fromkeys(str(name) for name in cell))
    names = [] if cell is None else [name.strip() for name in str(cell).split(";")]
    if not all(names) or not names:
        faults.append(f"line {row.line}: {column} is missing or empty")
        return []
    return list(dict.fromkeys(names))


def _classes(labels: list[list[str]]) -> tuple[str, ...]:
    names = {name for cell in labels for name in cell}
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else None))


def _clip(
    row: ManifestRow, labels: list[str], columns: Columns, number: dict[str, int], folder: Path, faults: list[str]
) -> Clip | None:
    """Make the clip of a row; None, and the reasons in `faults`, if a cell is bad."""
    before = len(faults)
    text = str(row.cells.get("path") or "")
    if not text:
        faults.append(f"line {row.line}: path is missing or empty")
    start_s = _seconds(row, "start", faults)
    duration_s = _seconds(row, "duration", faults)
    if duration_s == 0:
        faults.append(f"line {row.line}: duration is 0")
    faults += [
        f"line {row.line}: unknown label {name!r}; {_known(name, number)}" for name in labels if name not in number
    ]
    fold = "" if columns.fold is None else str(row.cells.get(columns.fold, "") or "")
    if columns.fold is not None and not fold:
        faults.append(f"line {row.line}: {columns.fold} is missing or empty")
    if len(faults) > before:
        return None
    path = text if is_generated(text) else str(folder / Path(text).expanduser())
    used = {*POSITION, columns.label, columns.fold}
    extra = {name: _text(cell) for name, cell in row.cells.items() if name not in used}
    return Clip(path, tuple(number[name] for name in labels), start_s or 0.0, duration_s, fold, row.line, extra)


def _known(name: str, number: dict[str, int]) -> str:
    return suggest(name, number) if len(number) <= 60 else f"data.options.classes has {len(number)} others"


def _seconds(row: ManifestRow, column: str, faults: list[str]) -> float | None:
    cell = row.cells.get(column)
    if cell is None or cell == "":
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        faults.append(f"line {row.line}: {column}={cell!r} is not a number of seconds")
        return None
    return value


def _text(cell: Any) -> str:
    return cell if isinstance(cell, str) else json.dumps(cell)
