"""EVALUATIONS: `knn`, nearest neighbours of frozen embeddings by cosine similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vcrast.config.registry import EVALUATIONS
from vcrast.evaluation.base import Evaluation, Features, probe_metrics, probe_values


@EVALUATIONS.register("knn")
class NearestNeighbours(Evaluation):
    """Accuracy (mAP where clips have several labels) of the votes of the nearest training clips.

    Args:
        k: neighbours that vote; as many as there are where there are fewer.
        temperature: of their weights.
    """

    needs = Features
    baseline = True
    metrics = probe_metrics("knn", "nearest neighbours", short="kNN")

    def __init__(self, *, k: int, temperature: float) -> None:
        check_neighbours("knn", k, temperature)
        self.k, self.temperature = k, temperature

    def measure(self, given: Features) -> dict[str, float]:
        """See `Evaluation`."""
        train, test, multilabel = given
        k = min(self.k, len(train.label))
        self.score = knn_predict(train.embedding, train.label, test.embedding, k=k, temperature=self.temperature)
        return probe_values("knn", self.score, test.label, multilabel=multilabel)


def check_neighbours(name: str, k: int, temperature: float) -> None:
    """Refuse options of the evaluation `name` out of their range.

    Raises:
        ValueError: names the setting.
    """
    if k < 1:
        raise ValueError(f"evaluation.{name}.k={k}: must be 1 or more")
    if not temperature > 0:
        raise ValueError(f"evaluation.{name}.temperature={temperature}: must be above 0")


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
        raise ValueError(f"evaluation.knn.k={k}: must lie between 1 and the {len(train)} training clips")
    if not temperature > 0:
        raise ValueError(f"evaluation.knn.temperature={temperature}: must be above 0")
    train, test = (F.normalize(x.float(), dim=1) for x in (train, test))
    labels = train_labels.to(train)
    return torch.cat([votes(part @ train.T, labels, k, temperature) for part in test.split(chunk)])


def knn_among(
    embedding: Tensor, labels: Tensor, recording: Tensor, *, k: int, temperature: float, chunk: int = 1024
) -> Tensor:
    """Votes of the nearest of all other clips, those of the clip's own recording left out.

    Args:
        embedding: (n, D).
        labels: (n, C) multi-hot.
        recording: (n,) numbers, equal for clips that were cut from one recording.
        k: neighbours that vote, as many as there are where there are fewer.
        temperature: as in `knn_predict`.
        chunk: clips compared at once.

    Returns:
        (n, C) shares of the votes; NaN for a clip without any other recording.
    """
    embedding = F.normalize(embedding.float(), dim=1)
    labels, found = labels.to(embedding), []
    for part, own in zip(embedding.split(chunk), recording.split(chunk), strict=True):
        similarity = (part @ embedding.T).masked_fill(own.unsqueeze(1) == recording, -torch.inf)
        found.append(votes(similarity, labels, min(k, len(embedding)), temperature))
    return torch.cat(found)


def votes(similarity: Tensor, labels: Tensor, k: int, temperature: float) -> Tensor:
    """(m, n) similarities and (n, C) labels -> (m, C) shares of the votes of the k nearest."""
    similarity, nearest = similarity.topk(k, dim=1)
    weights = (similarity / temperature).softmax(dim=1)  # exp(s / T) over its sum; exp alone could overflow
    return torch.einsum("mk,mkc->mc", weights, labels[nearest])
