"""ESC-50: 2000 environmental recordings of 5 s, 50 classes, 5 folds.

Source: Piczak 2015, "ESC: Dataset for environmental sound classification", doi:10.1145/2733373.2806390.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus, fold_names
from vcrast.data.metadata import read_metadata
from vcrast.data.settings import published_folder, refuse_settings

DEFAULT_ROOT = Path("data") / "esc50"
META = Path("meta") / "esc50.csv"
ARCHIVE_FOLDER = "ESC-50-master"
COLUMNS = ("filename", "fold", "target", "category")
NUM_CLASSES = 50


class MetaRow(NamedTuple):
    """One line of `meta/esc50.csv`."""

    line: int
    path: str
    fold: str
    target: int
    category: str
    esc10: bool


@SOURCES.register("esc50")
def esc50(data: DataConfig) -> Corpus:
    """Open all 50 classes, in the official folds.

    Raises:
        FileNotFoundError: no ESC-50 at `data.root`, nor at the place where `vcrast data download esc50` puts it.
        ValueError: `meta/esc50.csv` is damaged or describes another dataset.
    """
    refuse_settings(data, options=())
    rows = read_rows(find_root(data))
    targets = {row.target for row in rows}
    if targets != set(range(NUM_CLASSES)):
        hint = "; data=esc10 reads its 10-class part" if all(row.esc10 for row in rows) else ""
        raise ValueError(f"esc50: {META} names {len(targets)} of the {NUM_CLASSES} classes{hint}")
    return corpus("esc50", rows)


def corpus(name: str, rows: list[MetaRow]) -> Corpus:
    """Make a corpus of rows; classes in order of their target, numbered from 0."""
    category = {row.target: row.category for row in rows}
    number = {target: i for i, target in enumerate(sorted(category))}
    clips = tuple(Clip(row.path, (number[row.target],), fold=row.fold, line=row.line) for row in rows)
    return Corpus(name, clips, tuple(category[target] for target in sorted(category)), False, fold_names(clips))


def find_root(data: DataConfig) -> Path:
    """Find the folder with `meta/esc50.csv`, see `published_folder`."""
    return published_folder(data, ARCHIVE_FOLDER, [META], download="esc50")


def read_rows(root: Path) -> list[MetaRow]:
    """Read `meta/esc50.csv`; audio may be of another format than named there, under the same stem.

    Raises:
        ValueError: a column is missing, or cells cannot be read; lists the first 20 with their lines.
    """
    there = {path.stem: path for path in sorted((root / "audio").glob("*.*")) if not path.name.startswith(".")}
    return read_metadata(root / META, COLUMNS, lambda cells, line: _row(cells, line, root, there.get))


def _row(cells: dict[str, str], line: int, root: Path, find: Callable[[str], Path | None]) -> MetaRow:
    if not (cells["fold"].isdecimal() and cells["target"].isdecimal()):
        raise ValueError(f"fold {cells['fold']!r} and target {cells['target']!r} must be whole numbers")
    named = root / "audio" / cells["filename"]
    path = named if named.is_file() else find(named.stem) or named
    flagged = (cells.get("esc10") or "").strip().lower() == "true"
    return MetaRow(line, str(path), cells["fold"], int(cells["target"]), cells["category"], flagged)
