"""Read a table of clips from a file, or from a folder of tables."""

from __future__ import annotations

from pathlib import Path

from vcrast.data.splits import standard_split
from vcrast.data.table.delimited import read_delimited
from vcrast.data.table.json_rows import read_json
from vcrast.data.table.names import column_name
from vcrast.data.table.roles import PATHS
from vcrast.data.table.rows import Row, Table
from vcrast.data.table.text import read_text
from vcrast.data.table.tracks import sound_beside

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.tsv")
TABLE_SUFFIXES = (".txt", ".csv", ".tsv")


def read_table(path: Path, *, encoding: str | None = None, audio: str | None = None) -> Table:
    """Read a file of any known form, or a folder: its `metadata.csv` (or those of its splits), or its label tables.

    A table without a column of paths, such as a label track, is of one sound: its rows get a column `path`.

    Args:
        path: of the file or the folder.
        encoding: of the text; None finds it out.
        audio: the sound of a table without paths; None takes the one beside it with the same name.

    Raises:
        FileNotFoundError: neither a file nor a folder, or a folder without tables.
        ValueError: no text, no table, or no sound for it.
    """
    if path.is_file():
        return _of_one_sound(_read_file(path, encoding), audio)
    if not path.is_dir():
        raise FileNotFoundError(f"data.path={path}: no such file")
    if audio is not None:
        raise ValueError(f"data.options.audio={audio}: {path} is a folder, whose tables lie beside their sounds")
    places = _metadata(path) or _tables(path)
    if not places:
        suffixes = (*TABLE_SUFFIXES, *JSON_SUFFIXES)
        lists = sorted(file.name for file in path.iterdir() if file.suffix.lower() in suffixes)
        advice = f"; give one of its files: {', '.join(lists[:5])}" if lists else ""
        raise FileNotFoundError(
            f"data.path={path}: a folder with neither {METADATA[0]} nor tables beside sound files{advice}"
        )
    return _joined(path, [(place, _of_one_sound(_read_file(place, encoding), None)) for place in places])


def _read_file(path: Path, encoding: str | None) -> Table:
    text = read_text(path, encoding)
    is_json = path.suffix.lower() in JSON_SUFFIXES or text.content.lstrip()[:1] == "{"
    table = read_json(path, text.content) if is_json else read_delimited(path, text.content)
    table.form += "" if text.encoding.startswith("utf-8") else f", {text.encoding}"
    table.notes += [f"{path}: {text.doubt}"] if text.doubt else []
    return table


def _of_one_sound(table: Table, audio: str | None) -> Table:
    """Give the rows of a table without a column of paths the sound that they are of, if there is one."""
    named = [name for name in table.names if column_name(name).key in PATHS]
    if named:
        if audio is not None:
            raise ValueError(f"data.options.audio={audio}: {table.path} has its own column of paths, {named[0]}")
        return table
    if audio is not None:
        here = Path(audio).expanduser()
        sound = str(here.absolute()) if here.exists() else audio
    else:
        sound = sound_beside(table.path) or ""
    if sound:
        table.rows = [row._replace(cells={"path": sound, **row.cells}) for row in table.rows]
        table.form += f", of the sound {sound}"
    elif table.headless:
        raise ValueError(
            f"{table.path}: a label track, and no sound of that name lies beside it; data.options.audio=FILE says which"
        )
    return table


def _metadata(folder: Path) -> list[Path]:
    """List the metadata files of a folder, or of its splits, as Hugging Face lays them out."""
    splits = sorted(place for place in folder.iterdir() if place.is_dir() and standard_split(place.name))
    for places in ([folder], splits):
        found = [place / name for place in places for name in METADATA if (place / name).is_file()]
        if found:
            return found
    return []


def _tables(folder: Path) -> list[Path]:
    """List the tables below a folder that lie beside a sound of the same name."""
    return [
        place
        for place in sorted(folder.rglob("*"))
        if place.suffix.lower() in TABLE_SUFFIXES and not place.name.startswith(".") and sound_beside(place)
    ]


def _joined(folder: Path, parts: list[tuple[Path, Table]]) -> Table:
    """Join the tables of a folder; their paths become relative to it."""
    whole = Table(folder, [], f"{len(parts)} tables")
    for place, table in parts:
        source = str(place.relative_to(folder))
        below = place.parent.relative_to(folder)
        for row in table.rows:
            moved = {
                name: str(below / cell)
                for name, cell in row.cells.items()
                if column_name(name).key in PATHS and isinstance(cell, str) and cell
            }
            whole.rows.append(Row(row.line, {**row.cells, **moved}, source))
        whole.faults += [f"{source} {fault}" for fault in table.faults]
        whole.notes += table.notes
        whole.decimal_comma |= table.decimal_comma
    whole.form += f", the first is {parts[0][0].name}: {parts[0][1].form.partition(', of the sound')[0]}"
    return whole
