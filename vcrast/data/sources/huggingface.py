"""Datasets of Hugging Face: folders of `save_to_disk`, and Parquet files of the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.audio import MEMBERS
from vcrast.data.clips import Texts
from vcrast.data.corpus import Corpus
from vcrast.data.foreign.arrow import PARQUET, Rows, pyarrow, read_rows
from vcrast.data.foreign.corpus import OPTIONS, Found, corpus_of
from vcrast.data.foreign.fields import Collector, Field
from vcrast.data.foreign.files import find_files, read_json, reading_threads
from vcrast.data.foreign.rows import SCHEMES, RowMembers, RowPaths
from vcrast.data.foreign.splits import check_training, split_called, splits_of_files
from vcrast.data.foreign.tars import Damaged
from vcrast.data.preflight import fault_list
from vcrast.data.settings import refuse_settings

STATE = "state.json"  # beside the Arrow files of `Dataset.save_to_disk`
MEGABYTE = 1 << 20
LARGE_GROUP_MB = 256
SPARE = 2  # row groups read at a time beyond those that are mixed: one begins before the last clip of another
LOOKED, LOOKED_GROUPS = 256, 8  # sounds whose headers are read; in Parquet files each may need a row group


@SOURCES.register("huggingface")
def huggingface(data: DataConfig) -> Corpus:
    """Open the Arrow or Parquet files below `data.root`; configs/data/huggingface.yaml has the options.

    Raises:
        FileNotFoundError: `data.root` is not there.
        ValueError: pyarrow is not installed, no such files, damaged ones, no column of sounds, too many rows without
            a sound or a label, bad options.
    """
    refuse_settings(data, options=OPTIONS, label=True)
    pyarrow()
    root, files = find_files(data, tuple(SCHEMES))
    files, below = _of_datasets(root, files)
    for scheme in SCHEMES.values():
        MEMBERS[scheme] = RowMembers(round(data.row_groups_mb * MEGABYTE))
    splits = _splits(root, files, below, str(data.root)) if data.options["splits"] else [""] * len(files)
    column, rows = _read(data, files, below)
    return corpus_of(data, _join(data, root, files, below, splits, column, rows))


def _of_datasets(root: Path, files: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Keep the files that datasets are made of; `datasets` leaves those of its cache beside them."""
    kept = []
    for file in files:
        state = file.parent / STATE
        if file.suffix.lower() == ".arrow" and state.is_file():
            listed = read_json(state).get("_data_files", [])
            if file.name not in {each.get("filename") for each in listed}:
                continue
        kept.append(file)
    if not kept:
        raise ValueError(f"data.root={root}: {STATE} names none of the Arrow files beside it")
    return kept, [file.relative_to(root).as_posix() for file in kept]


def _splits(root: Path, files: Sequence[Path], below: Sequence[str], name: str) -> list[str]:
    """Return the split of every file: a folder of `DatasetDict.save_to_disk`, what `save_to_disk` noted, its name."""
    listed = root / "dataset_dict.json"
    named = [_noted_split(file) for file in files]
    if listed.is_file():
        tops = [PurePath(each).parts[0] for each in below]
        named = tops if set(tops) <= set(read_json(listed).get("splits", [])) else named
    if not all(named):
        return splits_of_files([PurePath(each) for each in below], name)
    found = [split_called(each) or each for each in named]
    check_training(set(found), name)
    return found


def _noted_split(file: Path) -> str:
    state = file.parent / STATE
    return str(read_json(state).get("_split") or "") if state.is_file() else ""


def _read(data: DataConfig, files: Sequence[Path], below: Sequence[str]) -> tuple[str, list[Rows]]:
    """Read all rows without their sounds.

    Raises:
        ValueError: files that cannot be read, or without the same column of sounds.
    """
    options = data.options

    def read(file: Path) -> tuple[str, Rows] | str:
        try:
            return read_rows(file, options["audio"], data.label, options["fold"])
        except (Damaged, ValueError, OSError) as error:
            return str(error)

    with reading_threads() as pool:
        found = list(pool.map(read, files))
    faults = [f"{name}: {each}" for name, each in zip(below, found, strict=True) if isinstance(each, str)]
    if faults:
        raise ValueError(f"data.root={data.root}: {len(faults)} of {len(files)} files{fault_list(faults)}")
    good = [each for each in found if not isinstance(each, str)]
    columns = sorted({column for column, _ in good})
    if len(columns) > 1:
        raise ValueError(f"data.root={data.root}: files with other columns of sounds: {' and '.join(columns)}")
    return columns[0], [rows for _, rows in good]


