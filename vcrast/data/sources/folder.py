"""Sound files in folders named after their classes, or in one folder, without classes."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.audio import SUFFIXES
from vcrast.data.clip import TRAIN, Clip, Corpus, fold_names
from vcrast.data.hashing import stable_hash
from vcrast.data.settings import existing_folder, refuse_settings

log = logging.getLogger(__name__)
NUM_FOLDS = 5
SPLITS = (TRAIN, "val", "valid", "validation", "dev", "eval", "test")


@SOURCES.register("folder")
def folder(data: DataConfig) -> Corpus:
    """Open `root/<class>/**/*.wav`, `root/{train,test}/<class>/**/*.wav`, or `root/*.wav` without classes.

    Without train and test folders a file's fold is a hash of its name: the same on every machine, and unchanged when
    files are added. `data.options.num_folds` (5) says how many there are.

    Raises:
        FileNotFoundError: `data.root` is not a folder.
        ValueError: no sound files, files both in class folders and beside them, or a bad option.
    """
    refuse_settings(data, options=("num_folds",))
    root = existing_folder(data)
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    fixed = TRAIN in names and len(names) > 1 and set(names) <= set(SPLITS)
    num_folds = data.options["num_folds"]
    if fixed and num_folds is not None:
        raise ValueError(f"data.options.num_folds: {root} has its own splits ({', '.join(names)})")
    num_folds = NUM_FOLDS if num_folds is None else num_folds
    if not isinstance(num_folds, int) or num_folds < 2:
        raise ValueError(f"data.options.num_folds={num_folds!r}: must be a whole number of at least 2")
    found: list[tuple[str, Path, str]] = []  # (class, file, fold)
    for split in names if fixed else [""]:
        for name, path in _by_class(root / split):
            found.append((name, path, split if fixed else hashed_fold(path.name, num_folds)))
    return _corpus(root, found, fixed)


def hashed_fold(name: str, num_folds: int) -> str:
    """Hash the name of a file to its fold, "1" to "<num_folds>"."""
    return str(1 + stable_hash(name, byteorder="big") % num_folds)


def _corpus(root: Path, found: list[tuple[str, Path, str]], fixed: bool) -> Corpus:
    if not found:
        raise ValueError(f"data.root={root}: no sound files ({', '.join(SUFFIXES)})")
    bare = [path for name, path, _ in found if not name]
    if bare and len(bare) < len(found):
        raise ValueError(f"data.root={root}: {len(bare)} files are in no class folder, the first is {bare[0]}")
    classes = tuple(sorted({name for name, _, _ in found} - {""}))
    number = {name: i for i, name in enumerate(classes)}
    # Without classes there is nothing to test, so folds would only keep clips from pretraining.
    folded = fixed or bool(classes)
    clips = tuple(
        Clip(str(path), (number[name],) if classes else (), fold=fold if folded else "") for name, path, fold in found
    )
    return Corpus("folder", clips, classes, False, fold_names(clips) if classes else ())


def _by_class(root: Path) -> list[tuple[str, Path]]:
    """List (class, file) of every sound file below `root`, sorted; class "" for files directly in it."""
    ignored: Counter[str] = Counter()
    found = []
    for path in _files(root):
        if path.suffix.lower() in SUFFIXES:
            parts = path.relative_to(root).parts
            found.append((parts[0] if len(parts) > 1 else "", path))
        else:
            ignored[path.suffix.lower() or "no ending"] += 1
    if ignored:
        log.warning(
            "data.root=%s: ignored %s", root, ", ".join(f"{n} files {end}" for end, n in sorted(ignored.items()))
        )
    return found


def _files(root: Path) -> Iterator[Path]:
    # Hidden files are left out: macOS puts "._name.wav" beside every file that it copies.
    for folder_name, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder_name) / name for name in sorted(names) if not name.startswith("."))
