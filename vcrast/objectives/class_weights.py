"""Weigh classes in a loss (`class_weights`): rare ones more, or as a mapping says."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from vcrast.config.words import suggest
from vcrast.objectives.base import Task

MAX_RATIO = 100.0
"""Most that a positive label weighs in relation to a negative one: a class of 1 clip in 10,000 must not be all."""


def class_weights(option: str | Mapping[str, float] | None, task: Task) -> tuple[Tensor, Tensor] | None:
    """What each class's labels weigh.

    Args:
        option: None, `balanced`, or weights by the names of classes, those of all others being 1.
        task: names of the classes and counts of their training clips; without them, as where settings are checked
            without data, all weights are 1.

    Returns:
        (C,) weights of positive labels and (C,) of negative ones, in fp32; None if all are 1. Of clips with one label
        only the positive ones count. `balanced` weighs n / (K n_c), with n training clips, n_c of the class and K
        classes that have any; where a clip may have several labels, n / (2 n_c) and n / (2 (n - n_c)), their ratio at
        most `MAX_RATIO`. Their mean over the training labels is 1, so that the loss keeps its scale.

    Raises:
        ValueError: another word, an unknown class, or a weight that is negative or not finite.

    Source: the weights are those of scikit-learn's `compute_class_weight("balanced")`.
    """
    if option is None:
        return None
    if isinstance(option, Mapping):
        return given_weights(option, task)
    if option != "balanced":
        raise ValueError(
            f"class_weights={option}: choose balanced, null, or a mapping of class names such as '{{dog: 2.0}}'"
        )
    if not task.class_clips:
        return torch.ones(task.num_classes), torch.ones(task.num_classes)
    positive = torch.tensor(task.class_clips, dtype=torch.float64)
    total, ones = task.num_clips, torch.ones_like(positive)
    if not task.multilabel:
        present = positive > 0
        weights = torch.where(present, total / (present.sum() * positive), ones)
        return weights.float(), ones.float()
    ratio = ((total - positive) / positive).clamp(max=MAX_RATIO)
    known = (positive > 0) & (positive < total)
    ratio = torch.where(known, ratio, ones)
    negative = torch.where(known, total / (positive * ratio + (total - positive)), ones)
    return (ratio * negative).float(), negative.float()


def given_weights(option: Mapping[str, float], task: Task) -> tuple[Tensor, Tensor]:
    """Weights by the names of classes; arguments, result and errors as in `class_weights`."""
    weights = torch.ones(task.num_classes)
    places = {name: number for number, name in enumerate(task.classes)}
    for name, value in option.items():
        if places and str(name) not in places:
            raise ValueError(f"class_weights: no class {name!r} in this data; {suggest(str(name), places)}")
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"class_weights: {name}={value}: must be 0 or more, and finite")
        if places:
            weights[places[str(name)]] = value
    return weights, torch.ones(task.num_classes)
