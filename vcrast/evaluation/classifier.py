"""EVALUATIONS: `classifier`, the finetuned model on the test clips."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from vcrast.config.metric import Metric
from vcrast.config.registry import EVALUATIONS
from vcrast.evaluation.base import ByClass, Evaluation, Predictions
from vcrast.evaluation.metrics import (
    accuracy,
    auc,
    average_precision,
    balanced_accuracy,
    class_accuracy,
    class_auc,
    d_prime_of,
    mean_average_precision,
)


@EVALUATIONS.register("classifier")
class Classifier(Evaluation):
    """Accuracy and balanced accuracy (of single-label clips), macro mAP, macro AUC and d-prime of the finetuned model.

    `summary.json` holds the accuracy and AUC of each class, too, or its average precision and AUC where a clip may have
    several labels, and the number of its test clips.
    """

    needs = Predictions
    metrics = {  # noqa: RUF012 - a class constant, as `Evaluation` declares it
        "accuracy": Metric("Accuracy, finetuned", "percent", "higher", "finetuned", headline="finetuned"),
        "balanced_accuracy": Metric("Balanced accuracy, finetuned", "percent", "higher", "balanced"),
        "mAP": Metric("mAP, finetuned", "fixed", "higher", "mAP", headline="finetuned"),
        "auc": Metric("AUC, finetuned", "fixed", "higher"),
        "d_prime": Metric("d\u2032, finetuned", "fixed", "higher"),
    }

    def measure(self, given: Predictions) -> dict[str, float]:
        """See `Evaluation`."""
        self.score = given.score
        return classification_metrics(*given[:2], multilabel=given.multilabel)

    def why(self, name: str, value: float, given: Predictions, classes: Sequence[str]) -> str:
        """See `Evaluation`."""
        if name == "d_prime" and math.isinf(value):
            return f"the AUC is {int(value > 0)}, at which d-prime is infinite"
        return super().why(name, value, given, classes)

    def by_class(self, given: Predictions, classes: Sequence[str]) -> ByClass:
        """See `Evaluation`."""
        score, label, multilabel = given
        columns = {"class_auc": class_auc(score, label), "class_clips": label.sum(dim=0).long()}
        if multilabel:
            columns["class_AP"] = average_precision(score, label)
        else:
            columns["class_accuracy"] = class_accuracy(score, label.argmax(dim=1))
        return {name: by_name(column, classes) for name, column in sorted(columns.items())}


def by_name(values: Tensor, classes: Sequence[str]) -> dict[str, float | None]:
    """Name the values (C,) of classes; None where one is NaN."""
    plain = [None if math.isnan(value) else value for value in values.tolist()]
    return dict(zip(classes, plain, strict=True))


def classification_metrics(score: Tensor, label: Tensor, *, multilabel: bool) -> dict[str, float]:
    """Macro mAP, macro AUC and d-prime of scores (n, C) against labels (n, C).

    Accuracy and balanced accuracy come first where each clip has one label.
    """
    area = auc(score, label)
    values = {
        "mAP": float(mean_average_precision(score, label)),
        "auc": float(area),
        "d_prime": float(d_prime_of(area)),
    }
    if multilabel:
        return values
    classes = label.argmax(dim=1)
    right = {"accuracy": accuracy(score, classes), "balanced_accuracy": balanced_accuracy(score, classes)}
    return {**{name: float(value) for name, value in right.items()}, **values}
