"""Tell what the folders of a user's sounds mean: classes, splits, folds, or nothing."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vcrast.data.corpus import TRAIN
from vcrast.data.listing import SKIPPED, Listing, in_kinds, in_short
from vcrast.data.split_lists import SplitLists, read_split_lists
from vcrast.data.splits import standard_split

FOLD = re.compile(r"(?:cv|fold|split)[\s_.-]*(\d+)", re.IGNORECASE)
NOISE = "_background_noise_"  # of Speech Commands: long recordings to mix in, no class
TABLES = (".csv", ".tsv", ".jsonl", ".json")
FORCE = "data.options.splits=false takes every folder as a class"


@dataclass(frozen=True)
class Place:
    """Where one file lies, and what that says.

    Attributes:
        path: of the file.
        parts: its path below the root.
        label: name of its class; "" where it has none.
        split: standard name of its split or number of its fold; "" where it has none.
        folders: those below the class's and the split's that it lies in.
    """

    path: Path
    parts: tuple[str, ...]
    label: str
    split: str
    folders: tuple[str, ...]


@dataclass
class Layout:
    """What the folders mean.

    Attributes:
        places: of the sounds that can be used, in the listing's order.
        splits: names of the splits that the folders or lists give; empty where folds are still to be made.
        decision: one line on how the folders were read.
        notes: what a reader of the results should know.
    """

    places: list[Place]
    splits: tuple[str, ...] = ()
    decision: str = ""
    notes: list[str] = field(default_factory=list)


def split_of_folder(name: str) -> str | None:
    """Return the standard name of a split, or the number of a fold, for a folder's name; None for any other.

    >>> [split_of_folder(name) for name in ("Training", "fold_03", "7", "dog")]
    ['train', '3', None, None]
    """
    numbered = FOLD.fullmatch(name)
    return str(int(numbered[1])) if numbered else standard_split(name)


def read_layout(listing: Listing, splits: bool | None) -> Layout:
    """Tell classes from splits.

    Args:
        listing: of the root.
        splits: True where folders or lists must be splits, False where every folder is a class, None to tell by
            structure.

    Raises:
        ValueError: folders that can be read in two ways, or that contradict each other; says what to do.
    """
    root = listing.root
    everything = [*listing.sounds, *listing.lost]  # also what cannot be used tells what its folder means
    parts = {path: path.relative_to(root).parts for path in everything}
    noise = [path for path in everything if NOISE in (part.lower() for part in parts[path][:-1])]
    for path in noise:
        del parts[path]
    reading = _choose(root, list(parts.values()), splits)
    found = [place for path, each in parts.items() if (place := reading.place(path, each)) is not None]
    layout = Layout([], decision=reading.decision, notes=list(reading.notes))
    if outside := len(parts) - len(found):
        layout.notes.append(f"{outside} sounds are in none of the lists and left out")
    if noise:
        layout.notes.append(f"{NOISE} is no class: {len(noise)} sounds left out")
    present = tuple(sorted({place.split for place in found} - {""}))
    if len(present) == 1:
        layout.notes.append(f"the only split there is {present[0]}: folds are made within it")
        found = [Place(place.path, place.parts, place.label, "", place.folders) for place in found]
    elif present:
        _check_splits(root, present)
        layout.splits = present
    usable = set(listing.sounds)
    layout.places = [place for place in found if place.path in usable]
    layout.notes += _lost_classes(found, usable)
    if empty := _without_sounds(listing, reading.split_folders):
        layout.notes.append(f"folders without sounds left out: {in_short(empty)}")
    _check_labels(root, layout)
    layout.notes += _one_class(listing, layout.places)
    return layout


@dataclass(frozen=True)
class Reading:
    """One way to read the folders: what a path says.

    Attributes:
        place: (path, parts below the root) -> its place; None where it belongs nowhere.
        decision: one line.
        notes: what a reader of the results should know.
        split_folders: folders at the top that are splits, below which the classes are.
    """

    place: Callable[[Path, tuple[str, ...]], Place | None]
    decision: str = ""
    notes: Sequence[str] = ()
    split_folders: Sequence[str] = ()


def _choose(root: Path, paths: Sequence[tuple[str, ...]], splits: bool | None) -> Reading:
    """Choose how to read the folders; errors as in `read_layout`."""
    tops = sorted({parts[0] for parts in paths if len(parts) > 1})
    named = {top: split for top in tops if (split := split_of_folder(top))}
    others = [top for top in tops if top not in named]
    if splits is False:
        said = f"{in_short(list(named))}: taken as classes, as data.options.splits=false says" if named else ""
        return Reading(_class_first, said)
    lists = read_split_lists(root)
    if lists is not None and (others or not named):
        return _by_lists(root, lists, paths)
    if named and _at_top(root, paths, named, others, forced=splits is True):
        _refuse_twice(root, named)
        return Reading(_split_first, f"{in_short(list(named))}: taken as splits", split_folders=list(named))
    if splits is None and named:
        (top,) = named
        said = f"{top} is taken as a class, as {in_short(others)} are; if it is a split, move those away"
        return Reading(_class_first, notes=[said])
    if _below_classes(root, paths):
        return Reading(_class_then_split, "folders below the classes are taken as splits")
    if splits:
        raise ValueError(
            f"data.options.splits=true: {root} has neither folders named train, test, val or eval, nor lists such as "
            "testing_list.txt"
        )
    _refuse_one_folder_too_high(root, paths, tops)
    return Reading(_class_first)


def _class_first(path: Path, parts: tuple[str, ...]) -> Place:
    return Place(path, parts, parts[0] if len(parts) > 1 else "", "", parts[1:-1])


def _split_first(path: Path, parts: tuple[str, ...]) -> Place:
    split = split_of_folder(parts[0]) if len(parts) > 1 else None
    return Place(path, parts, parts[1] if len(parts) > 2 else "", split or "", parts[2:-1])


def _class_then_split(path: Path, parts: tuple[str, ...]) -> Place:
    return Place(path, parts, parts[0], split_of_folder(parts[1]) or "", parts[2:-1])


def _by_lists(root: Path, lists: SplitLists, paths: Iterable[tuple[str, ...]]) -> Reading:
    def place(path: Path, parts: tuple[str, ...]) -> Place | None:
        split = lists.split_of("/".join(parts))
        return None if split is None else Place(path, parts, parts[0] if len(parts) > 1 else "", split, parts[1:-1])

    there = ["/".join(parts) for parts in paths]
    return Reading(place, f"splits are those of {', '.join(lists.files)} in {root}", lists.check(root, there))


def _at_top(
    root: Path, paths: Sequence[tuple[str, ...]], named: dict[str, str], others: Sequence[str], *, forced: bool
) -> bool:
    """Whether the folders at the top that are named after splits are splits; False where `train` is a class.

    Nothing but such folders: splits. Beside others, `train` alone is a class (ESC-50 has it) when its sounds lie
    directly in it, or when it is nested like several others and shares no folder's name with them.
    """
    bare = [parts[0] for parts in paths if len(parts) == 1]
    if not others and not bare:
        return True
    inside: dict[str, set[str]] = defaultdict(set)  # top -> folders below it, "" for sounds directly in it
    for parts in paths:
        if len(parts) > 1:
            inside[parts[0]].add(parts[1] if len(parts) > 2 else "")
    top = next(iter(named))
    if len(named) == 1 and top.lower() == TRAIN and not forced:
        if others and "" in inside[top]:
            return False
        apart = all("" not in inside[other] and not inside[other] & (inside[top] | {top}) for other in others)
        if len(others) > 1 and apart and not inside[top] & set(others):
            return False
    beside = [f"{other}/" for other in others] + bare
    count = sum(len(parts) == 1 or parts[0] in others for parts in paths)
    raise ValueError(
        f"data.root={root}: beside the splits {', '.join(named)} lie {count} sounds that are in none "
        f"({in_short(beside)}); move them into a split or away from here; {FORCE}"
    )


def _below_classes(root: Path, paths: Sequence[tuple[str, ...]]) -> bool:
    """Whether every class has its own train and test folders: root/<class>/{train,test}/*.wav."""
    second: dict[str, set[str]] = defaultdict(set)  # class -> folders below it, "" for sounds directly in it
    for parts in paths:
        if len(parts) == 1:
            return False
        second[parts[0]].add(parts[1] if len(parts) > 2 else "")
    splits = {top: {split_of_folder(name) for name in names} for top, names in second.items()}
    known = {split for found in splits.values() for split in found if split}
    if TRAIN not in known or (len(known) == 1 and len(second) == 1):
        return False
    unclear = sorted(top for top, found in splits.items() if None in found)
    if len(unclear) == len(splits):
        return False
    if unclear:
        raise ValueError(
            f"data.root={root}: some classes have the folders {', '.join(sorted(known))}, but {in_short(unclear)} "
            f"{'have' if len(unclear) > 1 else 'has'} sounds outside of such; move them into one, or "
            "data.options.splits=false takes no folder as a split"
        )
    _refuse_one_folder_too_high(root, paths, list(second))
    return True


def _refuse_one_folder_too_high(root: Path, paths: Sequence[tuple[str, ...]], tops: Sequence[str]) -> None:
    """Refuse a root whose only folder holds the splits: their names would become parts of one class."""
    if len(tops) == 1 and all(len(parts) > 2 and split_of_folder(parts[1]) for parts in paths):
        raise ValueError(f"data.root={root}: its only folder {tops[0]} holds splits; set data.root={root / tops[0]}")


def _refuse_twice(root: Path, named: dict[str, str]) -> None:
    """Refuse two folders that mean one split."""
    first: dict[str, str] = {}
    for top, split in named.items():
        if split in first:
            raise ValueError(
                f"data.root={root}: {first[split]} and {top} both mean the split {split}; put their sounds together; "
                f"{FORCE}"
            )
        first[split] = top


def _check_splits(root: Path, splits: Sequence[str]) -> None:
    if TRAIN not in splits and not any(split.isdecimal() for split in splits):
        raise ValueError(
            f"data.root={root}: has the splits {', '.join(splits)} and none called train, so nothing to train on; call "
            f"one train; {FORCE}"
        )


def _check_labels(root: Path, layout: Layout) -> None:
    """Refuse files with classes beside files without; say where there are splits and no classes."""
    bare = [place for place in layout.places if not place.label]
    if not bare:
        return
    if len(bare) == len(layout.places):
        if layout.splits:
            layout.notes.append(
                f"{', '.join(layout.splits)} hold sounds directly, no class folders: unlabelled, for pretraining only"
            )
        return
    raise ValueError(
        f"data.root={root}: {len(bare)} files are in no class folder, the first is {bare[0].path}; move them into one "
        "or away (`vcrast predict` labels them once a model is trained)"
    )


def _one_class(listing: Listing, places: Sequence[Place]) -> list[str]:
    """Say that there is one class only, and where the others may be meant to be."""
    labels = {place.label for place in places}
    if len(labels) != 1 or labels == {""}:
        return []
    (label,) = labels
    text = f"only one class, {label}: nothing to tell apart"
    inside = sorted({place.folders[0] for place in places if place.folders})
    if len(inside) > 1:
        text += f"; if {in_short(inside)} are the classes, set data.root={listing.root / label}"
    tables = [path for suffix in TABLES for path in listing.left_out.get(suffix, [])]
    if tables:
        text += f"; if {listing.shown(tables[0])} has the labels, open it: data=manifest data.path={tables[0]}"
    return [text]


def _lost_classes(places: Sequence[Place], usable: set[Path]) -> list[str]:
    """Name the classes, or their parts in one split, that lost every file."""
    kinds: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    kept = {key for place in places if place.path in usable for key in (place.label, f"{place.split}/{place.label}")}
    for place in places:
        if place.label and place.path not in usable:
            where = place.label if place.label not in kept else f"{place.split}/{place.label}"
            if where not in kept:
                kinds[_readable(where)][place.path.suffix.lower()].append(place.path)
    return [f"class {where} has lost all its files: {in_kinds(found)}" for where, found in sorted(kinds.items())]


def _without_sounds(listing: Listing, split_folders: Iterable[str]) -> list[str]:
    """List the folders without sound among those of classes and splits; links not followed are said elsewhere."""
    kept = [*listing.sounds, *listing.lost, *listing.repeated, *listing.closed]
    used = {path.relative_to(listing.root).parts[:depth] for path in kept for depth in (1, 2)}
    empty = []
    for above in ((), *((split,) for split in split_folders)):
        with os.scandir(listing.root.joinpath(*above)) as entries:
            for entry in entries:
                seen = not entry.name.startswith(".") and entry.name not in SKIPPED and entry.is_dir()
                if seen and (*above, entry.name) not in used:
                    empty.append(_readable("/".join((*above, entry.name))))
    return sorted(empty)


def _readable(name: str) -> str:
    """A name that any log can hold: escaped where it is not UTF-8 text."""
    return name.encode("utf-8", "backslashreplace").decode()
