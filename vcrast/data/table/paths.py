"""Find the files that a table names, also where it was written on another machine."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from vcrast.data.audio import MEMBERS, READERS, SUFFIXES, is_address
from vcrast.data.table.rows import Row
from vcrast.data.table.tracks import SOUND_SUFFIXES

MAX_FILES = 2_000_000  # listed below a folder to find a name
META = ("meta", "metadata", "annotation", "annotations", "labels", "lists", "csv", "evaluation_setup")
"""Folders in which datasets keep their tables, beside one of sounds."""


class Found(NamedTuple):
    """The path of every row, None where there is a fault, and lines on how paths were read."""

    paths: list[str | None]
    said: list[str]


def find_paths(rows: Sequence[Row], texts: Sequence[str], folder: Path, faults: list[str], *, table: Path) -> Found:
    """Return the files that the rows name.

    What is not at its place is looked for in the same folder (another ending, other case) and then by name below
    `folder`, where it must be the only one whose path agrees longest with the text from its end. A file that is
    nowhere keeps the path that it would have.

    Args:
        rows: of the table.
        texts: the cell of each row; "" is left out.
        folder: that relative paths begin at.
        faults: takes names that several files have, and addresses.
        table: for messages.

    Raises:
        ValueError: not a single file is there.
    """
    first: dict[str, Row] = {}
    for row, text in zip(rows, texts, strict=True):
        if text:
            first.setdefault(text, row)
    search = Search(folder)
    known = {text: search.at_its_place(text) for text in first}
    missing = []
    for text, row in first.items():
        if known[text] is None:
            try:
                known[text] = search.elsewhere(text, row.where)
            except ValueError as error:
                faults.append(f"{row.where}: {error}")
                continue
            if known[text] is None:
                missing.append(text)
                known[text] = str(search.places(text)[-1])
    if missing and len(missing) == len(first):
        raise ValueError(
            f"{table}: none of its {len(first)} files is there; {first[missing[0]].where} names {missing[0]}, looked "
            f"for below {folder}; data.root=FOLDER says where paths begin"
        )
    return Found([known[text] if text else None for text in texts], search.said())


def folder_of_paths(table: Path, root: Path | None, texts: Sequence[str]) -> Path:
    """Return the folder that relative paths begin at: `root`, else that of the table.

    Datasets keep tables in folders such as `meta`: where the first file is not below that, the folder above is meant.
    """
    if root is not None:
        return root
    folder = table if table.is_dir() else table.parent
    first = next((text for text in texts if text), "")
    if folder.name.lower() in META and not os.path.exists(folder / first):
        return folder.parent
    return folder


class Search:
    """Find files below a folder, and remember how."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._named: dict[str, str] = {}  # file -> the text that names it
        self._listed: dict[Path, Listing] = {}
        self._below: Listing | None = None
        self._how: dict[str, list[str]] = defaultdict(list)
        self._too_many = False

    def places(self, text: str) -> list[Path]:
        """Return where `text` may mean: as it is, and with the slashes of other systems than Windows."""
        plain = unquote(urlsplit(text).path) if text.lower().startswith("file:") else text
        return [self.folder / _expanded(written) for written in dict.fromkeys((plain, plain.replace("\\", "/")))]

    def at_its_place(self, text: str) -> str | None:
        """Return the file that `text` names as it is; None where there is none."""
        if is_address(text) and text.partition("://")[0] in {*READERS, *MEMBERS}:
            return text
        path = next((str(path) for path in self.places(text) if os.path.exists(path)), None)
        if path is not None:
            self._named.setdefault(path, text)
        return path

    def elsewhere(self, text: str, where: str) -> str | None:
        """Return the file that `text` most probably means; None where nothing is like it.

        Raises:
            ValueError: several files of that name, one that another row names, or an address.
        """
        if is_address(text) and not text.lower().startswith("file:"):
            raise ValueError(f"{text} is an address; fetch the file first, and name its path")
        path = self.places(text)[-1]
        found, how = self._beside(path), "with another ending or case"
        if found is None:
            found, how = self._anywhere(text, path), f"by name below {self.folder}"
        if found is None:
            return None
        if self._named.setdefault(found, text) != text:
            raise ValueError(f"{text} is not there, and {found}, which is like it, is {self._named[found]}")
        example = f"{where}: {text} -> {os.path.relpath(found, self.folder)}"
        self._how[how].append(example.encode(errors="backslashreplace").decode())  # bytes of a name that is no UTF-8
        return found

    def said(self) -> list[str]:
        """Return one line for each way but the plain one, with the number of files and an example."""
        lines = [f"{len(examples)} paths found {how}, such as {examples[0]}" for how, examples in self._how.items()]
        return lines + ([f"more than {MAX_FILES} files below {self.folder}: not searched"] if self._too_many else [])

    def _beside(self, path: Path) -> str | None:
        """Return the only file in the folder of `path` with its name, or its stem, in any case."""
        folder = path.parent
        if folder not in self._listed:
            names = os.listdir(folder) if folder.is_dir() else []
            self._listed[folder] = Listing(os.path.join(folder, name) for name in names)
        found = self._listed[folder].called(path.name)
        return found[0] if len(found) == 1 else None

    def _anywhere(self, text: str, path: Path) -> str | None:
        """Return the only file below the folder whose path agrees longest with `path` from its end."""
        if self._below is None:
            paths = list(itertools.islice(_walk(self.folder), MAX_FILES + 1))
            self._too_many = len(paths) > MAX_FILES
            self._below = Listing([] if self._too_many else paths)
        found = self._below.called(path.name)
        ends = [_common_end(path, Path(other)) for other in found]
        best = sorted(other for other, end in zip(found, ends, strict=True) if end == max(ends))
        if len(best) > 1:
            named = ", ".join(os.path.relpath(other, self.folder) for other in best[:3])
            raise ValueError(f"{text}: {len(best)} files of that name below {self.folder} ({named}); write the folder")
        return best[0] if best else None


class Listing:
    """Files by name and by stem, in one spelling of letters and case."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._names: dict[str, list[str]] = defaultdict(list)
        self._stems: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            name = _one_spelling(os.path.basename(path))
            self._names[name].append(path)
            if os.path.splitext(name)[1] in SUFFIXES:
                self._stems[os.path.splitext(name)[0]].append(path)

    def called(self, name: str) -> list[str]:
        """Return the files of that name, else those that are sounds with that stem."""
        spelt = _one_spelling(name)
        found = self._names.get(spelt, [])
        exact = [path for path in found if os.path.basename(path) == name]
        if exact or found:
            return exact or found
        stem, ending = os.path.splitext(spelt)
        return self._stems.get(stem if ending in SOUND_SUFFIXES else spelt, [])


def _one_spelling(name: str) -> str:
    """Return a file's name with composed letters, without case; bytes that are no UTF-8 as Latin-1."""
    try:
        name.encode()
    except UnicodeEncodeError:
        name = os.fsencode(name).decode("latin-1")
    return unicodedata.normalize("NFC", name).casefold()


def _walk(folder: Path) -> Iterator[str]:
    """Yield the files below a folder, each folder once; hidden ones and what macOS adds left out."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (os.path.join(place, name) for name in names if not name.startswith("."))


def _common_end(one: Path, other: Path) -> int:
    """Count the folders, from the end, that two paths share."""
    pairs = zip(reversed(one.parts[:-1]), reversed(other.parts[:-1]), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # a file whose name begins with ~
        return Path(text)
