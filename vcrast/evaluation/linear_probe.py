"""EVALUATIONS: `linear_probe`, logistic regression on frozen embeddings. Deterministic."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vcrast.config.registry import EVALUATIONS
from vcrast.evaluation.base import Evaluation, Features, probe_metrics, probe_values


@EVALUATIONS.register("linear_probe")
class LinearProbe(Evaluation):
    """Accuracy (mAP where clips have several labels) of a linear classifier on frozen embeddings.

    Args:
        steps: most L-BFGS iterations.
        weight_decay: half of it times the squared weights is added to the mean loss.
    """

    needs = Features
    baseline = True
    metrics = probe_metrics("probe", "linear probe", short="probe")

    def __init__(self, *, steps: int, weight_decay: float) -> None:
        if steps < 1:
            raise ValueError(f"evaluation.linear_probe.steps={steps}: must be 1 or more")
        if weight_decay < 0:
            raise ValueError(f"evaluation.linear_probe.weight_decay={weight_decay}: must not be negative")
        self.steps, self.weight_decay = steps, weight_decay

    def measure(self, given: Features) -> dict[str, float]:
        """See `Evaluation`."""
        train, test, multilabel = given
        logits = linear_probe(
            train.embedding, train.label, test.embedding, multilabel=multilabel, steps=self.steps,
            weight_decay=self.weight_decay,
        )  # fmt: skip
        return probe_values("probe", logits, test.label, multilabel=multilabel)


def linear_probe(
    train: Tensor, train_labels: Tensor, test: Tensor, *, multilabel: bool, steps: int, weight_decay: float
) -> Tensor:
    """Logistic regression on frozen embeddings.

    Features are standardised by the training clips. The problem is convex and starts at zero, so L-BFGS on all clips
    finds the one answer, whatever the seed; in float64, because its line search stalls on fp32 noise.

    Args:
        train: (n, D) embeddings.
        train_labels: (n, C) multi-hot.
        test: (m, D) embeddings.
        multilabel: one logistic regression per class instead of one softmax.
        steps: most L-BFGS iterations.
        weight_decay: half of it times the squared weights is added to the mean loss.

    Returns:
        (m, C) logits.
    """
    mean, std = train.double().mean(dim=0), train.double().std(dim=0).clamp_min(1e-6)
    train, test = (train.double() - mean) / std, (test.double() - mean) / std
    labels = train_labels.to(train)
    weight = torch.zeros(labels.shape[1], train.shape[1], dtype=train.dtype, device=train.device, requires_grad=True)
    bias = torch.zeros(labels.shape[1], dtype=train.dtype, device=train.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, line_search_fn="strong_wolfe", tolerance_grad=1e-7, tolerance_change=1e-12
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(train, weight, bias)
        if multilabel:
            # Summed over classes: each is a problem of its own and must not depend on how many there are.
            loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(dim=1).mean()
        else:
            loss = F.cross_entropy(logits, labels)
        loss = loss + weight_decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return F.linear(test, weight, bias).detach().float()
