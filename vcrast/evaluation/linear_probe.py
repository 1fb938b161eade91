"""EVALUATIONS: `linear_probe`, logistic regression on frozen embeddings. Deterministic."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcrast.config.registry import EVALUATIONS
from vcrast.evaluation.base import Evaluation, Features, probe_metrics, probe_values


@EVALUATIONS.register("linear_probe")
class LinearProbe(Evaluation):
    """Accuracy (mAP where clips have several labels) of a linear classifier on frozen embeddings.

    Args:
        steps: most L-BFGS iterations.
        weight_decay: half of it times the squared weights is added to the mean loss.
        export: also hand on the probe, to be exported with the encoder as a model of its own.
    """

    needs = Features
    baseline = True
    metrics = probe_metrics("probe", "linear probe", short="probe")

    def __init__(self, *, steps: int, weight_decay: float, export: bool) -> None:
        if steps < 1:
            raise ValueError(f"evaluation.linear_probe.steps={steps}: must be 1 or more")
        if weight_decay < 0:
            raise ValueError(f"evaluation.linear_probe.weight_decay={weight_decay}: must not be negative")
        self.steps, self.weight_decay, self.export = steps, weight_decay, export
        self.head: nn.Linear | None = None

    def measure(self, given: Features) -> dict[str, float]:
        """See `Evaluation`."""
        train, test, multilabel = given
        self.head = fit_linear(
            train.embedding, train.label, multilabel=multilabel, steps=self.steps, weight_decay=self.weight_decay
        )
        self.score = logits_of(self.head, test.embedding)
        return probe_values("probe", self.score, test.label, multilabel=multilabel)

    def heads(self) -> dict[str, nn.Module]:
        """The probe itself, which makes a model of the frozen encoder."""
        return {"probe": copy.deepcopy(self.head).float()} if self.export and self.head is not None else {}


def logits_of(head: nn.Linear, embedding: Tensor) -> Tensor:
    """(n, D) embeddings -> (n, C) logits in fp32, computed in the precision of the head."""
    with torch.no_grad():
        found: Tensor = head(embedding.to(head.weight))
    return found.float()


def fit_linear(train: Tensor, train_labels: Tensor, *, multilabel: bool, steps: int, weight_decay: float) -> nn.Linear:
    """Fit logistic regression on frozen embeddings.

    Features are standardised by the training clips. The problem is convex and starts at zero, so L-BFGS on all clips
    finds the one answer, whatever the seed; in float64, because its line search stalls on fp32 noise.

    Args:
        train: (n, D) embeddings.
        train_labels: (n, C) multi-hot.
        multilabel: one logistic regression per class instead of one softmax.
        steps: most L-BFGS iterations.
        weight_decay: half of it times the squared weights is added to the mean loss.

    Returns:
        The layer from embeddings as they are, the standardisation inside it, to logits; float64.
    """
    train = train.double()
    mean, spread = train.mean(dim=0), train.std(dim=0) if len(train) > 1 else torch.zeros_like(train[0])
    std = spread.clamp_min(1e-6)
    train = (train - mean) / std
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
    head = nn.Linear(len(mean), labels.shape[1], dtype=weight.dtype, device=weight.device).requires_grad_(False)
    head.weight.copy_(weight.detach() / std)
    head.bias.copy_(bias.detach() - head.weight @ mean)
    return head