def _join(
    data: DataConfig,
    root: Path,
    files: Sequence[Path],
    below: Sequence[str],
    splits: Sequence[str],
    column: str,
    rows: Sequence[Rows],
) -> Found:
    """Put the rows of all files behind one another; those without a sound are left out."""
    inside = np.concatenate([each.has_bytes for each in rows])
    names, faults = _names(root, files, below, rows)
    kept = np.array([name is not None for name in names], bool)
    numbers = {
        "file": np.repeat(np.arange(len(rows)), [len(each.group) for each in rows]).astype(np.int32),
        "group": np.concatenate([each.group for each in rows]),
        "row": np.concatenate([each.row for each in rows]),
        "inside": inside,
    }
    numbers = {name: array[kept] for name, array in numbers.items()}
    texts = [os.fsencode(name) for name in names if name is not None]
    starts = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    paths = RowPaths(tuple(map(str, files)), column, numbers, Texts(np.frombuffer(b"".join(texts), np.uint8), starts))
    parquet = [each for file, each in zip(files, rows, strict=True) if file.suffix.lower() == PARQUET]
    return Found(
        files, below, splits, paths, numbers["file"], _blocks(numbers, files), paths.names.__getitem__,
        {name: _joined(rows, name, kept) for name in dict.fromkeys(name for each in rows for name in each.fields)},
        tuple(dict.fromkeys(key for each in rows for key in each.keys)), faults,
        [numbers["group"], numbers["row"]], LOOKED_GROUPS if parquet else LOOKED, bool(numbers["inside"].all()),
        _notes(data, parquet),
    )  # fmt: skip


def _names(
    root: Path, files: Sequence[Path], below: Sequence[str], rows: Sequence[Rows]
) -> tuple[list[str | None], list[str]]:
    """Name every sound, by the file that it lies in where the row has none of it; None and a fault for no sound."""
    names: list[str | None] = []
    faults = []
    for file, called, each in zip(files, below, rows, strict=True):
        for row, (path, has_bytes) in enumerate(zip(each.paths, each.has_bytes.tolist(), strict=True)):
            if has_bytes:
                names.append(path.replace("\\", "/").rpartition("/")[2] or f"row {row}")
                continue
            found = next(
                (str(start / path) for start in (file.parent, root) if path and (start / path).is_file()), None
            )
            names.append(found)
            if found is None:
                lacking = f"{path}: no bytes, and no such file below {file.parent}" if path else "no bytes and no path"
                faults.append(f"{called}: row {row}: {lacking}")
    return names, faults


def _notes(data: DataConfig, rows: Sequence[Rows]) -> list[str]:
    """Say where row groups are so large, or so many are mixed, that one is read for nearly every clip.

    Args:
        data: the settings.
        rows: of the Parquet files.
    """
    most = max((each.group_bytes for each in rows), default=0) / MEGABYTE
    groups = sum(len(np.unique(each.group)) for each in rows)
    at_once, kept = min(groups, data.mixed_shards or groups) + SPARE, data.row_groups_mb
    notes = []
    if most > LARGE_GROUP_MB:
        notes.append(
            f"row groups of up to {most:.0f} MB: each process reads and keeps one for a single clip; write them anew "
            "with row_group_size=100, or run `vcrast data shard`"
        )
    if groups > 1 and at_once * most > max(kept, most):
        notes.append(
            f"data.mixed_shards={data.mixed_shards} mixes row groups of {at_once * most:.0f} MB, data.row_groups_mb="
            f"{kept:g}: many are read for each clip anew; lower the one or raise the other"
        )
    return notes


def _blocks(numbers: dict[str, np.ndarray], files: Sequence[Path]) -> np.ndarray:
    """Number what is read at once: the row groups of Parquet files, whole Arrow files."""
    is_parquet = np.array([file.suffix.lower() == PARQUET for file in files])
    pairs = np.stack([numbers["file"], np.where(is_parquet[numbers["file"]], numbers["group"], 0)])
    return np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1).astype(np.int32)


def _joined(rows: Sequence[Rows], name: str, kept: np.ndarray) -> Field:
    """Number the values of all files anew; a class is known by its name.

    Raises:
        ValueError: files whose numbers stand for other classes.
    """
    found = [each.fields.get(name) for each in rows]
    names = {each.names for each in found if each is not None}
    if len(names) > 1:
        raise ValueError(f"{name}: its classes are others in other files; data.label=NAME takes another column")
    collector, codes = Collector(), []
    for each, part in zip(rows, found, strict=True):
        if part is None:
            codes.append(np.full(len(each.group), -1, np.int32))
            continue
        number = np.array([*(collector.code(value) for value in part.values), -1], np.int32)
        codes.append(number[part.codes])
    several = any(each.several for each in found if each is not None)
    return Field(np.concatenate(codes)[kept], collector.values, names.pop(), several)
