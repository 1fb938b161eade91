"""Read lists that name the files of a split, as Speech Commands' `testing_list.txt`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vcrast.data.corpus import TRAIN
from vcrast.data.listing import in_short
from vcrast.data.splits import standard_split

NAME = re.compile(r"(.+)[_-](?:list|files)\.(?:txt|lst)", re.IGNORECASE)


@dataclass(frozen=True)
class SplitLists:
    """The lists in a folder.

    Attributes:
        files: their names, sorted.
        split: path below the folder, with slashes -> the split it is listed in.
        rest: the split of files in no list; None where also the training files are listed.
    """

    files: tuple[str, ...]
    split: dict[str, str]
    rest: str | None

    def split_of(self, path: str) -> str | None:
        """Return the split of a path below the folder; None where it is in none."""
        return self.split.get(_plain(path), self.rest)

    def check(self, root: Path, there: Iterable[str]) -> list[str]:
        """Count listed files that are not among the paths `there`; one line, or none.

        Raises:
            ValueError: none of the listed files is there.
        """
        missing = sorted(self.split.keys() - {_plain(path) for path in there})
        if self.split and len(missing) == len(self.split):
            raise ValueError(
                f"{root}: {', '.join(self.files)} name no file that is there, the first is {missing[0]}; lines are "
                "<class>/<file> below that folder; data.options.splits=false leaves the lists aside"
            )
        lists = ", ".join(self.files)
        return (
            [f"{len(missing)} of the {len(self.split)} files in {lists} are not there: {in_short(missing)}"]
            if missing
            else []
        )


def read_split_lists(root: Path) -> SplitLists | None:
    """Read `validation_list.txt`, `testing_list.txt` and the like; None where the folder has none.

    Lines are paths below the folder, such as `dog/a.wav`; empty ones and those that begin with # are skipped.

    Raises:
        ValueError: two lists of one split, a file in two splits, or a list that is not UTF-8 text.
    """
    named: dict[str, str] = {}  # split -> name of its list
    split_of: dict[str, str] = {}
    for path in sorted(root.iterdir()):
        match = NAME.fullmatch(path.name)
        split = standard_split(match[1]) if match else None
        if split is None or not path.is_file():
            continue
        if split in named:
            raise ValueError(f"{root}: {named[split]} and {path.name} both list the split {split}; remove one")
        named[split] = path.name
        for line, listed in _lines(path):
            if split_of.setdefault(listed, split) != split:
                raise ValueError(f"{path} line {line}: {listed} is also in {named[split_of[listed]]}; keep it in one")
    return SplitLists(tuple(sorted(named.values())), split_of, None if TRAIN in named else TRAIN) if named else None


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    """(line, path below the folder) of every file that a list names."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    for line, listed in enumerate(text.splitlines(), start=1):
        if listed.strip() and not listed.startswith("#"):
            yield line, _plain(listed.strip())


def _plain(path: str) -> str:
    """One way to write a path: slashes, no `./`, composed letters."""
    return unicodedata.normalize("NFC", path.replace("\\", "/").removeprefix("./"))
