"""VCR: variance, invariance and covariance of two views; no negatives.

Source: Bardes, Ponce, LeCun 2022, arXiv:2105.04906; the authors' code where the two differ (see `terms.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vcrast.config.metric import Metric
from vcrast.config.registry import OBJECTIVES
from vcrast.features.draws import Draws
from vcrast.models.backbone import Backbone
from vcrast.models.projector import Projector
from vcrast.objectives.base import Batch, Clips, Losses, Objective, Task, prepare_views, represent_views
from vcrast.objectives.terms import (
    covariance_term,
    invariance_term,
    reachable_covariance_weight,
    reachable_std,
    std_of,
    variance_term,
    vcr_floor,
)

VIEWS = ("a", "b")
COLLAPSED = 0.1  # of the reachable std; untrained projections have 0.35


@OBJECTIVES.register("vcr")
class VCR(Objective):
    """The VCR loss of a batch.

    Args:
        encoder: as in `Objective`.
        views: makes two views of each waveform, and chooses the tokens that stay.
        task: as in `Objective`.
        invariance_weight: of the mean squared difference of the views.
        variance_weight: of the hinge that keeps every dimension's std at 1.
        covariance_weight: of the squared correlations of dimensions. `auto` lowers it, if need be, to where std 1
            stays reachable: a small batch in many dimensions cannot be uncorrelated, and at weight 1 the loss's own
            minimum has std 0.2 at 12 clips in 4096.
        projector_dims: widths of the expander; the last is P.

    Raises:
        ValueError: a covariance weight that is neither a number nor `auto`, or a negative weight.
    """

    parts: ClassVar[dict[str, Metric]] = {
        "invariance": Metric("Invariance term"),
        "variance": Metric("Variance term"),
        "covariance": Metric("Covariance term"),
        "std": Metric("Mean std of the projections", "fixed"),
        "floor": Metric("Floor of the loss"),
        "above_floor": Metric("Loss above its floor", better="lower"),
    }
    note: ClassVar[str] = (
        "The loss cannot fall below its floor (dashed), which depends on batch size and projector width: compare runs "
        "by the loss above it. A covariance term near 0 beside a high variance term is collapse."
    )
    gathered: ClassVar[tuple[str, ...]] = VIEWS
    smallest_batch: ClassVar[int] = 2  # one clip has no variance
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
        projector_dims: list[int],
    ) -> None:
        super().__init__(encoder=encoder, views=views, task=task)
        if isinstance(covariance_weight, str) and covariance_weight != "auto":
            raise ValueError(f"objective.covariance_weight={covariance_weight!r}: give a number, or auto")
        numbers = {"invariance": invariance_weight, "variance": variance_weight, "covariance": covariance_weight}
        for name, value in numbers.items():
            if not isinstance(value, str) and value < 0:
                raise ValueError(f"objective.{name}_weight={value}: must not be negative")
        self.invariance_weight, self.variance_weight = float(invariance_weight), float(variance_weight)
        self.covariance_weight = covariance_weight
        self.projector = Projector(encoder.embed_dim, projector_dims)

    def prepare(self, batch: Batch, draws: Draws) -> Clips:
        """Make two views of each clip, or one of each sound of a pair."""
        return prepare_views(self.encoder, self.views, batch.wav, draws, VIEWS)

    def represent(self, inputs: Clips) -> Clips:
        """Encode both views of some clips: `a` and `b`, (b, D) each."""
        return represent_views(self.encoder, inputs, VIEWS)

    def batch_losses(self, outputs: Clips) -> Losses:
        """Compute the loss of the whole batch, in fp32: in fp16 the covariance overflows.

        Args:
            outputs: `a` and `b`, (B, D) each, of all clips of the global batch.

        Returns:
            The loss; the unweighted terms, the mean `std` of the projections, the `floor` of this batch size and width,
            and how far the loss is `above_floor`.

        Raises:
            ValueError: fewer than two clips.
        """
        num_clips = len(outputs["a"])
        if num_clips < 2:
            raise ValueError(f"a batch of {num_clips} clip has no variance; set pretrain.batch_size to 2 or more")
        # One view at a time: BatchNorm sees B clips, not 2 B, as in the authors' code.
        za, zb = (self.projector(outputs[view]) for view in VIEWS)
        terms = {
            "invariance": invariance_term(za, zb),
            "variance": (variance_term(za) + variance_term(zb)) / 2,
            "covariance": covariance_term(za) + covariance_term(zb),
        }
        weights = self.weights(num_clips, za.shape[1])
        loss = sum((weights[name] * term for name, term in terms.items()), start=za.new_zeros(()))
        floor = loss.new_full((), vcr_floor(num_clips, za.shape[1], weights))
        std = (std_of(za.detach()).mean() + std_of(zb.detach()).mean()) / 2
        return {"loss": loss, **terms, "std": std, "floor": floor, "above_floor": loss - floor}

    def collapsed(self, parts: Mapping[str, float | None], num_clips: int) -> str | None:
        """See `Objective`: a std far below the one that the loss asks for, whatever the embeddings look like."""
        std, dims = parts.get("std"), self.projector.dim_out
        weights = self.weights(num_clips, dims)
        reachable = reachable_std(num_clips, dims, weights) if weights["variance"] > 0 else 1.0
        if std is None or std >= COLLAPSED * reachable:
            return None
        return f"the projections' std is {std:.2g}, where {reachable:.2g} can be reached"

    def weights(self, num_clips: int, dims: int) -> dict[str, float]:
        """The terms' weights for this batch size and width."""
        covariance = self.covariance_weight
        if isinstance(covariance, str):
            covariance = reachable_covariance_weight(num_clips, dims, self.variance_weight)
        return {"invariance": self.invariance_weight, "variance": self.variance_weight, "covariance": covariance}
