"""EVALUATIONS: the contract of a measure of what a model is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from vcrast.config.metric import Metric
from vcrast.config.registry import EVALUATIONS
from vcrast.evaluation.embedding import Embedded
from vcrast.evaluation.metrics import accuracy, mean_average_precision


class Features(NamedTuple):
    """Embeddings of the frozen encoder, of the training and of the test clips of a fold."""

    train: Embedded
    test: Embedded
    multilabel: bool


class Predictions(NamedTuple):
    """Scores (n, C) in [0, 1] of the finetuned model on the test clips, and their labels (n, C)."""

    score: Tensor
    label: Tensor
    multilabel: bool


class Evaluation(ABC):
    """A measure; registered in EVALUATIONS, its options are its keywords.

    Attributes:
        needs: `Features`, or `Predictions` of the finetuned model; skipped where a run does not have them.
        all_layers: of `Features`: embeddings are (n, L, D), of the embedded patches and of every layer.
        baseline: measured on the untrained encoder, too, under `untrained_` and the metric's name.
        metrics: how each number is shown; one that a dataset does not have (mAP, accuracy) is left out.
    """

    needs: ClassVar[type]
    all_layers: ClassVar[bool] = False
    baseline: ClassVar[bool] = False
    metrics: ClassVar[Mapping[str, Metric]]

    @abstractmethod
    def measure(self, given: Any) -> dict[str, float]:
        """Compute the numbers named in `metrics` from what `needs` says."""

    def described(self) -> dict[str, Metric]:
        """`metrics`, with those of the untrained encoder."""
        found = dict(self.metrics)
        if self.baseline:
            found |= {f"untrained_{name}": untrained(metric) for name, metric in self.metrics.items()}
        return found


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
