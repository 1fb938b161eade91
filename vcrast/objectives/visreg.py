"""VISReg: centre, scale and shape of a batch's projections are those of a normal one.

Source: arXiv:2606.02572.
"""

from __future__ import annotations

import functools
import statistics
from statistics import NormalDist
from typing import Any, ClassVar

import torch
from torch import Tensor

from vcrast.config.metric import Metric
from vcrast.config.registry import OBJECTIVES
from vcrast.objectives.base import Losses
from vcrast.objectives.joint import STD, JointEmbedding, Projections, mean_of
from vcrast.objectives.sigreg import centre_term
from vcrast.objectives.terms import std_of


@OBJECTIVES.register("visreg")
class VISReg(JointEmbedding):
    """Squared distance of views from their centre, and three terms of each view: means, stds, sorted projections.

    Args:
        regularizer_weight: w; the loss is (1 - w) * distance + w * (centre + scale + shape).
        centre_weight: of the squared mean of every dimension.
        scale_weight: of (1 - std)^2 of every dimension: unlike VICReg's hinge it holds on both sides.
        shape_weight: of the squared distance of sorted projections on random directions from normal quantiles.
        num_directions: K unit vectors of a step, a function of (seed, step).
        **joint: what `JointEmbedding` asks for.

    Raises:
        ValueError: an option out of its range.
    """

    parts: ClassVar[dict[str, Metric]] = {
        "distance": Metric("Squared distance of views from their centre"),
        "centre": Metric("Squared means"),
        "scale": Metric("Squared distance of the stds from 1"),
        "shape": Metric("Distance of sorted projections from normal quantiles"),
        "std": STD,
        "floor": Metric("Floor of the loss"),
        "above_floor": Metric("Loss above its floor", better="lower"),
    }
    note: ClassVar[str] = (
        "The loss cannot fall below its floor (dashed): quantiles k / (n + 1) of few clips have a std below 1. A scale "
        "term near 1 is collapse."
    )
    remedy: ClassVar[str] = "raise objective.regularizer_weight, lower optim.lr, or weaken the views"

    def __init__(
        self,
        *,
        regularizer_weight: float,
        centre_weight: float,
        scale_weight: float,
        shape_weight: float,
        num_directions: int,
        **joint: Any,
    ) -> None:
        super().__init__(**joint)
        if not 0 <= regularizer_weight <= 1:
            raise ValueError(f"objective.regularizer_weight={regularizer_weight}: must lie in [0, 1]")
        self.weights = {"centre": centre_weight, "scale": scale_weight, "shape": shape_weight}
        for name, value in self.weights.items():
            if value < 0:
                raise ValueError(f"objective.{name}_weight={value}: must not be negative")
        if num_directions < 1:
            raise ValueError(f"objective.num_directions={num_directions}: give 1 or more")
        self.regularizer_weight, self.num_directions = regularizer_weight, num_directions

    def compare(self, projections: Projections) -> Losses:
        """See `JointEmbedding`."""
        directions = self.directions_of_the_step(like=projections.views[0])
        terms = {
            "centre": mean_of([view.mean(dim=0).square().mean() for view in projections.views]),
            "scale": mean_of([(1 - std_of(view)).square().mean() for view in projections.views]),
            "shape": mean_of([shape_term(view, directions) for view in projections.views]),
        }
        regularizer = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        distance = centre_term(projections)
        loss = (1 - self.regularizer_weight) * distance + self.regularizer_weight * regularizer
        floor = self.regularizer_weight * self.weights["shape"] * shape_floor(len(projections.views[0]))
        return {
            "loss": loss, "distance": distance, **terms, "floor": loss.new_full((), floor),
            "above_floor": loss.detach() - floor,
        }  # fmt: skip


def shape_term(z: Tensor, directions: Tensor) -> Tensor:
    """Mean squared distance of the sorted projections of (n, P) on directions (P, K) from n normal quantiles.

    Every dimension is standardised first; its std passes no gradient, so the term does not compete with the scale's.
    """
    standard = (z - z.mean(dim=0)) / std_of(z).detach()
    along = (standard @ directions).sort(dim=0).values
    return (along - normal_quantiles(len(z), like=z).unsqueeze(1)).square().mean()


def normal_quantiles(number: int, *, like: Tensor) -> Tensor:
    """(n,) quantiles k / (n + 1), k = 1 ... n, of the standard normal distribution."""
    share = torch.arange(1, number + 1, dtype=torch.float64, device=like.device) / (number + 1)
    return torch.special.ndtri(share).to(like.dtype)


@functools.lru_cache
def shape_floor(num_clips: int) -> float:
    """The least value that the shape term can take: (1 - std of the quantiles)^2 (n - 1) / n.

    Along a direction of variance v the nearest sorted sample is the quantiles themselves, scaled; v is 1 in the mean
    over directions, and the distance is convex in its root. The 1e-4 in the std is neglected.
    """
    quantiles = [NormalDist().inv_cdf(number / (num_clips + 1)) for number in range(1, num_clips + 1)]
    return (1 - statistics.stdev(quantiles)) ** 2 * (num_clips - 1) / num_clips
