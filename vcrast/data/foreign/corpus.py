"""Make a corpus of samples that lie in files of others."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vcrast.config.schema import DataConfig
from vcrast.data.audio import AudioFault, header
from vcrast.data.clip import Clip
from vcrast.data.clips import Clips, Columns, Paths
from vcrast.data.corpus import Corpus, fold_names
from vcrast.data.fingerprint import READ_BYTES
from vcrast.data.foreign.fields import Field, Labels, choose, read_labels, read_split_field
from vcrast.data.foreign.files import reading_threads
from vcrast.data.listing import in_short
from vcrast.data.preflight import allowed_faults, fault_list, spread
from vcrast.data.table.roles import KNOWN

log = logging.getLogger(__name__)
PLACES = 64  # of all files that are read for the hash of the content
LISTED = 20
OPTIONS = ("labels", "classes", "fold", "splits", "audio")


@dataclass(frozen=True)
class Found:
    """Samples of a set of files.

    Attributes:
        files: all of them.
        below: what each is called below the root.
        splits: the split that each is of, by its name; "" if it says none.
        paths: address of every sample, n of them.
        file: (n,) int32, number of each sample's file.
        block: (n,) int32, number of what is read at once.
        names: place of a sample -> what it is called in messages.
        fields: what samples have under the usual names and the one asked for.
        keys: names of all fields.
        faults: of samples that cannot be used.
        about: numbers that tell where the sounds lie.
        looked: samples whose sound's header is read now.
        in_files: every sound lies in `files`.
    """

    files: Sequence[Path]
    below: Sequence[str]
    splits: Sequence[str]
    paths: Paths
    file: np.ndarray
    block: np.ndarray
    names: Callable[[int], str]
    fields: Mapping[str, Field]
    keys: Collection[str]
    faults: Sequence[str]
    about: Sequence[np.ndarray]
    looked: int
    in_files: bool = True
    notes: Sequence[str] = ()

    def where(self, place: int) -> str:
        """A sample as named in a message."""
        return f"{self.below[self.file[place]]}: {self.names(place)}"


def corpus_of(data: DataConfig, found: Found) -> Corpus:
    """Join samples, labels and folds; samples without a label beside others with one are left out.

    Raises:
        ValueError: no samples, more that cannot be used than `data.max_bad_fraction` allows, bad labels.
        FileNotFoundError: no such file of class names.
    """
    num = len(found.paths)
    if not num:
        raise ValueError(f"data.root={data.root}: no samples with sounds{fault_list(found.faults)}")
    labels = _labels(data, found, num)
    fold, names, said, no_fold = _folds(data, found)
    lacks = labels.missing | no_fold
    faults = [*found.faults, *(_lacking(found, labels, place) for place in lacks.nonzero()[0][:LISTED].tolist())]
    count, total = len(found.faults) + int(lacks.sum()), num + len(found.faults)
    allowed = allowed_faults(total, data.max_bad_fraction)
    more = [""] * (count - len(faults))  # only counted
    if count > allowed:
        raise ValueError(
            f"data.root={data.root}: {count} of {total} samples cannot be used; data.max_bad_fraction="
            f"{data.max_bad_fraction:g} allows {allowed}{_without_labels(labels)}{fault_list(faults + more)}"
        )
    notes = [*found.notes, *labels.notes, *said]
    if count:
        notes.append(f"{count} of {total} samples left out{fault_list(faults + more)}")
    clips = Clips(Columns(found.paths, labels.values, labels.starts, fold, names, block=found.block))
    clips = clips.take((~lacks).nonzero()[0]) if lacks.any() else clips
    _look(clips, found.looked, data)
    corpus = Corpus(data.name, clips, labels.classes, labels.multilabel, fold_names(clips), tuple(notes))
    if not found.in_files:
        return corpus
    content, hashes = _content(found, labels, fold, names)
    return replace(corpus, content=content, shards=tuple(zip(found.below, hashes, strict=True)))


def _labels(data: DataConfig, found: Found, num: int) -> Labels:
    wanted = data.options["labels"]
    if wanted not in (True, False):
        raise ValueError(f"data.options.labels={wanted!r}: choose from true, false")
    if not wanted and (data.label is not None or data.options["classes"] is not None):
        name = "label" if data.label is not None else "options.classes"
        raise ValueError(f"data.{name} has no effect with data.options.labels=false; leave it null")
    fields = found.fields if wanted else {}
    found_labels = read_labels(fields, num, asked=data.label, classes=data.options["classes"], known=found.keys)
    return found_labels if wanted else found_labels._replace(notes=())


def _folds(data: DataConfig, found: Found) -> tuple[np.ndarray, tuple[str, ...], list[str], np.ndarray]:
    """Return the fold of each sample, names of folds, lines on how they were read, which samples lack theirs."""
    asked = data.options["fold"]
    name = None
    if asked is not False:
        name = choose(found.fields, KNOWN["fold"], asked, "data.options.fold", found.keys)
    if name is not None:
        fold, names = read_split_field(found.fields[name], name)
        lacking = fold == 0
        ignored = any(found.splits) and len(set(found.splits)) > 1
        more = "; those in the files' names do not count, data.options.fold=false takes them" if ignored else ""
        return fold, names, [f"folds are {name}: {in_short(names[1:])}{more}"], lacking
    names = ("", *sorted(set(found.splits) - {""}))
    number = np.array([names.index(split) for split in found.splits], np.uint16)
    said = [f"folds from the names of files: {in_short(names[1:])}"] if len(names) > 1 else []
    return number[found.file], names, said, np.zeros(len(found.paths), bool)


def _lacking(found: Found, labels: Labels, place: int) -> str:
    return (
        f"{found.where(place)}: no label ({labels.field})"
        if labels.missing[place]
        else f"{found.where(place)}: no fold"
    )


def _without_labels(labels: Labels) -> str:
    return "; data.options.labels=false takes no labels, to pretrain" if labels.missing.any() else ""


def _look(clips: Clips, count: int, data: DataConfig) -> None:
    """Read the headers of some sounds: files of other bytes than their names say are found before the first step.

    Raises:
        ValueError: more are unreadable than `data.max_bad_fraction` allows of so many.
    """
    looked: Sequence[Clip] = spread(clips, count)
    with reading_threads() as pool:
        faults = [fault for fault in pool.map(_fault, looked) if fault]
    if len(faults) > allowed_faults(len(looked), data.max_bad_fraction):
        raise ValueError(
            f"data.root={data.root}: {len(faults)} of {len(looked)} sounds that were looked at cannot be read"
            f"{fault_list(faults)}"
        )
    for fault in faults:
        log.warning("data: %s; it will be left out", fault)


def _fault(clip: Clip) -> str:
    try:
        _, frames = header(clip.path)
    except AudioFault as fault:
        return str(fault)
    return "" if frames else f"{clip.path}: no samples"


def _content(found: Found, labels: Labels, fold: np.ndarray, names: Sequence[str]) -> tuple[str, list[str]]:
    """Hash what is known of all samples, and a little of the files: equal where they have only been moved.

    Returns:
        One hash of everything, and one of each file.
    """
    sizes = [os.stat(file).st_size for file in found.files]
    each = [hashlib.blake2b(str(size).encode(), digest_size=8) for size in sizes]
    stops = np.cumsum(sizes)
    for place in range(PLACES):
        at = int(stops[-1]) * (2 * place + 1) // (2 * PLACES)
        number = int(np.searchsorted(stops, at, side="right"))
        with open(found.files[number], "rb") as file:
            file.seek(at - int(stops[number] - sizes[number]))
            each[number].update(file.read(READ_BYTES))
    hashes = [digest.hexdigest() for digest in each]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([list(found.below), hashes, labels.classes, list(names)]).encode())
    for array in (found.file, labels.values, labels.starts, labels.missing, fold, *found.about):
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest(), hashes
