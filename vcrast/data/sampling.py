"""Count the clips of each class, and draw classes equally often (`finetune.sampling`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from vcrast.config.words import suggest
from vcrast.data.clip import Clip

SAMPLINGS = ("uniform", "balanced")


def class_clips(clips: Sequence[Clip], num_classes: int) -> tuple[int, ...]:
    """Count the clips that carry each class: `num_classes` numbers."""
    counts = Counter(label for clip in clips for label in clip.labels)
    return tuple(counts[number] for number in range(num_classes))


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
    counts = Counter(label for clip in clips for label in clip.labels or (None,))
    chances = [sum(1 / counts[label] for label in clip.labels or (None,)) for clip in clips]
    return torch.tensor(chances, dtype=torch.float64) / len(counts)


def check_sampling(sampling: str) -> None:
    """Refuse another name than those of `SAMPLINGS`.

    Raises:
        ValueError: names the setting.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"finetune.sampling={sampling}: {suggest(sampling, SAMPLINGS)}")
