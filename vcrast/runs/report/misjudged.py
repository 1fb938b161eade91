"""Find the test clips that were misjudged with most certainty, and let them be heard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vcrast.data.clip import Clip
from vcrast.runs.record import RunRecord
from vcrast.runs.report.listening import Sound
from vcrast.runs.report.tested import Player, clips_of_fold, name_of

if TYPE_CHECKING:
    from vcrast.runs.report.looked import Look

LONGEST_S = 5.0  # of a clip that is played


@dataclass(frozen=True)
class Mistake:
    """A test clip for which a class that it does not have got a higher score than one that it has.

    Attributes:
        fold: in which it was tested.
        clip: None where the run does not tell it.
        true: its classes.
        taken: the highest class that it does not have.
        score: of `taken`.
        own: the lowest score of its own classes.
        sound: player and picture, if it can be heard.
        look: what spoke for `taken`, if it can be told.
    """

    fold: str
    clip: Clip | None
    true: str
    taken: str
    score: float
    own: float
    sound: Sound | None = None
    look: Look | None = None

    @property
    def name(self) -> str:
        """Of the clip; empty if it is not known."""
        return name_of(self.clip) if self.clip else ""


@dataclass(frozen=True)
class Mistakes:
    """The worst of them, and how many there are among how many test clips."""

    worst: list[Mistake]
    wrong: int
    total: int


def mistakes(record: RunRecord, most: int) -> Mistakes:
    """The clips whose wrong class is furthest above their own one, over all folds.

    Raises:
        ValueError: no fold has scores.
    """
    found: list[tuple[float, str, int]] = []
    total = 0
    for fold, arrays in record.evaluations.items():
        if "scores" in arrays and "labels" in arrays:
            over = margins(arrays["scores"], arrays["labels"])
            total += len(over)
            found += [(float(over[row]), fold, int(row)) for row in np.flatnonzero(over > 0)]
    if not total:
        raise ValueError("no fold's evaluation holds scores: nothing was finetuned")
    found.sort(key=lambda each: (-each[0], each[1], each[2]))
    return Mistakes(list(_described(record, found[:most])), len(found), total)


def heard(found: Sequence[Mistake], player: Player) -> list[Mistake]:
    """The same with sound, as far as it can be read; their players are `wrong-1` and so on."""
    told = []
    for number, each in enumerate(found, start=1):
        sound = player.sound(each.clip, longest_s=LONGEST_S, picture=True) if each.clip else None
        if sound is not None and each.clip is not None:
            player.placed[each.clip.segment] = f"wrong-{number}"
        told.append(replace(each, sound=sound))
    return told


def margins(scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """By how much the highest score of a wrong class is above the lowest of a right one.

    Args:
        scores: (n, C), larger is likelier.
        labels: (n, C) multi-hot.

    Returns:
        (n,), -inf for a clip without a label or with all.
    """
    true = labels > 0
    wrong = np.where(true, -np.inf, scores).max(axis=1)
    right = np.where(true, scores, np.inf).min(axis=1)
    return np.where(true.any(axis=1) & ~true.all(axis=1), wrong - np.where(np.isfinite(right), right, 0), -np.inf)


def _described(record: RunRecord, found: Sequence[tuple[float, str, int]]) -> Iterator[Mistake]:
    clips = {fold: clips_of_fold(record, fold) for fold in {fold for _, fold, _ in found}}
    for _, fold, row in found:
        scores, true = record.evaluations[fold]["scores"][row], record.evaluations[fold]["labels"][row] > 0
        taken = int(np.where(true, -np.inf, scores).argmax())
        yield Mistake(
            fold,
            clips[fold][row] if clips[fold] else None,
            ", ".join(record.classes[number] for number in np.flatnonzero(true)),
            record.classes[taken],
            float(scores[taken]),
            float(np.where(true, scores, np.inf).min()),
        )
