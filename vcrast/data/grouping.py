"""Group the files of one recording or speaker, as far as their names and folders tell."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vcrast.config.words import suggest
from vcrast.data.listing import in_short

HOW = ("auto", "none", "folder")
# Names of known datasets: the number in them is the same recording or speaker, also in another class.
KNOWN = {
    "the speakers in Speech Commands' names": re.compile(r"([0-9a-f]{8})_nohash_\d+"),
    "the Freesound clips in ESC-50's names": re.compile(r"\d-(\d+)-[A-Z]-\d+"),
    "the Freesound recordings in UrbanSound8K's names": re.compile(r"(\d{2,7})-\d-\d+-\d+"),
    "the actors in RAVDESS' names": re.compile(r"\d\d(?:-\d\d){5}-(\d\d)"),
    "the actors in CREMA-D's names": re.compile(r"(\d{4})_[A-Z]{3}_[A-Z]{3}_[A-Z]{2}"),
    "the xeno-canto numbers in their names": re.compile(r"xc[ _-]?(\d+)(?:\D.*)?", re.IGNORECASE),
    "the iNaturalist numbers in their names": re.compile(r"inat[ _-]?(\d+)(?:\D.*)?", re.IGNORECASE),
}
# Folders of these names are the same person or session, also in another class.
PERSON = re.compile(
    r"(?:speaker|spkr?|subj(?:ect)?|participant|patient|person|actor|user|session)[ _-]?\w+", re.IGNORECASE
)
NUMBER = r"\d+(?:\.\d+)?(?:ms|sec|s)?"
COUNTER = re.compile(
    rf"(?:[ _.-]*\(\d+\)"  # a (2)
    rf"|[ _]+{NUMBER}-{NUMBER}"  # XC1234_0-5
    r"|(?:[ _.-]+|(?<=\d))(?:part|pt|seg|segment|chunk|clip|slice|frame|window|win|take|cut|split|crop|piece)[ _.-]*\d+"
    rf"|[ _.-]+{NUMBER})$",  # rec12_003
    re.IGNORECASE,
)
# What is left of a name without its counter, and names no recording.
PLAIN = (
    "audio", "clip", "file", "noise", "output", "part", "rec", "record", "recording", "sample", "seg", "segment",
    "slice", "sound", "track", "wav",
)  # fmt: skip


class Named(NamedTuple):
    """A file as grouping sees it: its path below the root, its class, and its folders below that of the class."""

    name: str
    label: str
    folders: tuple[str, ...]

    @property
    def own(self) -> str:
        """The group of this file alone: its path without the ending, so that a converted file is the same one."""
        return self.name.rpartition("/")[0] + "/" + self.stem

    @property
    def stem(self) -> str:
        """Its name without folders and ending."""
        return self.name.rpartition("/")[2].rpartition(".")[0]


class Groups(NamedTuple):
    """The group of every file, in order; what the groups come from; what a reader should know."""

    names: list[str]
    text: str
    notes: list[str]


def group_files(files: Sequence[Named], how: str, num_folds: int) -> Groups:
    """Group the files that must stay together in one fold.

    Args:
        files: in any order; the answer has the same.
        how: `none`; `folder`, the folder that a file lies in below that of its class; a regular expression with one
            group, searched in the path below the root; or `auto`: names of known datasets, then folders below the
            class, then names without their counters, whichever leaves a class at least `num_folds` groups.
        num_folds: how many folds there will be.

    Raises:
        ValueError: no such way, or a regular expression that cannot be read, has not one group, or matches no file.
    """
    if how == "none":
        return Groups([file.own for file in files], "", [])
    if how == "folder":
        names = [_folder(file) or file.own for file in files]
        return Groups(names, _text(files, names, ["their folders"]), [])
    if how == "auto":
        return _auto(files, num_folds)
    return _by_pattern(files, how)


def _by_pattern(files: Sequence[Named], how: str) -> Groups:
    if "(" not in how:
        valid = suggest(how, [*HOW, "a regular expression with one group, such as '(rec[0-9]+)'"])
        raise ValueError(f"data.options.group={how}: {valid}")
    try:
        pattern = re.compile(how)
    except re.error as error:
        raise ValueError(f"data.options.group={how}: no regular expression ({error})") from None
    if pattern.groups != 1:
        raise ValueError(
            f"data.options.group={how}: has {pattern.groups} groups in brackets, needs one: (?:...) for others"
        )
    matches = [pattern.search(file.name) for file in files]
    if not any(matches):
        raise ValueError(f"data.options.group={how}: matches none of {len(files)} files, such as {files[0].name}")
    names = [f"group {m[1]}" if m and m[1] else file.own for m, file in zip(matches, files, strict=True)]
    missed = sum(not (match and match[1]) for match in matches)
    notes = (
        [f"data.options.group={how} matches all but {missed} files; each of them is its own group"] if missed else []
    )
    return Groups(names, _text(files, names, [f"data.options.group={how}"]), notes)


def _auto(files: Sequence[Named], num_folds: int) -> Groups:
    """Group the files of every class by what tells most and leaves enough groups."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, file in enumerate(files):
        members[file.label].append(index)
    names = [file.own for file in files]
    used: dict[str, None] = {}
    scarce: dict[str, int] = {}
    for label in sorted(members):
        inside = [files[index] for index in members[label]]
        for way in _ways(inside):
            found = [way.group.get(file, file.own) for file in inside]
            count = len(set(found) if way.alone_counts else set(way.group.values()))
            if count >= num_folds:
                used[way.text] = None
                scarce.pop(label, None)
                for index, group in zip(members[label], found, strict=True):
                    names[index] = group
                break
            if len(way.group) == len(inside) > count:
                scarce.setdefault(label, count)
    notes = []
    if scarce:
        shown = in_short([f"{label} ({count})" for label, count in scarce.items()])
        notes.append(
            f"fewer recordings than the {num_folds} folds in {shown}, as far as names tell: files are spread one by "
            "one, parts of a recording may be trained on and tested; set data.options.num_folds or data.options.group"
        )
    return Groups(names, _text(files, names, list(used)), notes)


