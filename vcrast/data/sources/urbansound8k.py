"""UrbanSound8K: 8,732 excerpts of at most 4 s from cities, 10 classes, 10 folds.

Source: Salamon et al. 2014, "A dataset and taxonomy for urban sound research", doi:10.1145/2647868.2655045.
Licence: CC BY-NC 4.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus, fold_names
from vcrast.data.metadata import read_metadata
from vcrast.data.settings import published_folder, refuse_settings

DEFAULT_ROOT = Path("data") / "urbansound8k"
META = Path("metadata") / "UrbanSound8K.csv"
ARCHIVE_FOLDER = "UrbanSound8K"
COLUMNS = ("slice_file_name", "fold", "classID", "class")
CLASSES = (
    "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling", "engine_idling", "gun_shot",
    "jackhammer", "siren", "street_music",
)  # fmt: skip
NUM_FOLDS = 10


class MetaRow(NamedTuple):
    """One line of `metadata/UrbanSound8K.csv`."""

    line: int
    path: str
    fold: str
    label: int


@SOURCES.register("urbansound8k")
def urbansound8k(data: DataConfig) -> Corpus:
    """Open all clips, in the official folds: parts of one recording never lie in two of them.

    Raises:
        FileNotFoundError: no UrbanSound8K at `data.root`, nor at the place of `vcrast data download urbansound8k`.
        ValueError: `metadata/UrbanSound8K.csv` is damaged or describes another dataset.
    """
    refuse_settings(data, options=())
    rows = read_rows(find_root(data))
    clips = tuple(Clip(row.path, (row.label,), fold=row.fold, line=row.line) for row in rows)
    return Corpus("urbansound8k", clips, CLASSES, False, fold_names(clips))


def find_root(data: DataConfig) -> Path:
    """Find the folder with `metadata/UrbanSound8K.csv`, see `published_folder`."""
    return published_folder(data, ARCHIVE_FOLDER, [META])


def read_rows(root: Path) -> list[MetaRow]:
    """Read `metadata/UrbanSound8K.csv`; errors as in `read_metadata`."""

    def row(cells: dict[str, str], line: int) -> MetaRow:
        fold, number, name = cells["fold"], cells["classID"], cells["class"]
        if not (fold.isdecimal() and 1 <= int(fold) <= NUM_FOLDS):
            raise ValueError(f"fold {fold!r} must be a whole number from 1 to {NUM_FOLDS}")
        if not (number.isdecimal() and int(number) < len(CLASSES) and CLASSES[int(number)] == name):
            raise ValueError(f"classID {number!r} and class {name!r} do not belong together")
        path = root / "audio" / f"fold{int(fold)}" / cells["slice_file_name"]
        return MetaRow(line, str(path), str(int(fold)), int(number))

    return read_metadata(root / META, COLUMNS, row)
