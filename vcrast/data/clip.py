"""A clip, a corpus of clips, and its folds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vcrast.config.words import suggest
from vcrast.data.splits import standard_split

TRAIN = "train"
WHOLE = "all"  # the fold of a corpus that has none: trained on, never tested


@dataclass(frozen=True, slots=True)
class Clip:
    """A stretch of one sound file.

    Attributes:
        path: of the file, or `scheme://...` for a generated sound.
        labels: class indices; empty when unlabelled.
        start_s: where the clip begins in the file.
        duration_s: its length; None is up to the end of the file.
        fold: name of the fold or split it belongs to; empty when there is none.
        line: in the manifest, for messages; 0 when there is no manifest.
        extra: the manifest's other columns.
    """

    path: str
    labels: tuple[int, ...]
    start_s: float = 0.0
    duration_s: float | None = None
    fold: str = ""
    line: int = 0
    extra: dict[str, str] = field(default_factory=dict, compare=False, hash=False)

    def __reduce__(self) -> tuple[type[Clip], tuple[Any, ...]]:
        # Workers are sent every clip; what a frozen dataclass with slots does by itself takes five times as long.
        fields = (self.path, self.labels, self.start_s, self.duration_s, self.fold, self.line, self.extra)
        return Clip, fields

    @property
    def segment(self) -> tuple[str, float, float | None]:
        """Path, start and duration: equal for clips of the same sound."""
        return self.path, self.start_s, self.duration_s

    @property
    def where(self) -> str:
        """The clip as named in a message: its line if it has one, and its path."""
        return f"line {self.line}: {self.path}" if self.line else self.path


@dataclass(frozen=True)
class Corpus:
    """A dataset: its clips, the names of its classes, and the folds that `data.folds` may name.

    Attributes:
        notes: what a reader of the results should know, such as how much of the dataset is here.
        listed: the clips are what a listing of their folders found, each once, and may be millions: checks before the
            first step open a sample of them.
    """

    name: str
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    multilabel: bool
    folds: tuple[str, ...]
    notes: tuple[str, ...] = ()
    listed: bool = False

    def split(self, fold: str) -> tuple[list[Clip], list[Clip]]:
        """Return the training and the test clips of one fold.

        A corpus with a fold called `train` has fixed splits: `train` is always what is trained on, so that a validation
        split never slips into the training set. Otherwise the other folds are the training set. Without any fold, `all`
        is the whole corpus to train on, and nothing to test.

        Raises:
            ValueError: no such fold.
        """
        if fold == WHOLE and not self.folds:
            return list(self.clips), []
        if fold not in self.folds:
            raise ValueError(f"data.folds: {self.name} has no fold {fold!r}; {_choices(self, fold)}")
        fixed = any(clip.fold == TRAIN for clip in self.clips)
        train = [clip for clip in self.clips if (clip.fold == TRAIN if fixed else clip.fold != fold)]
        return train, [clip for clip in self.clips if clip.fold == fold]


def fold_names(clips: Iterable[Clip]) -> tuple[str, ...]:
    """Return the folds that may be tested on, in order: by number where all are numbers, never `train`."""
    names = {clip.fold for clip in clips} - {"", TRAIN}
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
