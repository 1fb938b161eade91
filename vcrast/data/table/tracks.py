"""Read tables of sound programs: Audacity's labels, Raven's selections, DCASE's lists."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath

from vcrast.data.audio import SUFFIXES
from vcrast.data.table.names import column_name
from vcrast.data.table.rows import Row, Table

SOUND_SUFFIXES = frozenset(
    (*SUFFIXES, ".m4a", ".mp4", ".aac", ".webm", ".wma", ".amr", ".sph", ".aifc", ".3gp", ".mka")
)
"""Suffixes of sounds as tables name them, whether they can be read or not."""
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)")


def has_sound_suffix(name: str) -> bool:
    """Tell whether a path ends as sound files do."""
    return PurePosixPath(name.replace("\\", "/")).suffix.lower() in SOUND_SUFFIXES


def headless_names(cells: list[str], path: Path) -> list[str] | None:
    """Name the columns of a table that begins with data; None if the first row is a header.

    Known are `start end [label]` (an Audacity label track) and lists whose first cell is a sound file: alone, with a
    label, with start and end, or with start, end and label (DCASE; other cells in between are kept under their place).

    Raises:
        ValueError: the first row is data, and what its cells are is not clear.
    """
    number = [bool(NUMBER.fullmatch(cell)) for cell in cells]
    if number[:2] == [True, True] and len(cells) <= 3:
        return ["start", "end", "label"]
    if not has_sound_suffix(cells[0]):
        return None
    while cells and not cells[-1]:
        cells = cells[:-1]
    names = ["path", *(f"column {place}" for place in range(2, len(cells) + 1))]
    times = next((i for i in range(1, len(cells) - 1) if number[i] and number[i + 1]), None)
    if times is not None:
        names[times : times + 2] = ["start", "end"]
    if len(cells) == 2 or (times is not None and times + 3 == len(cells)):
        names[-1] = "label"
    elif times is None and len(cells) > 2:
        raise ValueError(
            f"{path}: the first line has no names but {', '.join(cells)}; write one such as path,label,fold"
        )
    return names


def raven(table: Table) -> Table:
    """Make times of a Raven selection table those within the file, and leave out what it lists twice.

    Raven counts `Begin Time (s)` from the beginning of all files opened together; `File Offset (s)` is the place in the
    file itself. A selection stands there once for each view (waveform, spectrogram).
    """
    named = {column_name(name).key: name for name in table.names}
    if not {"selection", "begintime", "endtime"} <= set(named):
        return table
    table.form = f"{table.form}, a Raven selection table"
    if "view" in named:
        rows = list({row.cells[named["selection"]]: row for row in reversed(table.rows)}.values())[::-1]
        if len(rows) < len(table.rows):
            table.form += f" ({len(table.rows) - len(rows)} rows of further views left out)"
        table.rows = rows
    if "fileoffset" in named:
        moved = [_from_file(row, named) for row in table.rows]
        if any(after.cells != before.cells for after, before in zip(moved, table.rows, strict=True)):
            table.form += f", times from {named['fileoffset']!r}"
        table.rows = moved
    elif "beginfile" in named and len({row.cells[named["beginfile"]] for row in table.rows}) > 1:
        table.notes.append(
            f"{table.path}: several files and no column 'File Offset (s)'; if they were open in Raven together, its "
            "times count from the beginning of the first"
        )
    return table


def _from_file(row: Row, named: dict[str, str]) -> Row:
    cells = [row.cells[named[key]] for key in ("begintime", "endtime", "fileoffset")]
    try:
        begin, end, offset = (float(cell.replace(",", ".")) for cell in cells)
    except ValueError:
        return row
    if abs(begin - offset) < 1e-4:  # Raven writes some times with four digits
        return row
    times = {named["begintime"]: f"{offset:.9g}", named["endtime"]: f"{offset + end - begin:.9g}"}
    return row._replace(cells={**row.cells, **times})


def sound_beside(path: Path) -> str | None:
    """Return the name of the sound file that a table lies beside: the same name up to one of its dots.

    `rec.Table.1.selections.txt` belongs to `rec.wav`, `rec.wav.txt` too.
    """
    sounds = [file.name for file in path.parent.iterdir() if has_sound_suffix(file.name) and file.name[0] != "."]
    stems = Counter(PurePosixPath(name).stem for name in sounds)
    stem = path.name
    while "." in stem:
        stem = stem.rpartition(".")[0]
        if stem in sounds:
            return stem
        if stems[stem] == 1:
            return next(name for name in sounds if PurePosixPath(name).stem == stem)
    return None
