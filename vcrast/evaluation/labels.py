"""Match the labels of another dataset with the classes of a model, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus


@dataclass(frozen=True)
class Matched:
    """The clips of a corpus in a model's classes.

    Attributes:
        clips: those that can be scored; `labels` are places among the model's classes.
        renamed: label of the corpus -> class of the model, where they differ in case, or in `_`, `-` and spaces.
        unknown: labels of these clips that the model does not have, and how many clips carry each.
        num_unlabelled: clips left out because they have no label.
        num_unknown: clips left out because the model knows none of their labels.
    """

    clips: tuple[Clip, ...]
    renamed: Mapping[str, str]
    unknown: Mapping[str, int]
    num_unlabelled: int
    num_unknown: int

    @property
    def single(self) -> bool:
        """Whether each clip has one label, so that it is right or wrong as a whole."""
        return all(len(clip.labels) == 1 for clip in self.clips)


class Places(NamedTuple):
    """Where the labels of a corpus are among the model's classes; None where they are not."""

    of: tuple[int | None, ...]
    renamed: dict[str, str]


def match(corpus: Corpus, clips: Iterable[Clip], classes: Sequence[str]) -> Matched:
    """Give clips of a corpus the places of their labels among a model's classes.

    A label is found by its exact name, or else by its name in any case, `_`, `-` and spaces being the same, if just one
    class has that. Of a clip with several labels those that the model does not have are dropped. Where clips may have
    several labels, one without any is a clip of none of the classes, and stays.
    """
    places = find_places(corpus.classes, classes)
    kept: list[Clip] = []
    unknown: dict[str, int] = {}
    renamed: dict[str, str] = {}
    num_unlabelled = num_unknown = 0
    for clip in clips:
        names = [corpus.classes[label] for label in clip.labels]
        found = [place for label in clip.labels if (place := places.of[label]) is not None]
        for name, label in zip(names, clip.labels, strict=True):
            if places.of[label] is None:
                unknown[name] = unknown.get(name, 0) + 1
            elif name in places.renamed:
                renamed[name] = places.renamed[name]
        if found or (not names and corpus.multilabel):
            kept.append(replace(clip, labels=tuple(sorted(set(found)))))
        else:
            num_unlabelled, num_unknown = num_unlabelled + (not names), num_unknown + bool(names)
    return Matched(tuple(kept), renamed, unknown, num_unlabelled, num_unknown)


def find_places(names: Sequence[str], classes: Sequence[str]) -> Places:
    """Find each of `names` among `classes`, as `match` says."""
    exact: dict[str, int] = {name: place for place, name in enumerate(classes)}
    alike: dict[str, list[int]] = {}
    for name, number in exact.items():
        alike.setdefault(plain(name), []).append(number)
    of: list[int | None] = []
    renamed: dict[str, str] = {}
    for name in names:
        near = alike.get(plain(name), [])
        place = exact.get(name, near[0] if len(near) == 1 else None)
        of.append(place)
        if place is not None and classes[place] != name:
            renamed[name] = classes[place]
    return Places(tuple(of), renamed)


def plain(name: str) -> str:
    """A name in lower case with single spaces for `_`, `-` and spaces.

    >>> plain("Dog_Bark ")
    'dog bark'
    """
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