class Way(NamedTuple):
    """One way to group the files of a class: files that are in no group are each their own.

    Attributes:
        text: what it goes by.
        group: of a file.
        alone_counts: whether files in no group count among the groups that a class must have.
    """

    text: str
    group: dict[Named, str]
    alone_counts: bool = True


def _ways(files: Sequence[Named]) -> Iterator[Way]:
    """Yield the ways to group the files of one class, best first."""
    for text, pattern in KNOWN.items():
        found = {file: f"{text} {match[1]}" for file in files if (match := pattern.fullmatch(file.stem))}
        if 2 * len(found) >= len(files):
            yield Way(text, found)
    found = {file: group for file in files if (group := _folder(file))}
    if len(set(found.values())) > 1:
        yield Way("the folders below the classes", found, alone_counts=False)
    for times in (1, 2):
        if found := _without_counters(files, times):
            yield Way("their names without counters", found)


def _folder(file: Named) -> str:
    """The folder of a file below its class; "" where it lies directly in that of the class."""
    person = next((name for name in file.folders if PERSON.fullmatch(name)), "")
    return f"folder {person.lower()}" if person else "/".join((file.label, *file.folders)) if file.folders else ""


def _without_counters(files: Sequence[Named], times: int) -> dict[Named, str]:
    """Group files by what is left of their names without the last counters; empty where that puts no two together.

    What is left must name a recording: not the class (`dog_1`, `dog_2`), no plain word, and no more than half of the
    files.
    """
    left: dict[Named, str] = {}
    for file in files:
        stem = file.stem
        for _ in range(times):
            stem = COUNTER.sub("", stem)
        word = re.sub(r"[\W_]+", "", stem).lower()
        if stem != file.stem and word and word not in PLAIN and word != re.sub(r"[\W_]+", "", file.label).lower():
            left[file] = file.name.rpartition("/")[0] + "/" + stem
    sizes = Counter(left.values())
    left = {file: group for file, group in left.items() if 2 * sizes[group] <= len(files)}
    return left if any(sizes[group] > 1 for group in left.values()) else {}


def _text(files: Sequence[Named], names: Sequence[str], used: Sequence[str]) -> str:
    """One line on what was grouped; "" where every file is alone."""
    count = len(set(names))
    return f"grouped {len(files)} files into {count} recordings by {' and '.join(used)}" if count < len(files) else ""
