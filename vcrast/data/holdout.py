"""Hold out a part of the training clips, to choose the best weights of a training on."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import PurePath

from vcrast.data.clip import Clip
from vcrast.data.folding import deal
from vcrast.data.grouping import Named, group_files

PARTS = 20  # the finest share: a twentieth


def hold_out(clips: Sequence[Clip], share: float, *, seed: int) -> list[int]:
    """Choose clips to hold out: about as many of every class, recordings whole, none of a class with one recording.

    Clips of one file are one recording, and files whose names say so, as folds that are made of folders have it
    (`group_files`).

    Args:
        clips: of the training part.
        share: of them, in (0, 1); rounded to twentieths or simpler fractions.
        seed: other seeds hold out others.

    Returns:
        Their places, ascending; they depend on the clips and the seed alone.

    Raises:
        ValueError: a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"finetune.validation.clips={share}: a share of the training clips must lie between 0 and 1")
    part = max(Fraction(share).limit_denominator(PARTS), Fraction(1, PARTS))
    part = min(part, Fraction(PARTS - 1, PARTS))
    names = [f"{seed} {name}" for name in recordings(clips)]
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for name, clip in zip(names, clips, strict=True):
        groups[name].update(map(str, clip.labels or (-1,)))
    fold_of = deal(groups, part.denominator)
    held = {name for name in groups if fold_of[name] < part.numerator}
    left = Counter(label for name in groups if name not in held for label in groups[name])
    for name in sorted(held):
        if any(not left[label] for label in groups[name]):  # nothing of the class would be trained on
            held.discard(name)
            left.update(groups[name].keys())
    return [place for place, name in enumerate(names) if name in held]


def recordings(clips: Sequence[Clip]) -> list[str]:
    """Name the recording of every clip, in order, as far as paths tell."""
    paths = dict.fromkeys(clip.path for clip in clips)
    label = {clip.path: str(clip.labels[0]) if clip.labels else "" for clip in reversed(clips)}
    files = [Named(unicodedata.normalize("NFC", path), label[path], PurePath(path).parts[-2:-1]) for path in paths]
    group_of = dict(zip(paths, group_files(files, "auto", num_folds=2).names, strict=True))
    return [group_of[clip.path] for clip in clips]
