"""EVALUATIONS: `quality`, how many directions frozen features use; no label is read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vcrast.config.metric import Metric
from vcrast.config.registry import EVALUATIONS
from vcrast.evaluation.base import Evaluation, ViewedFeatures
from vcrast.evaluation.metrics import effective_rank, entropy_rank

FEWEST = 3  # eigenvalues of a fit
NUMERICAL = 1e-10  # of the largest eigenvalue: fp32 embeddings round by about 1e-14 of it, and a norm leaves a null one
ALIKE = 1e-5  # of the largest number: fp32 rounds the same clip differently in another place of a batch
LIDAR_DELTA = 1e-4


@EVALUATIONS.register("quality")
class Quality(Evaluation):
    """RankMe and the spectrum's alpha of the training clips' embeddings, and LiDAR of their views.

    They compare checkpoints and settings of one method on one set of clips. Across methods, architectures or numbers of
    clips they do not rank encoders: noise has full rank.

    Args:
        alpha_range: [first, last] eigenvalue of `spectrum_alpha`.
        clips: training clips of LiDAR, the first ones.
        pairs: pairs of views of each; 0 leaves LiDAR out.
    """

    needs = ViewedFeatures
    baseline = True
    metrics = {  # noqa: RUF012 - a class constant, as `Evaluation` declares it
        "rankme": Metric("RankMe", better="higher", short="RankMe"),
        "alpha": Metric("Alpha of the spectrum", "fixed"),
        "lidar": Metric("LiDAR", better="higher", short="LiDAR"),
    }

    def __init__(self, *, alpha_range: list[int], clips: int, pairs: int) -> None:
        if len(alpha_range) != 2 or not 1 <= alpha_range[0] <= alpha_range[1] - FEWEST + 1:
            raise ValueError(
                f"evaluation.quality.alpha_range={alpha_range}: give [first, last] eigenvalue, counted from 1, with "
                f"{FEWEST} or more between them, for instance [3, 100]"
            )
        if clips < 2:
            raise ValueError(f"evaluation.quality.clips={clips}: must be 2 or more")
        if pairs < 0:
            raise ValueError(f"evaluation.quality.pairs={pairs}: must not be negative; 0 leaves LiDAR out")
        self.alpha_range = alpha_range[0], alpha_range[1]
        self.clips, self.pairs, self.no_views = clips, pairs, ""

    def measure(self, given: ViewedFeatures) -> dict[str, float]:
        """See `Evaluation`."""
        embedding = given.train.embedding
        found = {
            "rankme": float(effective_rank(embedding)),
            "alpha": float(spectrum_alpha(embedding, *self.alpha_range)),
        }
        return {**found, **({"lidar": self.lidar(given)} if self.pairs else {})}

    def lidar(self, given: ViewedFeatures) -> float:
        """LiDAR; NaN where the encoder cannot see the run's views, or they do not differ."""
        try:
            views = given.views(self.clips, self.pairs)
        except ValueError as error:
            self.no_views = str(error)
            return math.nan
        if float((views - views[:, :1]).abs().max()) <= ALIKE * float(views.abs().max()):
            self.no_views = "the run's views of a clip are all alike (views=none?), and LiDAR asks what they change"
            return math.nan
        return float(lidar(views))

    def why(self, name: str, value: float, given: ViewedFeatures, classes: Sequence[str]) -> str:  # noqa: ARG002
        """See `Evaluation`."""
        if name == "lidar":
            return self.no_views
        num_clips, dims = given.train.embedding.shape
        return (
            f"the embeddings ({num_clips} clips, {dims} dimensions) have fewer than {FEWEST} eigenvalues in "
            f"evaluation.quality.alpha_range={list(self.alpha_range)}"
        )


def spectrum_alpha(embeddings: Tensor, first: int, last: int) -> Tensor:
    """Return alpha of the power law j^-alpha of the covariance's eigenvalues j = first..last; NaN of fewer than three.

    A line through log eigenvalue over log j, by least squares with weights 1 / j: without them nearly all points lie at
    the right end. Eigenvalues that are 0 but for rounding are left out. 1 is the ideal of the source: above, few
    directions hold all that varies; below, neighbouring sounds are torn apart. White noise has about 0.

    Args:
        embeddings: (n, D).
        first: from 1.
        last: cut to min(n - 1, D).

    Source: Agrawal et al. 2022, arXiv:2202.05808 (alpha-ReQ).
    """
    centred = embeddings.double() - embeddings.double().mean(dim=0)
    values = torch.linalg.svdvals(centred).square()  # n - 1 times the eigenvalues: alpha does not see the factor
    number = torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device)
    chosen = (number >= first) & (number <= last) & (values > NUMERICAL * values[0])
    if int(chosen.sum()) < FEWEST:
        return values.new_full((), math.nan)
    x, y, weight = number[chosen].log(), values[chosen].log(), 1 / number[chosen]
    weight = weight / weight.sum()
    x, y = x - (weight * x).sum(), y - (weight * y).sum()
    return -(weight * x * y).sum() / (weight * x * x).sum()


def lidar(views: Tensor) -> Tensor:
    """Return LiDAR of q views of each of n clips (n, q, D): from 1 to min(n - 1, D), 0 if all clips are alike; 0-d.

    The effective rank of the matrix of linear discriminant analysis whose classes are the clips: directions count by
    how far clips lie apart along them, in units of what the views scatter. Unlike RankMe it is not raised by noise. A
    variance of 1e-4 is added to the scatter, as in the source, so it is not free of the embeddings' scale.

    Source: Thilak et al. 2023, arXiv:2312.04000; there of a projector's outputs, here of what is evaluated, the
    encoder's vectors.
    """
    views = views.double()
    centres = views.mean(dim=1)  # (n, D)
    scatter = (views - centres.unsqueeze(1)).flatten(0, 1)
    within = scatter.T @ scatter / len(scatter)
    within.diagonal().add_(LIDAR_DELTA)
    between = (centres - centres.mean(dim=0)) / len(centres) ** 0.5
    # Singular values of A W^-1/2 squared are the eigenvalues of W^-1/2 A'A W^-1/2, and W^-1/2 may be any root of W^-1.
    root = torch.linalg.solve_triangular(torch.linalg.cholesky(within), between.T, upper=False)
    return entropy_rank(torch.linalg.svdvals(root).square())
