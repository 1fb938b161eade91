"""Read Arrow and Parquet files through pyarrow: sounds by row, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vcrast.config.words import suggest
from vcrast.data.foreign.fields import Field, collect, is_wanted
from vcrast.data.foreign.files import read_json
from vcrast.data.foreign.tars import Damaged

INSTALL = "needs pyarrow: pip install 'vcrast[hf]'"
PARQUET = ".parquet"
ARROW_FILE = b"ARROW1"  # first bytes of the Arrow format with an index at its end; `datasets` writes the one without


@dataclass(frozen=True)
class Rows:
    """The rows of one file, without their sounds.

    Attributes:
        group: (n,) int32, number of the batch or row group of each.
        row: (n,) int32, its place in that.
        has_bytes: (n,) bool, the sound is in the file.
        paths: of the sounds, "" where there is none.
        fields: what rows have under the usual names and the one asked for.
        keys: names of all columns.
        group_bytes: of the sounds in the largest group.
    """

    group: np.ndarray
    row: np.ndarray
    has_bytes: np.ndarray
    paths: Sequence[str]
    fields: dict[str, Field]
    keys: tuple[str, ...]
    group_bytes: int


def pyarrow() -> Any:
    """Return the package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import pyarrow as found
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"data=huggingface {INSTALL} ({error})") from None
    return found


class ArrowFile:
    """An Arrow file, mapped into memory: its batches are there without being read.

    Raises:
        OSError: it is not there, cut, or no Arrow file.
    """

    def __init__(self, path: Path) -> None:
        pa = pyarrow()
        self.source = pa.memory_map(str(path))
        if self.source.size() < len(ARROW_FILE):
            raise OSError("no Arrow file: too short")
        is_file = self.source.read(len(ARROW_FILE)) == ARROW_FILE
        self.source.seek(0)
        if is_file:
            reader = pa.ipc.open_file(self.source)
            self.batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        else:
            reader = pa.ipc.open_stream(self.source)
            self.batches = list(reader)
        self.schema = reader.schema

    def sounds(self, group: int, column: str) -> Any:
        """Return the bytes of all sounds of a batch, as an Arrow array."""
        return _bytes_of(self.batches[group].column(column))


class ParquetFile:
    """A Parquet file: a row group is read, and decompressed, at a time.

    Raises:
        OSError: it is not there, cut, or no Parquet file.
    """

    def __init__(self, path: Path) -> None:
        self.file = pyarrow().parquet.ParquetFile(str(path), memory_map=True)
        self.schema = self.file.schema_arrow

    def sounds(self, group: int, column: str) -> Any:
        """Return the bytes of all sounds of a row group, as an Arrow array."""
        read = self.file.read_row_group(group, columns=self._bytes_columns(column), use_threads=False)
        chunks = [_bytes_of(chunk) for chunk in read.column(column).chunks]
        return chunks[0] if len(chunks) == 1 else pyarrow().concat_arrays(chunks)

    def _bytes_columns(self, column: str) -> list[str]:
        return [f"{column}.bytes"] if pyarrow().types.is_struct(self.schema.field(column).type) else [column]


def open_file(path: Path) -> ArrowFile | ParquetFile:
    """Open a file by its ending.

    Raises:
        Damaged: missing, cut, or something else.
    """
    try:
        return ParquetFile(path) if path.suffix.lower() == PARQUET else ArrowFile(path)
    except (OSError, pyarrow().ArrowException) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Damaged(f"cannot be read: cut or damaged ({text}); copy it again, or remove it") from None


def sounds_of(file: ArrowFile | ParquetFile, group: int, column: str) -> Any:
    """Return the bytes of all sounds of a batch or row group, as an Arrow array.

    Raises:
        Damaged: no such group or column, or it cannot be read.
    """
    try:
        return file.sounds(group, column)
    except (OSError, LookupError, pyarrow().ArrowException) as error:
        raise Damaged(f"row group {group} cannot be read ({error})") from None


def features_of(file: ArrowFile | ParquetFile, path: Path) -> dict[str, Any]:
    """Return what `datasets` says of the columns; empty where nothing does."""
    about = (file.schema.metadata or {}).get(b"huggingface")
    beside = path.parent / "dataset_info.json"
    found = json.loads(about).get("info", {}).get("features") if about else None
    if not found and beside.is_file():
        found = read_json(beside).get("features")
    return found if isinstance(found, dict) else {}


def audio_column(file: ArrowFile | ParquetFile, features: dict[str, Any], asked: str | None) -> str:
    """Return the column of sounds: the one asked for, that of the type, or the only one with bytes.

    Raises:
        ValueError: none, or several.
    """
    types = pyarrow().types
    names = list(file.schema.names)
    if asked is not None:
        if asked not in names:
            raise ValueError(f"data.options.audio={asked}: no such column; {suggest(asked, names)}")
        kind = file.schema.field(asked).type
        if not (_has_bytes(kind) or types.is_binary(kind) or types.is_large_binary(kind)):
            raise ValueError(f"data.options.audio={asked}: holds {kind}; expected bytes, or a struct of bytes and path")
        return asked
    typed = [name for name in names if features.get(name, {}) and _type(features[name]) == "Audio"]
    found = typed or [name for name in names if _has_bytes(file.schema.field(name).type)]
    if len(found) != 1:
        there = " and ".join(found) if found else f"none of {', '.join(names)}"
        raise ValueError(f"expected one column of sounds, a struct of bytes and path; {there}; set data.options.audio=")
    return found[0]


