"""Count the clips of each class, and draw classes equally often (`finetune.sampling`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vcrast.config.words import suggest
from vcrast.data.clip import Clip
from vcrast.data.clips import Clips

SAMPLINGS = ("uniform", "balanced")


def class_clips(clips: Sequence[Clip], num_classes: int) -> tuple[int, ...]:
    """Count the clips that carry each class: `num_classes` numbers."""
    labels, _ = Clips.of(clips).labels()
    return tuple(np.bincount(labels, minlength=num_classes)[:num_classes].tolist())


def sampling_chances(clips: Sequence[Clip], sampling: str) -> Tensor | None:
    """Tell with which chance each clip is drawn for a place in an epoch.

    `balanced` draws a class first, all that have clips alike, then one of its clips: a clip's chance is the sum over
    its labels of 1 / (classes x clips of that class). Clips without any label are a class of their own.

    Returns:
        (n,) float64 that add up to 1; None for `uniform`, which takes every clip once.

    Raises:
        ValueError: no such sampling.
    """
    check_sampling(sampling)
    if sampling == "uniform":
        return None
    labels, counts = Clips.of(clips).labels()
    clips_of = np.bincount(labels, minlength=1).astype(np.float64)
    owner = np.repeat(np.arange(len(counts)), counts)
    chances = np.bincount(owner, weights=1 / clips_of[labels], minlength=len(counts)).astype(np.float64)
    without = counts == 0
    chances[without] = 1 / max(1, without.sum())
    return torch.from_numpy(chances / (np.count_nonzero(clips_of) + without.any()))


def check_sampling(sampling: str) -> None:
    """Refuse another name than those of `SAMPLINGS`.

    Raises:
        ValueError: names the setting.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"finetune.sampling={sampling}: {suggest(sampling, SAMPLINGS)}")
