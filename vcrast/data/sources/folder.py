"""Sound files in folders named after their classes, or in one folder, without classes."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.audio import sound_suffixes
from vcrast.data.class_names import near_equal
from vcrast.data.clip import Clip
from vcrast.data.copies import copies_across, find_copies
from vcrast.data.corpus import Corpus, fold_names
from vcrast.data.folding import deal
from vcrast.data.grouping import Named, group_files
from vcrast.data.layout import Layout, Place, read_layout
from vcrast.data.listing import find_sounds, in_kinds, in_short
from vcrast.data.settings import existing_folder, refuse_settings

log = logging.getLogger(__name__)
NUM_FOLDS = 5
PACKED = {".tar": "webdataset", ".arrow": "huggingface", ".parquet": "huggingface"}
"""Endings of files that may hold sounds -> the source that reads them."""


@SOURCES.register("folder")
def folder(data: DataConfig) -> Corpus:
    """Open `root/<class>/**/*.wav`, `root/{train,test}/<class>/**/*.wav`, or `root/*.wav` without classes.

    Options, in `data.options`: `splits`, whether folders or lists are splits (None: by structure, `read_layout`);
    `num_folds` (5) of the folds that are made where there are no splits; `group`, what stays in one of them.

    Raises:
        FileNotFoundError: `data.root` is not a folder.
        ValueError: no sound files, folders that can be read in two ways, or a bad option.
    """
    refuse_settings(data, options=("num_folds", "splits", "group"))
    splits, group = data.options["splits"], data.options["group"]
    if splits not in (None, True, False):
        raise ValueError(f"data.options.splits={splits!r}: choose from null, true, false")
    listing = find_sounds(existing_folder(data))
    if not listing.sounds:
        left_out = "; ".join(["", *listing.notes(), *_packed(listing.left_out)])
        raise ValueError(f"data.root={data.root}: no sound files ({', '.join(sound_suffixes())}){left_out}")
    layout = read_layout(listing, splits)
    if not layout.places:
        raise ValueError(f"data.root={data.root}: no sound is left; {'; '.join(layout.notes)}")
    num_folds = _num_folds(data, layout)
    notes = [*listing.notes(), *layout.notes]
    if layout.decision:
        log.info("data=folder: %s", layout.decision)
    if others := listing.others():
        log.info("data=folder: %s", others)
    classes = tuple(sorted({place.label for place in layout.places} - {""}))
    sizes = Counter(place.label for place in layout.places if place.label)
    notes += near_equal({name: f"{size} file{'s' * (size > 1)}" for name, size in sizes.items()})
    number = {name: index for index, name in enumerate(classes)}
    # Without classes there is nothing to test, so folds would only keep clips from pretraining.
    made = classes and not layout.splits
    folds = (
        make_folds(layout.places, num_folds, str(group), notes) if made else [place.split for place in layout.places]
    )
    clips = tuple(
        Clip(str(place.path), (number[place.label],) if classes else (), fold=fold)
        for place, fold in zip(layout.places, folds, strict=True)
    )
    corpus = Corpus("folder", clips, classes, False, fold_names(clips))
    copies = copies_across(corpus)
    notes += [copies] if copies else []
    return replace(corpus, notes=tuple(notes))


def _packed(left_out: Mapping[str, Sequence[Path]]) -> list[str]:
    """Name the source that reads the larger files that are there."""
    return [
        f"{in_kinds({ending: left_out[ending]})} {'are' if len(left_out[ending]) > 1 else 'is'} read by data={name}"
        for ending, name in PACKED.items()
        if ending in left_out
    ]


def make_folds(places: Sequence[Place], num_folds: int, group: str, notes: list[str]) -> list[str]:
    """Deal the files to the folds "1" to "<num_folds>": every class evenly, recordings and copies together.

    Args:
        places: the files.
        num_folds: how many folds.
        group: as in `group_files`.
        notes: gets a line for what a reader should know.

    Returns:
        The fold of every file, in order.
    """
    # Macs write decomposed letters: the same folder has the same folds everywhere.
    names = [unicodedata.normalize("NFC", "/".join(place.parts)) for place in places]
    files = [Named(name, place.label, place.folders) for name, place in zip(names, places, strict=True)]
    groups = group_files(files, group, num_folds)
    if groups.text:
        log.info("data=folder: %s", groups.text)
    notes += groups.notes
    labels = [place.label for place in places]
    joined = join_copies([str(place.path) for place in places], groups.names, labels)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, label in zip(joined, labels, strict=True):
        counts[name][label] += 1
    fold_of = deal(counts, num_folds)
    notes += _thin_classes(counts, fold_of, num_folds)
    return [str(1 + fold_of[name]) for name in joined]


def join_copies(paths: Sequence[str], groups: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Join the groups that hold copies of one file; a joined group has the first of their names.

    A class that would become a single group, such as one of digital silence, stays as it is: in one fold it could be
    trained on or tested, never both.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while name in parent:
            name = parent[name]
        return name

    group_of = dict(zip(paths, groups, strict=True))
    for copy, original in find_copies(paths).items():
        first, second = sorted((root(group_of[copy]), root(group_of[original])))
        if first != second:
            parent[second] = first
    joined = [root(name) for name in groups]
    left: dict[str, set[str]] = defaultdict(set)
    for name, label in zip(joined, labels, strict=True):
        left[label].add(name)
    return [own if len(left[label]) == 1 else name for own, name, label in zip(groups, joined, labels, strict=True)]


def _thin_classes(counts: Mapping[str, Counter[str]], fold_of: Mapping[str, int], num_folds: int) -> list[str]:
    """Name the classes that have no clip in some fold, and those that have all of them in one."""
    folds: dict[str, set[int]] = defaultdict(set)
    for name, inside in counts.items():
        for label in inside:
            folds[label].add(fold_of[name])
    once = sorted(label for label, found in folds.items() if len(found) == 1)
    few = sorted(label for label, found in folds.items() if 1 < len(found) < num_folds)
    notes = []
    if once:
        notes.append(f"all clips of {in_short(once)} are in one fold: tested there, they are not trained on")
    if few:
        notes.append(f"{in_short(few)}: fewer groups of clips than the {num_folds} folds, some folds test none")
    return notes


def _num_folds(data: DataConfig, layout: Layout) -> int:
    """Return `data.options.num_folds`, checked; refuse what has no effect on given splits."""
    num_folds, group = data.options["num_folds"], data.options["group"]
    if layout.splits and (num_folds is not None or group != "auto"):
        name, value = ("num_folds", num_folds) if num_folds is not None else ("group", group)
        given = ", ".join(layout.splits)
        raise ValueError(f"data.options.{name}={value}: {data.root} has its own splits ({given}); leave it as it is")
    num_folds = NUM_FOLDS if num_folds is None else num_folds
    if not isinstance(num_folds, int) or num_folds < 2:
        raise ValueError(f"data.options.num_folds={num_folds!r}: must be a whole number of at least 2")
    return num_folds
