"""What frozen embeddings know: nearest neighbours and a linear classifier on top. Deterministic."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def knn_predict(
    train: Tensor, train_labels: Tensor, test: Tensor, *, k: int, temperature: float, chunk: int = 1024
) -> Tensor:
    """Votes of the nearest training clips.

    Args:
        train: (n, D) embeddings.
        train_labels: (n, C) multi-hot.
        test: (m, D) embeddings.
        k: neighbours that vote, by cosine similarity.
        temperature: a neighbour of similarity s votes with weight exp(s / temperature).
        chunk: test clips compared at once.

    Returns:
        (m, C) shares of the votes, in [0, 1].

    Raises:
        ValueError: more neighbours than training clips, or a temperature that is not positive.

    Source: Caron et al. 2021, arXiv:2104.14294 (DINO), App. and code.
    """
    if not 1 <= k <= len(train):
        raise ValueError(f"evaluate.knn_k={k}: must lie between 1 and the {len(train)} training clips")
    if not temperature > 0:
        raise ValueError(f"evaluate.knn_temperature={temperature}: must be above 0")
    train, test = (F.normalize(x.float(), dim=1) for x in (train, test))
    labels = train_labels.to(train)
    votes = []
    for part in test.split(chunk):
        similarity, nearest = (part @ train.T).topk(k, dim=1)
        weights = (similarity / temperature).softmax(dim=1)  # exp(s / T) over its sum; exp alone could overflow
        votes.append(torch.einsum("mk,mkc->mc", weights, labels[nearest]))
    return torch.cat(votes)


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
