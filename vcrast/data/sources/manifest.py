"""The user's own list of clips: a table in any usual form."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.config.words import suggest
from vcrast.data.class_names import near_equal
from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus, fold_names
from vcrast.data.preflight import fault_list
from vcrast.data.settings import existing_folder, refuse_settings
from vcrast.data.table.folds import odd_folds, read_folds, splits_of_paths
from vcrast.data.table.labels import read_labels, told_classes
from vcrast.data.table.merge import merge_rows
from vcrast.data.table.paths import find_paths, folder_of_paths
from vcrast.data.table.read import read_table
from vcrast.data.table.roles import Roles, choose_roles, chosen_columns
from vcrast.data.table.rows import Table, in_order, is_empty
from vcrast.data.table.times import Stretch, stretch

log = logging.getLogger(__name__)
OPTIONS = ("fold", "classes", "columns", "label_separator", "merge_rows", "audio", "encoding")
SHOWN = 8  # columns without a role that the line on roles names


@SOURCES.register("manifest")
def manifest(data: DataConfig) -> Corpus:
    """Open the clips that `data.path` lists; configs/data/manifest.yaml has the options.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no column of paths, an unknown column, none of the files, or bad rows; lists the first 20 of these
            with their lines.
    """
    refuse_settings(data, options=OPTIONS, path=True, label=True)
    if data.path is None:
        raise FileNotFoundError("data=manifest: set data.path=FILE, a CSV or JSON lines file with a column `path`")
    path, options = Path(data.path).expanduser(), data.options
    if isinstance(options["classes"], str):
        raise ValueError(
            f"data.options.classes={options['classes']}: give a list, such as [{options['classes']},other]"
        )
    root = None if data.root is None else existing_folder(data)
    chosen = chosen_columns(options["columns"], label=data.label, fold=options["fold"])
    table = read_table(path, encoding=options["encoding"], audio=options["audio"])
    if not table.rows:
        _stop(table)
        raise ValueError(f"{path}: no rows")
    roles, doubts = choose_roles(table.names, chosen, path)
    rows, faults = table.rows, table.faults
    labels = read_labels(
        rows, roles.label, separator=options["label_separator"], classes=options["classes"], faults=faults
    )
    texts = _path_cells(table, roles)
    folds, fold_lines = _folds(table, roles, texts, off=chosen["fold"] is False)
    times = [stretch(row, roles, decimal_comma=table.decimal_comma, faults=faults) for row in rows]
    found = find_paths(rows, texts, folder_of_paths(path, root, texts), faults, table=path)
    classes = _classes(labels.names) if options["classes"] is None else tuple(map(str, options["classes"]))
    clips = _clips(table, roles, found.paths, labels.names, folds, times, classes)
    merged = merge_rows(clips, asked=options["merge_rows"], faults=faults)
    _stop(table)
    lines = [_roles_line(table, roles), *table.notes, *doubts, *labels.said, *labels.doubts, *fold_lines, *found.said]
    lines += [line for line in (merged.said, odd_folds(folds)) if line] + near_equal(told_classes(rows, labels.names))
    several = labels.multilabel or bool(merged.said)
    return Corpus("manifest", merged.clips, classes, several, fold_names(merged.clips), notes=tuple(lines))


def _stop(table: Table) -> None:
    if table.faults:
        faults = in_order(table.faults)
        raise ValueError(f"{table.path}: {len(faults)} faults in {len(table.rows)} rows{fault_list(faults)}")


def _roles_line(table: Table, roles: Roles) -> str:
    """Say in one line how the table was read and which column plays which role."""
    used = roles.used()
    others = [name for name in table.names if name not in used.values()]
    left = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
    columns = ", ".join(f"{role}={column}" for role, column in used.items())
    return f"{table.path.name}: {len(table.rows)} rows ({table.form}); {columns}" + (
        f"; others: {left}" if left else ""
    )


def _path_cells(table: Table, roles: Roles) -> list[str]:
    """Return the path of every row as written, "" where there is none, which is a fault."""
    cells = [row.cells.get(roles.path) for row in table.rows]
    texts = ["" if is_empty(cell) else str(cell).strip() for cell in cells]
    table.faults += [
        f"{row.where}: {roles.path} is missing or empty"
        for row, text in zip(table.rows, texts, strict=True)
        if not text
    ]
    return texts


def _folds(table: Table, roles: Roles, texts: Sequence[str], *, off: bool) -> tuple[list[str], list[str]]:
    """Return the fold of every row, from its column or the folders of its path, and lines on how it was read."""
    if roles.fold is not None:
        return read_folds(table.rows, roles.fold, table.faults)
    splits = None if off else splits_of_paths([text.replace("\\", "/") for text in texts])
    if splits is None:
        return [""] * len(table.rows), []
    counts = ", ".join(f"{splits.count(name)} {name}" for name in sorted(set(splits)))
    return splits, [f"folds from the folders of the paths: {counts}; data.options.columns.fold=false ignores them"]


def _classes(labels: Sequence[Sequence[str]]) -> tuple[str, ...]:
    names = {name for cell in labels for name in cell}
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else None))


def _clips(
    table: Table,
    roles: Roles,
    paths: Sequence[str | None],
    labels: Sequence[Sequence[str]],
    folds: Sequence[str],
    times: Sequence[Stretch],
    classes: Sequence[str],
) -> list[Clip]:
    """Make the clips of the rows without a fault; labels that are no classes are one more."""
    bad = {fault.partition(":")[0] for fault in table.faults}
    number = {name: i for i, name in enumerate(classes)}
    used = set(roles.used().values())
    clips = []
    for row, path, names, fold, (start_s, duration_s) in zip(table.rows, paths, labels, folds, times, strict=True):
        unknown = [name for name in names if name not in number]
        table.faults += [f"{row.where}: unknown label {name!r}; {_known(name, number)}" for name in unknown]
        if path is None or unknown or row.where in bad:
            continue
        extra = {name: _text(cell) for name, cell in row.cells.items() if name not in used}
        indices = tuple(number[name] for name in names)
        clips.append(Clip(path, indices, start_s, duration_s, fold, row.line, extra))
    return clips


def _known(name: str, number: Mapping[str, int]) -> str:
    return suggest(name, number) if len(number) <= 60 else f"data.options.classes has {len(number)} others"


def _text(cell: Any) -> str:
    return cell if isinstance(cell, str) else json.dumps(cell)
