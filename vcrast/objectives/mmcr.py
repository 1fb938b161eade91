"""MMCR: the mean views of clips fill the sphere evenly, measured by a nuclear norm.

Source: Yerxa et al. 2023, arXiv:2303.03307.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vcrast.config.metric import Metric
from vcrast.config.registry import OBJECTIVES
from vcrast.objectives.base import Losses
from vcrast.objectives.joint import STD, JointEmbedding, Projections


@OBJECTIVES.register("mmcr")
class MMCR(JointEmbedding):
    """Raises the nuclear norm of the clips' centroids: views of a clip agree, and clips differ in all directions.

    A centroid is the mean of a clip's V normalised views, the teacher's among them where there is one. The singular
    values are computed in at least fp32 and a GPU waits for them.

    Args:
        compactness_weight: of the mean nuclear norm of each clip's own views, which is least where they are equal; 0 in
            the paper's experiments.
        **joint: what `JointEmbedding` asks for.

    Raises:
        ValueError: a negative weight.
    """

    parts: ClassVar[dict[str, Metric]] = {
        "centroids": Metric("Nuclear norm of the clips' mean views", better="higher"),
        "length": Metric("Length of a clip's mean view", "fixed", "higher"),
        "std": STD,
        "floor": Metric("Floor of the loss"),
        "above_floor": Metric("Loss above its floor", better="lower"),
    }
    note: ClassVar[str] = (
        "The loss is a negative norm and cannot fall below its floor (dashed): equal views and clips in all directions "
        "alike. A length near 1 far above the floor is collapse."
    )

    def __init__(self, *, compactness_weight: float, **joint: Any) -> None:
        super().__init__(**joint)
        if compactness_weight < 0:
            raise ValueError(f"objective.compactness_weight={compactness_weight}: must not be negative")
        self.compactness_weight = compactness_weight

    def compare(self, projections: Projections) -> Losses:
        """See `JointEmbedding`."""
        views = torch.stack([F.normalize(view, dim=1) for view in (*projections.views, *(projections.targets or ()))])
        centroids = views.mean(dim=0)
        norm = nuclear_norm(centroids)
        loss = -norm
        floor = mmcr_floor(*centroids.shape)
        if self.compactness_weight > 0:
            loss = loss + self.compactness_weight * nuclear_norm(views.transpose(0, 1)) / len(centroids)
            floor += self.compactness_weight * math.sqrt(len(views))
        return {
            "loss": loss, "centroids": norm, "length": centroids.detach().norm(dim=1).mean(),
            "floor": loss.new_full((), floor), "above_floor": loss.detach() - floor,
        }  # fmt: skip

    def spread_of(self, view: Tensor) -> Tensor:
        """See `JointEmbedding`: only directions count; spread evenly over the sphere each dimension has std 1."""
        return F.normalize(view, dim=1) * math.sqrt(view.shape[1])


def nuclear_norm(matrices: Tensor) -> Tensor:
    """Sum of all singular values of (..., n, m)."""
    return torch.linalg.svdvals(matrices).sum()


def mmcr_floor(num_clips: int, dims: int) -> float:
    """The least value that minus the nuclear norm of n centroids in P dimensions can take: -sqrt(n min(n, P)).

    Rows are no longer than 1, so the sum of squared singular values is n at most, and there are min(n, P) of them.
    """
    return -math.sqrt(num_clips * min(num_clips, dims))
