"""EVALUATIONS: `whitened_knn`, nearest neighbours once every direction counts alike."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vcrast.config.registry import EVALUATIONS
from vcrast.evaluation.base import Evaluation, Features, probe_metrics, probe_values
from vcrast.evaluation.knn import check_neighbours, knn_predict


@EVALUATIONS.register("whitened_knn")
class WhitenedNeighbours(Evaluation):
    """Accuracy (mAP where clips have several labels) of the nearest training clips, features whitened by those clips.

    Vectors of an encoder often share most of their length and differ along few directions; the cosine then compares
    little else. Whitening by the training clips, whose labels it does not read, takes both away.

    Args:
        k: neighbours that vote; as many as there are where there are fewer.
        temperature: of their weights.
    """

    needs = Features
    baseline = True
    metrics = probe_metrics("whitened_knn", "nearest neighbours, whitened", short="white kNN")

    def __init__(self, *, k: int, temperature: float) -> None:
        check_neighbours("whitened_knn", k, temperature)
        self.k, self.temperature = k, temperature

    def measure(self, given: Features) -> dict[str, float]:
        """See `Evaluation`."""
        train, test, multilabel = given
        whitening = fit_whitening(train.embedding)
        self.score = knn_predict(
            whitening(train.embedding), train.label, whitening(test.embedding),
            k=min(self.k, len(train.label)), temperature=self.temperature,
        )  # fmt: skip
        return probe_values("whitened_knn", self.score, test.label, multilabel=multilabel)


class Whitening(NamedTuple):
    """A map of vectors: subtract `mean` (D,), multiply by `matrix` (D, D), both float64."""

    mean: Tensor
    matrix: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """(n, D) -> (n, D) in float64."""
        return (vectors.to(self.mean) - self.mean) @ self.matrix


def fit_whitening(vectors: Tensor) -> Whitening:
    """Fit the map that gives vectors mean 0 and, nearly, the identity as covariance.

    The covariance is that of Ledoit and Wolf: of n clips in D dimensions it takes from the sample's, of which small
    eigenvalues are too small, as much as errs least on average. So there is nothing to choose, and it has an inverse
    when n < D.

    Args:
        vectors: (n, D).

    Returns:
        `matrix` is the symmetric inverse root of the covariance; vectors that are all alike are left as they are.

    Source: Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices.
    """
    vectors = vectors.double()
    mean = vectors.mean(dim=0)
    centred = vectors - mean
    num, dim = centred.shape
    sample = centred.T @ centred / num
    level = sample.diagonal().mean()
    identity = torch.eye(dim, dtype=sample.dtype, device=sample.device)
    if not level > torch.finfo(torch.float32).eps ** 2 * vectors.square().mean():  # what fp32 rounds alike vectors to
        return Whitening(mean, identity)
    # Mean squared distance of a clip's product from their mean, over n, against that of their mean from the identity.
    noise = (centred.square().sum(dim=1).square().mean() - sample.square().sum()) / num
    shrinkage = (noise / (sample - level * identity).square().sum()).nan_to_num(1.0).clamp(0, 1)
    covariance = (1 - shrinkage) * sample + shrinkage * level * identity
    values, directions = torch.linalg.eigh(covariance)
    return Whitening(mean, directions * values.clamp_min(values[-1] * 1e-12).rsqrt() @ directions.T)
