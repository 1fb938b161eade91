"""Pair runs clip by clip: which of the same test clips does each classify rightly."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from vcrast.evaluation.base import RIGHT

log = logging.getLogger(__name__)

Clip = tuple[str, int]
"""A fold, and the number of a test clip in it."""


@dataclass(frozen=True)
class Estimate:
    """A mean with what is known of its scatter.

    Attributes:
        mean: over the runs, or of differences over the seeds.
        error: standard deviation over the runs, or standard error of a mean difference; None with fewer than two.
        count: of runs, or of the seeds or test clips that both variants have.
    """

    mean: float
    error: float | None
    count: int


def right_clips(folder: Path, name: str, folds: Iterable[str]) -> dict[Clip, float]:
    """1 or 0 of every test clip: whether the evaluation whose mean is `name` has classified it rightly.

    Empty where a fold has none: clips with several labels, or a run of an earlier version.
    """
    found: dict[Clip, float] = {}
    for fold in folds:
        path = folder / "evaluation" / f"fold_{fold}.safetensors"
        try:
            with safe_open(path, framework="np") as file:
                if f"{RIGHT}{name}" not in file.keys():  # noqa: SIM118 - no mapping
                    return {}
                values, index = file.get_tensor(f"{RIGHT}{name}"), file.get_tensor("index")
        except (OSError, SafetensorError) as error:
            log.info("%s: not read (%s)", path, error)
            return {}
        found |= {(fold, int(place)): float(value) for place, value in zip(index, values, strict=True)}
    return found


def difference_by_clip(
    own: Mapping[int, Mapping[Clip, float]], other: Mapping[int, Mapping[Clip, float]]
) -> Estimate | None:
    """By how much one is right more often, and the standard error over the test clips.

    A clip's difference is the mean over the common seeds. None without one, or where other clips were tested.

    Args:
        own: by seed, see `right_clips`.
        other: likewise.
    """
    seeds = [seed for seed in own if seed in other]
    clips = list(own[seeds[0]]) if seeds else []
    if not clips or any(each[seed].keys() != set(clips) for each in (own, other) for seed in seeds):
        return None
    found = np.mean([[own[seed][clip] - other[seed][clip] for clip in clips] for seed in seeds], axis=0)
    error = float(found.std(ddof=1)) / math.sqrt(len(found)) if len(found) > 1 else None
    return Estimate(float(found.mean()), error, len(found))
