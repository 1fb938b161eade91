"""EVALUATIONS: the contract of a measure of what a model is worth."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from vcrast.config.metric import Metric
from vcrast.config.registry import EVALUATIONS
from vcrast.evaluation.embedding import Embedded, Form
from vcrast.evaluation.metrics import accuracy, mean_average_precision

T = TypeVar("T")


class Features(NamedTuple):
    """Embeddings of the frozen encoder, of the training and of the test clips of a fold."""

    train: Embedded
    test: Embedded
    multilabel: bool


class ViewedFeatures(NamedTuple):
    """The same, and vectors of random views of training clips.

    Attributes:
        views: called with a number of clips and of pairs of views, gives (n, 2 pairs, D): of that many training clips,
            or all if there are fewer, drawn once for the fold, the views that pretraining makes of them. Equal in every
            call, on every machine and any number of processes.
    """

    train: Embedded
    test: Embedded
    multilabel: bool
    views: Callable[[int, int], Tensor]


class Predictions(NamedTuple):
    """Scores (n, C) in [0, 1] of the finetuned model on the test clips, and their labels (n, C)."""

    score: Tensor
    label: Tensor
    multilabel: bool


RIGHT = "right/"
"""Begins the names of `Evaluation.right` in the file of a fold."""

ByClass = dict[str, dict[str, float | None]]
"""Name of a number -> class, or number of a layer -> its value, None where it is undefined."""


class Evaluation(ABC):
    """A measure; registered in EVALUATIONS, its options are its keywords.

    Attributes:
        needs: `Features`, `ViewedFeatures`, or `Predictions` of the finetuned model; skipped where a run does not have
            them.
        form: of the features, see `Embedder.fresh`.
        baseline: measured on the untrained encoder, too, under `untrained_` and the metric's name.
        metrics: how each number is shown; one that a dataset does not have (mAP, accuracy) is left out.
        score: (n, C) of the test clips, by the last `measure`; None of one that classifies no clip.
    """

    needs: ClassVar[type]
    score: Tensor | None = None
    form: Form = "vectors"
    baseline: ClassVar[bool] = False
    metrics: ClassVar[Mapping[str, Metric]]

    @abstractmethod
    def measure(self, given: Any) -> dict[str, float]:
        """Compute the numbers named in `metrics` from what `needs` says; NaN where one is undefined."""

    def why(self, name: str, value: float, given: Any, classes: Sequence[str]) -> str:  # noqa: ARG002 - for others
        """Say why a number of `measure` is not finite, for the readers of the results."""
        return why_unranked(given.label if isinstance(given, Predictions) else given.test.label, classes)

    def by_class(self, given: Any, classes: Sequence[str]) -> ByClass:  # noqa: ARG002 - none by default
        """Compute numbers of single classes, or layers: kept in `summary.json` and shown in no table."""
        return {}

    def right(self, given: Any) -> dict[str, Tensor]:
        """Tell which test clips the last `measure` has classified rightly, for comparisons clip by clip.

        Returns:
            By the name of the accuracy, (n,) uint8; nothing where clips have several labels.
        """
        label = given.label if isinstance(given, Predictions) else given.test.label
        names = [name for name in self.metrics if name.rpartition("_")[2] == "accuracy"]
        if self.score is None or given.multilabel or not names:
            return {}
        return {names[0]: (self.score.argmax(dim=1) == label.argmax(dim=1)).to(torch.uint8)}

    def heads(self) -> Mapping[str, nn.Module]:
        """Give the classifiers on the frozen clip vector that the last `measure` has fitted.

        Returns:
            By the stage under which each is exported with the encoder, one of `vcrast.models.export.STAGES`.
        """
        return {}

    def described(self) -> dict[str, Metric]:
        """`metrics`, with those of the untrained encoder."""
        found = dict(self.metrics)
        if self.baseline:
            found |= before({name: untrained(metric) for name, metric in self.metrics.items()})
        return found


class Measured(NamedTuple):
    """What evaluations found.

    Attributes:
        right: see `Evaluation.right`.
        values: by name; NaN or infinite where undefined.
        by_class: see `Evaluation.by_class`.
        undefined: name of each number that is not finite -> why.
    """

    values: dict[str, float]
    by_class: ByClass
    undefined: dict[str, str]
    right: Mapping[str, Tensor] = MappingProxyType({})

    def joined(self, other: Measured) -> Measured:
        """Both together."""
        return Measured(
            self.values | other.values, self.by_class | other.by_class, self.undefined | other.undefined,
            {**self.right, **other.right},
        )  # fmt: skip

    def of_untrained(self) -> Measured:
        """The same numbers as those of an untrained encoder."""
        return Measured(before(self.values), before(self.by_class), before(self.undefined), before(self.right))


def before(numbers: Mapping[str, T]) -> dict[str, T]:
    """Numbers, or what is told of them, under the names that they have of an untrained encoder."""
    return {f"untrained_{name}": value for name, value in numbers.items()}


NOTHING = Measured({}, {}, {})


def measured(evaluation: Evaluation, given: Any, classes: Sequence[str]) -> Measured:
    """Measure, and say of every number that is not finite why.

    An evaluation that refuses what it is given (NaN scores, one class) leaves all its numbers undefined: what it cost
    hours to learn must not be lost with them.
    """
    try:
        if isinstance(given, Features | ViewedFeatures) and not len(given.test.index):
            raise ValueError(why_unranked(given.test.label, classes))
        values, by_class = evaluation.measure(given), evaluation.by_class(given, classes)
    except (ValueError, ArithmeticError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Measured(dict.fromkeys(evaluation.metrics, math.nan), {}, dict.fromkeys(evaluation.metrics, reason))
    undefined = {
        name: evaluation.why(name, value, given, classes) for name, value in values.items() if not math.isfinite(value)
    }
    return Measured(values, by_class, undefined, evaluation.right(given))


def undefined_lines(undefined: Mapping[str, str]) -> list[str]:
    """Join numbers that are undefined for the same reason, a line a reason: `mAP, auc undefined: ...`."""
    names: dict[str, list[str]] = {}
    for name, reason in undefined.items():
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(own)} undefined: {reason}" for reason, own in names.items()]


def why_unranked(label: Tensor, classes: Sequence[str]) -> str:
    """Say why clips with these labels (n, C) cannot be ranked, or measured at all."""
    count = len(label)
    if count == 0:
        return "none of the test clips could be read"
    carried = label.sum(dim=0)
    if not carried.any():
        return f"none of the {count} test clips has a label"
    everywhere = [classes[number] for number in (carried == count).nonzero().flatten().tolist()]
    if count == 1:
        return f"there is only one test clip ({', '.join(everywhere)})"
    if len(everywhere) == 1 and int((carried > 0).sum()) == 1:
        return f"all {count} test clips are of class {everywhere[0]}"
    return f"no class is carried by some of the {count} test clips and not by others"


def untrained(metric: Metric) -> Metric:
    """How the number of an untrained encoder is shown."""
    short = None if metric.short is None else f"untrained {metric.short}"
    return metric._replace(label=f"{metric.label}, untrained", short=short, headline=None)


def build_evaluations(options: Mapping[str, Mapping[str, Any]]) -> dict[str, Evaluation]:
    """Build what `evaluation=[...]` names; errors as in `Registry.build`."""
    return {name: EVALUATIONS.build({"name": name, **own}) for name, own in options.items()}


def probe_metrics(name: str, what: str, *, short: str) -> dict[str, Metric]:
    """Describe what a probe of frozen features gives: `<name>_accuracy`, or `<name>_mAP` of clips with many labels."""
    return {
        f"{name}_accuracy": Metric(f"Accuracy, {what}", "percent", "higher", short, headline=name),
        f"{name}_mAP": Metric(f"mAP, {what}", "fixed", "higher", f"{short} mAP", headline=name),
    }


def probe_values(name: str, score: Tensor, label: Tensor, *, multilabel: bool) -> dict[str, float]:
    """Accuracy, or mAP where a clip may have several labels, of scores (n, C) against labels (n, C)."""
    if multilabel:
        return {f"{name}_mAP": float(mean_average_precision(score, label))}
    return {f"{name}_accuracy": float(accuracy(score, label.argmax(dim=1)))}
