"""List the sound files below a folder, and what is left out there and why."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vcrast.data.audio import explain_suffixes, sound_suffixes

SOUND_KINDS = (
    ".3g2", ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".avi", ".awb", ".bwf", ".caf",
    ".dss", ".dts", ".eac3", ".flac", ".flv", ".gsm", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2",
    ".mp3", ".mp4", ".mpc", ".mpeg", ".mpg", ".oga", ".ogg", ".ogm", ".ogv", ".opus", ".qcp", ".ra", ".rf64", ".rm",
    ".sd2", ".snd", ".sph", ".spx", ".tak", ".tta", ".voc", ".vox", ".w64", ".wav", ".weba", ".webm", ".wma",
    ".wmv", ".wv",
)  # fmt: skip
"""Endings of files that hold sound; what this installation cannot decode is counted apart from texts and pictures."""
SKIPPED = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information")
"""Folders that systems leave behind, full of shadows of files. Hidden ones (.ipynb_checkpoints) are skipped, too."""
SHOWN = 5  # names in one line


@dataclass(frozen=True)
class Listing:
    """What lies below a folder; every list sorted, hidden files and folders in none.

    Attributes:
        root: the folder.
        sounds: files whose ending says that they can be decoded here.
        left_out: other files by ending, in lower case, "" where there is none.
        misnamed: sound files whose path is not UTF-8 text: it could be written to no log, list or report.
        not_files: links that lead nowhere, pipes and the like, with the ending of a sound.
        closed: folders that may not be read.
        repeated: links to folders that are listed under another path, or that contain themselves.
    """

    root: Path
    sounds: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)
    misnamed: list[Path] = field(default_factory=list)
    not_files: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)
    repeated: list[Path] = field(default_factory=list)

    @property
    def undecodable(self) -> dict[str, list[Path]]:
        """The sound files among those left out for their ending, by ending."""
        return {suffix: paths for suffix, paths in self.left_out.items() if suffix in SOUND_KINDS}

    @property
    def lost(self) -> list[Path]:
        """All sound files that are there and cannot be used."""
        return sorted(
            [*(path for paths in self.undecodable.values() for path in paths), *self.misnamed, *self.not_files]
        )

    def shown(self, path: Path) -> str:
        """A path as a message names it: below the root, escaped where it is not UTF-8 text."""
        text = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        return text if _is_text(text) else repr(text)

    def notes(self) -> list[str]:
        """One line for each reason why sounds are left out; empty when every sound can be used."""
        found = []
        if self.undecodable:
            what_to_do = explain_suffixes(self.undecodable)
            found.append(f"{in_kinds(self.undecodable)} left out, which cannot be decoded here; {what_to_do}")
        for paths, text in (
            (self.misnamed, "sound files left out, their names are not UTF-8 text (rename them, as convmv does)"),
            (self.not_files, "names of sounds left out that lead to no file"),
            (self.closed, "folders left out that may not be read"),
            (self.repeated, "links to folders not followed, which are listed under another path"),
        ):
            if paths:
                found.append(f"{len(paths)} {text}: {in_short([self.shown(path) for path in paths])}")
        return found

    def others(self) -> str:
        """One line on files that hold no sound, such as texts and pictures; "" where there are none."""
        other = {suffix: paths for suffix, paths in self.left_out.items() if suffix not in SOUND_KINDS}
        return f"{in_kinds(other)} that are no sounds" if other else ""


def find_sounds(root: Path) -> Listing:
    """List the sound files below a folder; a file given itself is taken, whatever its ending.

    Links to folders are followed, once each and after the folders that are really there, so that cycles end and nothing
    is listed twice. Files and folders whose name begins with a dot (macOS' `._name.wav`, `.ipynb_checkpoints`) and
    `__MACOSX` are skipped.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: the path of the folder itself is not UTF-8 text.
    """
    if not _is_text(str(root)):
        raise ValueError(f"{str(root)!r}: its name is not UTF-8 text, no list or report could hold it; rename it")
    if not root.exists():
        raise FileNotFoundError(f"{str(root)!r}: no such file or folder")
    if not root.is_dir():
        return Listing(root.parent, [root])
    found = Listing(root)
    suffixes = frozenset(sound_suffixes())
    seen = {_identity(str(root))}
    folders: list[str] = [str(root)]
    links: list[str] = []
    while folders or links:
        if not folders:
            links.sort(reverse=True)
            link = links.pop()
            if _identity(link) in seen:
                found.repeated.append(Path(link))
                continue
            seen.add(_identity(link))
            folders.append(link)
        _look_into(folders.pop(), found, suffixes, folders, links, seen)
    for paths in (
        found.sounds,
        found.misnamed,
        found.not_files,
        found.closed,
        found.repeated,
        *found.left_out.values(),
    ):
        paths.sort(key=str)
    return found


def in_kinds(left_out: Mapping[str, Sequence[Path]]) -> str:
    """Count files by ending.

    >>> in_kinds({".txt": [Path("a.txt")], "": [Path("b"), Path("c")]})
    '3 files (2 without ending, 1 .txt)'
    """
    counts = sorted(((len(paths), suffix) for suffix, paths in left_out.items()), key=lambda pair: (-pair[0], pair[1]))
    kinds = in_short([f"{count} {suffix or 'without ending'}" for count, suffix in counts])
    total = sum(count for count, _ in counts)
    return f"{total} {'file' if total == 1 else 'files'} ({kinds})"


def in_short(names: Sequence[str], shown: int = SHOWN) -> str:
    """Join the first names, and count the others.

    >>> in_short(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _look_into(
    folder: str,
    found: Listing,
    suffixes: frozenset[str],
    folders: list[str],
    links: list[str],
    seen: set[tuple[int, int]],
) -> None:
    """Enter one folder's files into `found`, its folders into `folders`, those behind links into `links`."""
    try:
        with os.scandir(folder) as entries:
            inside = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in SKIPPED]
    except OSError:
        found.closed.append(Path(folder))
        return
    for entry in inside:
        if entry.is_dir():
            if entry.is_symlink():
                links.append(entry.path)
            elif (identity := _identity(entry.path)) not in seen:
                seen.add(identity)
                folders.append(entry.path)
            continue
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in suffixes:
            path = Path(entry.path)
            place = found.not_files if not entry.is_file() else found.sounds if _is_text(entry.path) else found.misnamed
            place.append(path)
        else:
            found.left_out.setdefault(suffix if _is_text(suffix) else repr(suffix), []).append(Path(entry.path))


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _is_text(path: str) -> bool:
    """Whether a path is text: bytes that are not UTF-8 are kept by Python as lone surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
