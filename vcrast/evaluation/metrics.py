"""Measure predictions (accuracy, mAP, AUC, d') and the collapse of embeddings.

Scores are (n, C), probabilities or logits, labels (n, C) multi-hot. A class that all clips carry, or none, cannot be
ranked: it is NaN of its own and left out of means rather than counted as 1 or 0. What nothing defines is NaN, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Not torchmetrics, the tests' judge: it takes the sigmoid of what lies outside [0, 1], whose rounding ties confident
# logits (an average precision moved by 0.015), counts a class without positives as 0, and takes 3 s to import.


def accuracy(scores: Tensor, classes: Tensor) -> Tensor:
    """Return the share of clips whose highest score (n, C) is at their class (n,); 0-d float64."""
    check_scores(scores)
    return (scores.argmax(dim=1) == classes.to(scores.device)).double().mean()


def class_accuracy(scores: Tensor, classes: Tensor) -> Tensor:
    """Return the accuracy of each class's clips, its recall; (C,) float64, NaN for a class without clips."""
    check_scores(scores)
    own = torch.nn.functional.one_hot(classes.to(scores.device), scores.shape[1]).double()  # (n, C)
    right = (scores.argmax(dim=1) == classes.to(scores.device)).double()
    return (own * right.unsqueeze(1)).sum(dim=0) / own.sum(dim=0)


def balanced_accuracy(scores: Tensor, classes: Tensor) -> Tensor:
    """Return the mean of the classes' accuracies, those without clips left out: each class counts alike; 0-d."""
    return mean_of_defined(class_accuracy(scores, classes))


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the area under each class's precision-recall steps; (C,) float64.

    NaN for a class without positives, and for one without negatives, of which any scores have a precision of 1. Clips
    of equal score are one step: their order in the file must not matter.
    """
    scores, hit = ranked(scores, labels)
    place = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device).unsqueeze(1)
    precision = (hit.cumsum(dim=0) / place).gather(0, last_of_ties(scores))
    found = (hit * precision).sum(dim=0) / hit.sum(dim=0)  # 0 / 0 is the NaN
    return found.masked_fill(hit.all(dim=0), torch.nan)


def mean_average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of the classes' average precision (mAP), those that cannot be ranked left out; 0-d."""
    return mean_of_defined(average_precision(scores, labels))


def class_auc(scores: Tensor, labels: Tensor) -> Tensor:
    """Return each class's area under the ROC curve; (C,) float64, NaN for a class without positives or negatives.

    The chance that a positive clip scores above a negative one, ties counting half (Mann and Whitney).
    """
    scores, hit = ranked(scores.neg(), labels)  # ranks count from the lowest score
    last = last_of_ties(scores).double()
    first = len(scores) - 1 - last_of_ties(scores.flip(0)).flip(0).double()
    rank = (first + last) / 2 + 1
    positives = hit.sum(dim=0)
    negatives = len(scores) - positives
    return ((hit * rank).sum(dim=0) - positives * (positives + 1) / 2) / (positives * negatives)


def auc(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of the classes' areas under the ROC curve (macro AUC); 0-d."""
    return mean_of_defined(class_auc(scores, labels))


def d_prime(scores: Tensor, labels: Tensor) -> Tensor:
    """Return d', sqrt(2) probit(macro AUC): the separation of positives and negatives in standard deviations; 0-d."""
    return d_prime_of(auc(scores, labels))


def d_prime_of(area: Tensor) -> Tensor:
    """Return d', the distance of two Gaussians of unit variance whose AUC is `area` (any shape); infinite at 1."""
    return 2**0.5 * torch.special.ndtri(area)


def embedding_std(embeddings: Tensor) -> Tensor:
    """Return the mean over dimensions of the unbiased std over clips of (n, D); 0 means all clips look alike."""
    return embeddings.double().std(dim=0).mean()


def effective_rank(embeddings: Tensor) -> Tensor:
    """Return RankMe of (n, D): exp of the entropy of the singular values, from 1 to min(n, D); 0 if all are 0.

    Not centred, as in the source: a constant embedding has rank 1.

    Source: Garrido et al. 2023, arXiv:2210.02885.
    """
    return entropy_rank(torch.linalg.svdvals(embeddings.double()))


def entropy_rank(values: Tensor) -> Tensor:
    """Return exp of the entropy of the shares of values (k,) >= 0: k if all are equal, 0 if all are 0; 0-d.

    The sources add 1e-7 to each share, so that its logarithm exists; 0 log 0 is 0 here.
    """
    if not values.sum() > 0:
        return values.new_zeros(())
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp()


def mean_of_defined(values: Tensor) -> Tensor:
    """Return the mean (0-d) of the values (C,) that are defined; NaN if none is."""
    return values[~values.isnan()].mean()


def ranked(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sort each column's scores, highest first, and the labels with them as float64; both (n, C)."""
    check_scores(scores)
    if scores.shape != labels.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)} must both be (clips, classes)")
    scores, order = scores.sort(dim=0, descending=True)
    return scores, labels.to(scores.device).gather(0, order).double()


def last_of_ties(ranked_scores: Tensor) -> Tensor:
    """Find, for each place of sorted columns (n, C), the last place of equal score; (n, C) int64."""
    num_clips = len(ranked_scores)
    place = torch.arange(num_clips, device=ranked_scores.device).unsqueeze(1).expand_as(ranked_scores)
    is_last = torch.ones_like(ranked_scores, dtype=torch.bool)
    is_last[:-1] = ranked_scores[:-1] != ranked_scores[1:]
    return place.masked_fill(~is_last, num_clips).flip(0).cummin(dim=0).values.flip(0)


def check_scores(scores: Tensor) -> None:
    """Refuse scores that cannot be compared: a NaN would pass through a sort unnoticed.

    Raises:
        ValueError: there are NaN.
    """
    if scores.isnan().any():
        raise ValueError(f"{int(scores.isnan().any(dim=1).sum())} of {len(scores)} clips have NaN scores")
