"""Tell the split of a file of samples from its name and the folders that it lies in."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import PurePath

from vcrast.data.corpus import TRAIN
from vcrast.data.layout import split_of_folder
from vcrast.data.listing import in_short
from vcrast.data.splits import KNOWN

NUMBERED = re.compile(r"(?:^|[^a-z])(?:fold|cv)[\s_.-]*(\d+)", re.IGNORECASE)
OF_THE_HUB = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*", re.DOTALL)  # data/<split>-00000-of-00005.parquet


def split_called(name: str) -> str | None:
    """Return the standard name of the only split that a word of a name means; None if none or several do.

    >>> split_called("train.clean.100"), split_called("train-test")
    ('train', None)
    """
    words = {KNOWN[word] for word in re.split(r"[^a-z]+", name.lower()) if word in KNOWN}
    return words.pop() if len(words) == 1 else None


def split_of_file(parts: Sequence[str]) -> str | None:
    """Return the split or the number of the fold that a path names, None if it names none.

    A folder that is called so comes first, from the outermost; then a word in a name, from the file's own.

    Args:
        parts: of the path below the root, the file's name last.

    >>> [split_of_file(p) for p in (["val", "a-0.tar"], ["esc50-test-000012.tar"], ["fold3-0.tar"], ["dogs-0.tar"])]
    ['val', 'test', '3', None]
    """
    *folders, file = parts
    stem = file.partition(".tar")[0]
    for folder in folders:
        if (found := split_of_folder(folder)) is not None:
            return found
    for name in (stem, *reversed(folders)):
        if numbered := NUMBERED.search(name):
            return str(int(numbered[1]))
        if (found := split_called(name)) is not None:
            return found
    hub = OF_THE_HUB.fullmatch(file)
    return hub["split"] if hub and folders[-1:] == ["data"] else None


def splits_of_files(files: Sequence[PurePath], root: str) -> list[str]:
    """Return the split of every file, all "" where none names one.

    Args:
        files: below the root.
        root: for messages.

    Raises:
        ValueError: some files name a split and others do not, or no split is for training.
    """
    found = [split_of_file(file.parts) for file in files]
    bare = [str(file) for file, split in zip(files, found, strict=True) if split is None]
    names = sorted({split for split in found if split is not None})
    if not names:
        return [""] * len(files)
    if bare:
        raise ValueError(
            f"data.root={root}: beside files of the splits {', '.join(names)} lie {len(bare)} whose names say none "
            f"({in_short(bare)}); rename or move them, or data.options.splits=false ignores names"
        )
    check_training(names, root)
    return [split or "" for split in found]


def check_training(splits: Collection[str], root: str) -> None:
    """Refuse splits to validate and test on without one to train on.

    Raises:
        ValueError: says what to do.
    """
    held = set(splits) & set(KNOWN.values())
    numbered = any(name.isdecimal() for name in splits)
    if len(set(splits)) > 1 and held and TRAIN not in held and not numbered:
        raise ValueError(
            f"data.root={root}: has the splits {', '.join(sorted(splits))} and none called train, so nothing to train "
            "on; rename one, open a single one, or data.options.splits=false ignores names"
        )
