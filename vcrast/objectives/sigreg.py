"""SIGReg: projections of a batch look Gaussian along random directions (LeJEPA).

Source: Balestriero, LeCun 2025, arXiv:2511.08544; the statistic is of Epps and Pulley 1983.
"""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vcrast.config.metric import Metric
from vcrast.config.registry import OBJECTIVES
from vcrast.objectives.base import Losses
from vcrast.objectives.joint import STD, JointEmbedding, Projections, mean_of

KEPT_NUMBERS = 2**24  # of a view's angles, and as many of sines and cosines: 200 MB


@OBJECTIVES.register("sigreg")
class SIGReg(JointEmbedding):
    """Squared distance of views from their centre, and the Epps-Pulley statistic of each view along directions.

    The directions are new ones at every step, a function of (seed, step).

    Args:
        regularizer_weight: w; the loss is (1 - w) * distance + w * statistic.
        num_directions: K unit vectors of a step.
        num_knots: points of the characteristic function in [0, last_knot] that are compared.
        last_knot: the largest of them.
        **joint: what `JointEmbedding` asks for.

    Raises:
        ValueError: an option out of its range.
    """

    parts: ClassVar[dict[str, Metric]] = {
        "distance": Metric("Squared distance of views from their centre"),
        "statistic": Metric("Epps-Pulley statistic"),
        "normal": Metric("Statistic of a normal sample"),
        "std": STD,
    }
    note: ClassVar[str] = (
        "The statistic of a sample that is truly normal is 1.05 in the mean, whatever the batch; far below, the batch "
        "is more regular than chance. It grows with the batch where projections are not normal: of equal ones it is "
        "0.4 times the batch, and that is collapse."
    )
    remedy: ClassVar[str] = "raise objective.regularizer_weight, lower optim.lr, or weaken the views"

    def __init__(
        self, *, regularizer_weight: float, num_directions: int, num_knots: int, last_knot: float, **joint: Any
    ) -> None:
        super().__init__(**joint)
        if not 0 <= regularizer_weight <= 1:
            raise ValueError(f"objective.regularizer_weight={regularizer_weight}: must lie in [0, 1]")
        if num_directions < 1 or num_knots < 2:
            raise ValueError(
                f"objective.num_directions={num_directions}, num_knots={num_knots}: give 1 or more directions and 2 or "
                "more knots"
            )
        if not last_knot > 0:
            raise ValueError(f"objective.last_knot={last_knot}: must be above 0")
        self.regularizer_weight, self.num_directions = regularizer_weight, num_directions
        self.num_knots, self.last_knot = num_knots, last_knot

    def compare(self, projections: Projections) -> Losses:
        """See `JointEmbedding`."""
        directions = self.directions_of_the_step(like=projections.views[0])
        statistic = mean_of([self.statistic(view @ directions).mean() for view in projections.views])
        distance = centre_term(projections)
        loss = (1 - self.regularizer_weight) * distance + self.regularizer_weight * statistic
        normal = loss.new_full((), normal_statistic(num_knots=self.num_knots, last_knot=self.last_knot))
        return {"loss": loss, "distance": distance, "statistic": statistic, "normal": normal}

    def statistic(self, samples: Tensor) -> Tensor:
        """`epps_pulley` of (n, K) samples; where it would keep much for the backward, it is computed again there."""
        compute = functools.partial(epps_pulley, num_knots=self.num_knots, last_knot=self.last_knot)
        if samples.numel() * self.num_knots <= KEPT_NUMBERS:
            return compute(samples)
        found: Tensor = checkpoint(compute, samples, use_reentrant=False)
        return found


def centre_term(projections: Projections) -> Tensor:
    """Mean squared distance of all views from the centre of the whole ones, over views, clips and dimensions.

    Of two views it is a quarter of their mean squared difference.
    """
    centre = projections.centre
    return mean_of([(view - centre).square().mean() for view in projections.views])


def epps_pulley(samples: Tensor, *, num_knots: int, last_knot: float) -> Tensor:
    """(n, K) samples -> (K,) statistics: n times the distance of their characteristic functions from the normal one.

    n * integral of |mean exp(i t x) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt over [-last_knot, last_knot], by the trapezoid
    rule on the right half, twice.
    """
    step = last_knot / (num_knots - 1)
    knots = torch.linspace(0, last_knot, num_knots, dtype=samples.dtype, device=samples.device)
    normal = torch.exp(-knots.square() / 2)
    weight = torch.full_like(normal, 2 * step)
    weight[0] = weight[-1] = step
    angle = samples.unsqueeze(2) * knots  # (n, K, knots)
    distance = (angle.cos().mean(dim=0) - normal).square() + angle.sin().mean(dim=0).square()
    return len(samples) * (distance * weight * normal).sum(dim=1)


def normal_statistic(*, num_knots: int, last_knot: float) -> float:
    """The mean of the statistic over normal samples of any size: the same sum over 1 - exp(-t^2)."""
    step = last_knot / (num_knots - 1)
    knots = [number * step for number in range(num_knots)]
    values = [(1 - math.exp(-t * t)) * math.exp(-t * t / 2) for t in knots]
    return step * (2 * sum(values) - values[0] - values[-1])
