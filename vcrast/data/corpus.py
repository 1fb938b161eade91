"""A corpus: a dataset's clips, its classes and its folds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vcrast.config.words import suggest
from vcrast.data.clip import Clip
from vcrast.data.clips import Clips
from vcrast.data.splits import standard_split

TRAIN = "train"
WHOLE = "all"  # the fold of a corpus that has none: trained on, never tested


@dataclass(frozen=True)
class Corpus:
    """A dataset: its clips, the names of its classes, and the folds that `data.folds` may name.

    Attributes:
        notes: what a reader of the results should know, such as how much of the dataset is here.
        listed: the clips are what a listing of their folders found, each once, and may be millions: checks before the
            first step open a sample of them.
        content: hash of all sounds and what is known of them, for clips that lie in shards; "" for files. Their index
            was made from readable clips, so that none is opened before the first step.
        shards: name and hash of each shard.
    """

    name: str
    clips: Sequence[Clip]
    classes: tuple[str, ...]
    multilabel: bool
    folds: tuple[str, ...]
    notes: tuple[str, ...] = ()
    listed: bool = False
    content: str = ""
    shards: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "clips", Clips.of(self.clips))

    @property
    def table(self) -> Clips:
        """The clips as columns, which they are kept in."""
        return Clips.of(self.clips)

    def split(self, fold: str) -> tuple[Clips, Clips]:
        """Return the training and the test clips of one fold.

        A corpus with a fold called `train` has fixed splits: `train` is always what is trained on, so that a validation
        split never slips into the training set. Otherwise the other folds are the training set. Without any fold, `all`
        is the whole corpus to train on, and nothing to test. Each dataset of a mixture is split by itself: one that has
        no such fold is trained on as far as its own splits allow.

        Raises:
            ValueError: no such fold.
        """
        clips = self.table
        if fold == WHOLE and not self.folds:
            return clips, clips.take(())
        if fold not in self.folds:
            raise ValueError(f"data.folds: {self.name} has no fold {fold!r}; {_choices(self, fold)}")
        test, fixed = clips.in_fold(fold), clips.in_fold(TRAIN)
        part = np.zeros(len(clips), np.int16) if clips.part is None else clips.part
        train = ~test
        for number in np.unique(part[fixed]).tolist():
            train &= (part != number) | fixed
        return clips.take(train.nonzero()[0]), clips.take(test.nonzero()[0])


def fold_names(clips: Iterable[Clip]) -> tuple[str, ...]:
    """Return the folds that may be tested on, in order: by number where all are numbers, never `train`."""
    names = (clips.folds if isinstance(clips, Clips) else {clip.fold for clip in clips}) - {"", TRAIN}
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else None))


def select_folds(corpus: Corpus, folds: Any) -> list[str]:
    """Return the folds that `data.folds` asks for, in the asked order.

    Args:
        corpus: whose folds they are.
        folds: "all", one fold, a list of folds (numbers or names), or None: `test` if there is one, else the first.

    Returns:
        Names of folds; empty for None on a corpus without folds, which can be pretrained on but not tested.

    Raises:
        ValueError: a fold that does not exist, twice the same, or none at all.
    """
    if folds is None:
        return ["test"] if "test" in corpus.folds else list(corpus.folds[:1])
    if folds == "all":
        return list(corpus.folds)
    asked = [folds] if isinstance(folds, str | int) else list(folds)
    names = [fold_called(str(fold), corpus.folds) for fold in asked]
    if not names:
        raise ValueError("data.folds=[] names no fold; give one such as [1], or all, or null")
    if len(set(names)) < len(names):
        raise ValueError(f"data.folds={names} names a fold twice")
    for name in names:
        if name not in corpus.folds:
            raise ValueError(f"data.folds: {corpus.name} has no fold {name!r}; {_choices(corpus, name)}")
    return names


def fold_called(name: str, folds: Sequence[str]) -> str:
    """Return the fold that a name means: itself, or the split of that name in another spelling (`Test`)."""
    split = standard_split(name)
    return split if split is not None and name not in folds and split in folds else name


def _choices(corpus: Corpus, wrong: str) -> str:
    if not corpus.folds:
        return "it has no folds at all; set data.folds=null to pretrain on every clip"
    return suggest(wrong, corpus.folds)
