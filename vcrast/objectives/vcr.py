"""VCR: variance, invariance and covariance of two views; no negatives.

Source: Bardes, Ponce, LeCun 2022, arXiv:2105.04906; the authors' code where the two differ (see `terms.py`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from vcrast.config.metric import Metric
from vcrast.config.registry import OBJECTIVES
from vcrast.models.backbone import Backbone
from vcrast.objectives.base import Losses, Task
from vcrast.objectives.joint import STD, JointEmbedding, Projections, mean_of
from vcrast.objectives.terms import (
    covariance_term,
    invariance_term,
    reachable_covariance_weight,
    reachable_std,
    variance_term,
    vcr_floor,
)


@OBJECTIVES.register("vcr")
class VCR(JointEmbedding):
    """The VCR loss of a batch: of all pairs of views, and of each view by itself.

    Args:
        encoder: as in `JointEmbedding`.
        views: likewise.
        task: likewise.
        invariance_weight: of the mean squared difference of the views.
        variance_weight: of the hinge that keeps every dimension's std at 1.
        covariance_weight: of the squared correlations of dimensions. `auto` lowers it, if need be, to where std 1
            stays reachable: a small batch in many dimensions cannot be uncorrelated, and at weight 1 the loss's own
            minimum has std 0.2 at 12 clips in 4096.
        **joint: what `JointEmbedding` asks for.

    Raises:
        ValueError: a covariance weight that is neither a number nor `auto`, or a negative weight.
    """

    parts: ClassVar[dict[str, Metric]] = {
        "invariance": Metric("Invariance term"),
        "variance": Metric("Variance term"),
        "covariance": Metric("Covariance term"),
        "std": STD,
        "floor": Metric("Floor of the loss"),
        "above_floor": Metric("Loss above its floor", better="lower"),
    }
    note: ClassVar[str] = (
        "The loss cannot fall below its floor (dashed), which depends on batch size and projector width: compare runs "
        "by the loss above it. A covariance term near 0 beside a high variance term is collapse."
    )
    remedy: ClassVar[str] = "raise objective.variance_weight, lower optim.lr, or weaken the views"

    def __init__(
        self,
        *,
        encoder: Backbone,
        views: Any,
        task: Task,
        invariance_weight: float,
        variance_weight: float,
        covariance_weight: float | str,
        **joint: Any,
    ) -> None:
        super().__init__(encoder=encoder, views=views, task=task, **joint)
        if isinstance(covariance_weight, str) and covariance_weight != "auto":
            raise ValueError(f"objective.covariance_weight={covariance_weight!r}: give a number, or auto")
        numbers = {"invariance": invariance_weight, "variance": variance_weight, "covariance": covariance_weight}
        for name, value in numbers.items():
            if not isinstance(value, str) and value < 0:
                raise ValueError(f"objective.{name}_weight={value}: must not be negative")
        self.invariance_weight, self.variance_weight = float(invariance_weight), float(variance_weight)
        self.covariance_weight = covariance_weight

    def compare(self, projections: Projections) -> Losses:
        """Compute the loss, in fp32: in fp16 the covariance overflows.

        Returns:
            The loss; the unweighted terms (invariance is a mean over pairs, variance over views, covariance twice the
            mean over views), the `floor` of this batch size and width, and how far the loss is `above_floor`.
        """
        num_clips, dims = projections.views[0].shape
        terms = {
            "invariance": mean_of([invariance_term(*pair) for pair in projections.pairs]),
            "variance": mean_of([variance_term(view) for view in projections.views]),
            "covariance": 2 * mean_of([covariance_term(view) for view in projections.views]),
        }
        weights = self.weights(num_clips, dims)
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        floor = loss.new_full((), vcr_floor(num_clips, dims, weights))
        return {"loss": loss, **terms, "floor": floor, "above_floor": loss.detach() - floor}

    def reachable_std(self, num_clips: int) -> float:
        """See `JointEmbedding`."""
        dims = self.projector.dim_out
        weights = self.weights(num_clips, dims)
        return reachable_std(num_clips, dims, weights) if weights["variance"] > 0 else 1.0

    def weights(self, num_clips: int, dims: int) -> dict[str, float]:
        """The terms' weights for this batch size and width."""
        covariance = self.covariance_weight
        if isinstance(covariance, str):
            covariance = reachable_covariance_weight(num_clips, dims, self.variance_weight)
        return {"invariance": self.invariance_weight, "variance": self.variance_weight, "covariance": covariance}
