"""EVALUATIONS: `classifier`, the finetuned model on the test clips."""

from __future__ import annotations

from torch import Tensor

from vcrast.config.metric import Metric
from vcrast.config.registry import EVALUATIONS
from vcrast.evaluation.base import Evaluation, Predictions
from vcrast.evaluation.metrics import accuracy, auc, d_prime, mean_average_precision


@EVALUATIONS.register("classifier")
class Classifier(Evaluation):
    """Accuracy (of single-label clips), macro mAP, macro AUC and d-prime of the finetuned model."""

    needs = Predictions
    metrics = {  # noqa: RUF012 - a class constant, as `Evaluation` declares it
        "accuracy": Metric("Accuracy, finetuned", "percent", "higher", "finetuned", headline="finetuned"),
        "mAP": Metric("mAP, finetuned", "fixed", "higher", "mAP", headline="finetuned"),
        "auc": Metric("AUC, finetuned", "fixed", "higher"),
        "d_prime": Metric("d\u2032, finetuned", "fixed", "higher"),
    }

    def measure(self, given: Predictions) -> dict[str, float]:
        """See `Evaluation`."""
        return classification_metrics(*given[:2], multilabel=given.multilabel)


def classification_metrics(score: Tensor, label: Tensor, *, multilabel: bool) -> dict[str, float]:
    """Accuracy (single-label only), macro mAP, macro AUC and d-prime of scores (n, C) against labels (n, C)."""
    values = {
        "mAP": float(mean_average_precision(score, label)),
        "auc": float(auc(score, label)),
        "d_prime": float(d_prime(score, label)),
    }
    return values if multilabel else {"accuracy": float(accuracy(score, label.argmax(dim=1))), **values}
