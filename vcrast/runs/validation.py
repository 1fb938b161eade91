"""Choose the best weights of a training by clips that are held out of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vcrast.config.schema import FinetuneConfig
from vcrast.config.words import suggest
from vcrast.data.clip import Clip
from vcrast.data.clips import Clips
from vcrast.data.corpus import TRAIN, Corpus
from vcrast.data.holdout import hold_out
from vcrast.evaluation.classifier import classification_metrics
from vcrast.training.average import Weights

log = logging.getLogger(__name__)

METRICS = {False: ("accuracy", "balanced_accuracy", "mAP", "auc"), True: ("mAP", "auc")}
"""Whether clips may have several labels -> what may be chosen by; higher is better, the first is usual."""


class Validation:
    """The best value so far, its weights, and how long ago it was.

    Args:
        metric: one of `METRICS`.
        patience: evaluations without a better value before the training is over; None never ends it.

    Attributes:
        best: the value; None before the first that is a number.
        best_step: after how many steps.
        since: evaluations without a better one.
        weights: of the best value, on the CPU.
    """

    def __init__(self, metric: str, patience: int | None) -> None:
        self.metric, self.patience = metric, patience
        self.best: float | None = None
        self.best_step, self.since = 0, 0
        self.weights: Weights | None = None

    def note(self, step: int, value: float, weights: Callable[[], Weights]) -> None:
        """Take the value after `step` steps, alike on all processes; NaN is no better than anything."""
        self.since += 1
        if self.best is None or value > self.best:
            if value == value:
                self.best, self.best_step, self.since = value, step, 0
            self.weights = {name: tensor.cpu() for name, tensor in weights().items()}

    @property
    def over(self) -> bool:
        """Whether the patience is at its end."""
        return self.patience is not None and self.since >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers."""
        return {"best": self.best, "best_step": self.best_step, "since": self.since, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.best, self.best_step, self.since = state["best"], state["best_step"], state["since"]
        self.weights = state["weights"]


def measure(score: Any, label: Any, *, metric: str, multilabel: bool) -> float:
    """The metric of scores (n, C) against labels (n, C); NaN where the clips do not define it."""
    try:
        return classification_metrics(score, label, multilabel=multilabel)[metric]
    except ValueError as error:  # NaN scores
        log.warning("%s on the validation clips is undefined: %s", metric, error)
        return float("nan")


def metric_of(options: FinetuneConfig, *, multilabel: bool) -> str:
    """The metric that is chosen by.

    Raises:
        ValueError: one that does not exist, or not for such clips.
    """
    asked, names = options.validation.metric, METRICS[multilabel]
    if asked is None:
        return names[0]
    if asked not in names:
        raise ValueError(f"finetune.validation.metric={asked}: {suggest(str(asked), names)}")
    return str(asked)


def check_validation(options: FinetuneConfig, corpus: Corpus, folds: Sequence[str]) -> None:
    """Refuse settings that cannot work with this data, before the first step.

    Raises:
        ValueError: names the setting.
    """
    asked = options.validation
    if asked.clips is None:
        if asked.metric is not None or asked.patience is not None:
            name = "metric" if asked.metric is not None else "patience"
            raise ValueError(f"finetune.validation.{name}: without effect, finetune.validation.clips holds none out")
        return
    metric_of(options, multilabel=corpus.multilabel)
    for fold in folds:
        train = corpus.split(fold)[0]
        learnt, held = split_off(train, options, corpus, seed=0)
        if not held:
            raise ValueError(
                f"finetune.validation.clips={asked.clips}: no clip of fold {fold} can be held out; every class needs "
                "two recordings or more"
            )
        if len(learnt) < options.batch_size:
            raise ValueError(
                f"finetune.validation.clips={asked.clips}: leaves {len(learnt)} clips of fold {fold} to train on, "
                f"fewer than finetune.batch_size={options.batch_size}"
            )


def split_off(
    train: Sequence[Clip], options: FinetuneConfig, corpus: Corpus, *, seed: int
) -> tuple[Sequence[int], list[int] | Clips]:
    """Places of the training clips that stay, and what is held out: places of training clips, or clips of a split.

    Raises:
        ValueError: `finetune.validation.clips` is neither a share nor a split that nothing is trained on.
    """
    asked = options.validation.clips
    if isinstance(asked, int | float) and not isinstance(asked, bool):
        held = set(hold_out(train, float(asked), seed=seed))
        return [place for place in range(len(train)) if place not in held], sorted(held)
    fixed = TRAIN in corpus.table.folds
    if not fixed or asked not in corpus.folds:
        splits = [name for name in corpus.folds if fixed]
        choices = f"a share such as 0.1{', or ' + ', '.join(splits) if splits else ''}"
        raise ValueError(f"finetune.validation.clips={asked}: {corpus.name} has no such split; give {choices}")
    return range(len(train)), corpus.table.take(corpus.table.in_fold(asked).nonzero()[0])