def read_rows(path: Path, column: str | None, label: str | None, fold: Any) -> tuple[str, Rows]:
    """Read everything but the sounds.

    Args:
        path: of the file.
        column: of sounds; None is found out.
        label: name of the column of labels; None is any usual one.
        fold: of the column of folds, as `Wanted.fold`.

    Returns:
        The column of sounds, and the rows.

    Raises:
        Damaged: no whole file.
        ValueError: no column of sounds.
    """
    file = open_file(path)
    features = features_of(file, path)
    audio = audio_column(file, features, column)
    try:
        named = [name for name in file.schema.names if name != audio and _is_useful(name, features, label, fold)]
        found = _read_parquet(file, audio, named) if isinstance(file, ParquetFile) else _read_arrow(file, audio, named)
    except (OSError, pyarrow().ArrowException) as error:
        raise Damaged(f"cannot be read: cut or damaged ({str(error).splitlines()[0]})") from None
    group, row, has_bytes, paths, columns, group_bytes = found
    fields = {name: _field(columns[name], features.get(name)) for name in named}
    keys = tuple(name for name in file.schema.names if name != audio)
    return audio, Rows(group, row, has_bytes, [path or "" for path in paths], fields, keys, group_bytes)


def _read_arrow(file: ArrowFile, audio: str, named: list[str]) -> tuple[Any, ...]:
    pa = pyarrow()
    sizes = [batch.num_rows for batch in file.batches]
    has_bytes, paths, most = [], [], 0
    for batch in file.batches:
        sounds = _bytes_of(batch.column(audio))
        has_bytes.append(np.asarray(sounds.is_valid()))
        paths += _paths_of(batch.column(audio))
        most = max(most, sounds.nbytes)
    table = pa.Table.from_batches([batch.select(named) for batch in file.batches]) if file.batches else None
    columns = {name: table.column(name).to_pylist() if table is not None else [] for name in named}
    return *_places(sizes), np.concatenate([*has_bytes, np.zeros(0, bool)]), paths, columns, most


def _read_parquet(file: ParquetFile, audio: str, named: list[str]) -> tuple[Any, ...]:
    about = file.file.metadata
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    is_struct = pyarrow().types.is_struct(file.schema.field(audio).type)
    inside = f"{audio}.bytes" if is_struct else audio
    has_path = is_struct and file.schema.field(audio).type.get_field_index("path") >= 0
    table = file.file.read(columns=named + ([f"{audio}.path"] if has_path else []), use_threads=False)
    has_bytes, most = [], 0
    for number, group in enumerate(groups):
        chunk = next(each for each in map(group.column, range(group.num_columns)) if each.path_in_schema == inside)
        most = max(most, chunk.total_uncompressed_size)
        missing = chunk.statistics.null_count if chunk.statistics is not None else None
        if missing in (0, group.num_rows):
            has_bytes.append(np.full(group.num_rows, missing == 0))
        else:
            has_bytes.append(np.asarray(file.sounds(number, audio).is_valid()))
    paths = [each["path"] if each else "" for each in table.column(audio).to_pylist()] if has_path else []
    columns = {name: table.column(name).to_pylist() for name in named}
    places = _places([group.num_rows for group in groups])
    num = sum(group.num_rows for group in groups)
    return *places, np.concatenate([*has_bytes, np.zeros(0, bool)]), paths or [""] * num, columns, most


def _places(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The group of every row, and its place in it."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    row = np.concatenate([*(np.arange(size) for size in sizes), np.zeros(0, np.int64)])
    return group.astype(np.int32), row.astype(np.int32)


def _bytes_of(sounds: Any) -> Any:
    """The bytes in a column of sounds; of a null struct they are null as well."""
    if not pyarrow().types.is_struct(sounds.type):
        return sounds
    place = sounds.type.get_field_index("bytes")
    return sounds.flatten()[place]


def _paths_of(sounds: Any) -> list[str | None]:
    kind = sounds.type
    if not pyarrow().types.is_struct(kind) or kind.get_field_index("path") < 0:
        return [""] * len(sounds)
    found: list[str | None] = sounds.flatten()[kind.get_field_index("path")].to_pylist()
    return found


def _has_bytes(kind: Any) -> bool:
    types = pyarrow().types
    if not types.is_struct(kind) or (place := kind.get_field_index("bytes")) < 0:
        return False
    return bool(types.is_binary(kind.field(place).type) or types.is_large_binary(kind.field(place).type))


def _is_useful(name: str, features: dict[str, Any], label: str | None, fold: Any) -> bool:
    """Whether a column may hold labels or folds: by its name, or its type says so."""
    names, _ = _class_names(features.get(name))
    return is_wanted(name, label, fold) or names is not None


def _field(values: list[Any], feature: Any) -> Field:
    names, several = _class_names(feature)
    return collect(values, names, several=several)


def _type(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, dict) else None


def _class_names(feature: Any) -> tuple[tuple[str, ...] | None, bool]:
    """Return the names of a ClassLabel, and whether it is a list of such, in any of the ways `datasets` wrote it."""
    if isinstance(feature, list) and len(feature) == 1:
        return _class_names(feature[0])[0], True
    if _type(feature) in ("Sequence", "List", "LargeList"):
        return _class_names(feature.get("feature"))[0], True
    if _type(feature) == "ClassLabel":
        return tuple(map(str, feature.get("names") or ())) or None, False
    return None, False
