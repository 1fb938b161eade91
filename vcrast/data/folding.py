"""Deal groups of clips to folds, evenly in every class; write the folds to a file."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from vcrast.config.atomic import write_atomic
from vcrast.data.audio import is_address
from vcrast.data.corpus import Corpus
from vcrast.data.fingerprint import clip_names, shared_folder
from vcrast.data.hashing import stable_hash
from vcrast.data.members import SCHEME, name_of

OWN_COLUMNS = {"librispeech": ("utterance", "speaker", "split")}
"""What the columns of a split are called where a dataset's users know its clips by an id."""
Counts = Mapping[str, int]  # class -> number of clips


class Loads:
    """How many clips of each class lie in each fold, while groups are dealt.

    Attributes:
        load: class -> clips in each fold.
        total: class -> clips in all.
        left: class -> groups that are not dealt yet.
    """

    def __init__(self, groups: Mapping[str, Counts], num_folds: int) -> None:
        self.num_folds = num_folds
        self.load: dict[str, list[int]] = defaultdict(lambda: [0] * num_folds)
        self.total: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        for counts in groups.values():
            self.total.update(counts)
            self.left.update(dict.fromkeys(counts, 1))

    def has_room(self, counts: Counts, fold: int) -> bool:
        """Whether no class of a group gets more than its share in a fold, and groups are left for the empty folds."""
        for name, count in counts.items():
            load = self.load[name]
            if (load[fold] + count) * self.num_folds > self.total[name]:
                return False
            if load[fold] and self.left[name] - 1 < load.count(0):
                return False
        return True

    def fullness(self, counts: Counts, fold: int) -> float:
        """How full a fold is of a group's classes; 1 for each class that has its share there."""
        return sum(self.load[name][fold] * self.num_folds / self.total[name] for name in counts)

    def add(self, counts: Counts, fold: int) -> None:
        """Put a group into a fold."""
        for name, count in counts.items():
            self.load[name][fold] += count
            self.left[name] -= 1


def deal(groups: Mapping[str, Counts], num_folds: int) -> dict[str, int]:
    """Deal groups to folds so that every class is spread evenly.

    Every group ranks the folds by a hash of its name and the fold's number (rendezvous hashing), and gets the best one
    that has room for its share; a class's folds then differ by no more than its largest group, and none is empty if it
    has a group for each. Nothing depends on the order of the groups. What is added moves about as many old groups as it
    brings; other classes' groups move none. Groups of several classes are dealt first; where there are such, both hold
    only nearly.

    Args:
        groups: name -> its clips by class.
        num_folds: at least 1.

    Returns:
        name -> fold, from 0.

    Source: consistent hashing with bounded loads, Mirrokni et al. 2018, arXiv:1608.01350; their bound is a constant
    above 1 times the mean, ours the mean, and what is left over goes where there is least.
    """
    loads = Loads(groups, num_folds)
    fold_of: dict[str, int] = {}
    several = [name for name, counts in groups.items() if len(counts) > 1]
    one = [name for name, counts in groups.items() if len(counts) == 1]
    for names in (several, one):
        rank = {name: [stable_hash(f"fold {fold} {name}") for fold in range(num_folds)] for name in names}
        for _, name, fold in sorted((rank[name][fold], name, fold) for name in names for fold in range(num_folds)):
            if name not in fold_of and loads.has_room(groups[name], fold):
                loads.add(groups[name], fold)
                fold_of[name] = fold
        # The rest fits nowhere in whole: the largest first, each where there is least.
        rest = [name for name in names if name not in fold_of]
        for name in sorted(rest, key=lambda name: (-sum(groups[name].values()), min(rank[name]), name)):
            counts, ranks = groups[name], rank[name]
            fold_of[name] = min(range(num_folds), key=lambda fold: (loads.fullness(counts, fold), ranks[fold]))
            loads.add(counts, fold_of[name])
    return fold_of


def write_folds(corpus: Corpus, path: Path) -> None:
    """Write the clips of a corpus with their folds as a CSV file that `data=manifest` reads back to the same split.

    Columns are `path` (absolute), `label`, or `labels` as JSON lists where clips may have several, `fold`, `start` and
    `duration` in seconds, empty for the beginning and the end of the file. Columns that no clip has are left out.

    Raises:
        OSError: the disk is full or refuses.
    """
    paths = [clip.path if is_address(clip.path) else os.path.abspath(clip.path) for clip in corpus.clips]
    write_atomic(path, _csv(_columns(corpus, paths)))


def split_table(corpus: Corpus) -> tuple[bytes, str]:
    """Return a table of clips and their folds to hand on: what `write_folds` writes, with paths that any copy has.

    Of a dataset in `OWN_COLUMNS` it is these three: the file's name without its ending, the label, the fold.

    Returns:
        CSV, and the folder that its paths begin at; "" where it has no paths.

    Raises:
        ValueError: the corpus has no folds.
    """
    if not corpus.folds:
        raise ValueError(f"{corpus.name}: has no folds, so there is nothing to write")
    base = shared_folder(corpus.clips)
    named = clip_names((clip.path for clip in corpus.clips), base)
    names = [name_of(name) if name.startswith(f"{SCHEME}://") else name for name in named]
    if corpus.name not in OWN_COLUMNS:
        return _csv({name: cells for name, cells in _columns(corpus, names).items() if any(cells)}), base
    own, labels = [Path(name).stem for name in names], [corpus.classes[clip.labels[0]] for clip in corpus.clips]
    columns = dict(zip(OWN_COLUMNS[corpus.name], (own, labels, [clip.fold for clip in corpus.clips]), strict=True))
    return _csv(columns), ""


def _columns(corpus: Corpus, paths: Sequence[str]) -> dict[str, Sequence[str]]:
    columns: dict[str, Sequence[str]] = {"path": paths}
    names = [[corpus.classes[label] for label in clip.labels] for clip in corpus.clips]
    if corpus.multilabel:
        columns["labels"] = [json.dumps(each, ensure_ascii=False) for each in names]
    elif corpus.classes:
        columns["label"] = ["".join(each) for each in names]
    if any(clip.fold for clip in corpus.clips):
        columns["fold"] = [clip.fold for clip in corpus.clips]
    columns["start"] = [repr(clip.start_s) if clip.start_s else "" for clip in corpus.clips]
    columns["duration"] = ["" if clip.duration_s is None else repr(clip.duration_s) for clip in corpus.clips]
    return columns


def _csv(columns: Mapping[str, Sequence[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode("utf-8", "backslashreplace")
