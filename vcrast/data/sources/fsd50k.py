"""FSD50K: 51,197 clips of 0.3 to 30 s from Freesound, 200 classes, several a clip.

Source: Fonseca et al. 2022, "FSD50K: an open dataset of human-labeled sound events", arXiv:2010.00475.
Licence: CC BY 4.0; each clip has one of its own (CC0, CC BY, CC BY-NC, CC Sampling+), see FSD50K.metadata.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.clip import Clip
from vcrast.data.corpus import TRAIN, Corpus, fold_names
from vcrast.data.metadata import read_metadata
from vcrast.data.preflight import fault_list
from vcrast.data.settings import published_folder, refuse_settings

DEFAULT_ROOT = Path("data") / "fsd50k"
ARCHIVE_FOLDER = "FSD50K"  # nothing published makes it, but copies have it
GROUND_TRUTH = Path("FSD50K.ground_truth")
AUDIO = {"dev": "FSD50K.dev_audio", "eval": "FSD50K.eval_audio"}
VOCABULARY = GROUND_TRUTH / "vocabulary.csv"
NUM_CLASSES = 200
COLUMNS = ("fname", "labels", "mids")
TEST = "test"


class MetaRow(NamedTuple):
    """One line of `dev.csv` or `eval.csv`."""

    line: int
    path: str
    fold: str
    labels: tuple[int, ...]


@SOURCES.register("fsd50k")
def fsd50k(data: DataConfig) -> Corpus:
    """Open all clips: `train` and `val` are the authors' split of the development set, `test` is the evaluation set.

    Raises:
        FileNotFoundError: no FSD50K at `data.root`, nor at the place of `vcrast data download fsd50k`.
        ValueError: a list or the vocabulary is damaged or describes another dataset.
    """
    refuse_settings(data, options=())
    root = find_root(data)
    classes = read_classes(root / VOCABULARY)
    rows = [row for part in AUDIO for row in read_rows(root, part, classes)]
    clips = tuple(Clip(row.path, row.labels, fold=row.fold, line=row.line) for row in rows)
    return Corpus("fsd50k", clips, classes, True, fold_names(clips))


def find_root(data: DataConfig) -> Path:
    """Find the folder with `FSD50K.ground_truth/`, see `published_folder`."""
    return published_folder(data, ARCHIVE_FOLDER, [VOCABULARY, *(list_path(part) for part in AUDIO)])


def list_path(part: str) -> Path:
    """Return where the clips of `dev` or `eval` are listed, below the dataset's folder."""
    return GROUND_TRUTH / f"{part}.csv"


def read_classes(path: Path) -> tuple[str, ...]:
    """Read `vocabulary.csv`, lines `number,name,machine id` without a head.

    Raises:
        ValueError: not the 200 classes, numbered from 0; lists the first 20 faults with their lines.
    """
    faults, names = [], []
    with open(path, encoding="utf-8-sig", newline="") as file:
        for line, cells in enumerate(csv.reader(file), start=1):
            if len(cells) != 3 or cells[0] != str(line - 1) or not cells[1]:
                faults.append(f"line {line}: not `{line - 1},<name>,<mid>`: {','.join(cells)}")
            elif cells[1] in names:
                faults.append(f"line {line}: {cells[1]} is there twice")
            else:
                names.append(cells[1])
    if faults or len(names) != NUM_CLASSES:
        raise ValueError(f"{path}: {len(names)} classes, expected {NUM_CLASSES}{fault_list(faults)}")
    return tuple(names)


def read_rows(root: Path, part: str, classes: tuple[str, ...]) -> list[MetaRow]:
    """Read `dev.csv` or `eval.csv`; audio may be of another format than wav, under the same stem.

    Raises:
        ValueError: a column is missing, or cells cannot be read; lists the first 20 with their lines.
    """
    folder = root / AUDIO[part]
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    other = {name.rpartition(".")[0]: name for name in sorted(there, reverse=True) if not name.startswith(".")}
    number = {name: index for index, name in enumerate(classes)}

    def row(cells: dict[str, str], line: int) -> MetaRow:
        stem, fold = cells["fname"], cells["split"] if part == "dev" else TEST
        if not stem.isdecimal():
            raise ValueError(f"fname {stem!r} must be a number of Freesound")
        if fold not in (TRAIN, "val", TEST):
            raise ValueError(f"split {fold!r} must be train or val")
        names = [name.strip() for name in cells["labels"].split(",")]
        if unknown := [name for name in names if name not in number]:
            raise ValueError(f"label {unknown[0]!r} is not in {VOCABULARY.name}")
        named = f"{stem}.wav"
        file = folder / (named if named in there else other.get(stem, named))
        return MetaRow(line, str(file), fold, tuple(dict.fromkeys(number[name] for name in names)))

    columns = (*COLUMNS, "split") if part == "dev" else COLUMNS
    return read_metadata(root / list_path(part), columns, row)
