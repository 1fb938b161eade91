"""Barlow Twins: the correlations of two views' dimensions become the identity.

Source: Zbontar et al. 2021, arXiv:2103.03230.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from vcrast.config.metric import Metric
from vcrast.config.registry import OBJECTIVES
from vcrast.objectives.base import Losses
from vcrast.objectives.joint import STD, JointEmbedding, Projections, mean_of
from vcrast.objectives.terms import crowding

EPS = 1e-5  # added to the variance, as BatchNorm does in the authors' code


@OBJECTIVES.register("barlow")
class BarlowTwins(JointEmbedding):
    """Pulls equal dimensions of two views to correlation 1, and different ones to 0; mean over the pairs of views.

    Args:
        redundancy_weight: of the squared correlations of different dimensions.
        **joint: what `JointEmbedding` asks for.

    Raises:
        ValueError: a negative weight.
    """

    parts: ClassVar[dict[str, Metric]] = {
        "on_diagonal": Metric("Equal dimensions, squared distance of correlation from 1"),
        "off_diagonal": Metric("Different dimensions, squared correlations"),
        "std": STD,
        "floor": Metric("Lower bound of the loss"),
        "above_floor": Metric("Loss above its lower bound", better="lower"),
    }
    note: ClassVar[str] = (
        "A batch of n clips has n - 1 directions: with more dimensions they cannot all be uncorrelated, and the loss "
        "stays above its lower bound (dashed). Equal dimensions near P (the width) at the end are collapse."
    )
    remedy: ClassVar[str] = "lower objective.redundancy_weight or optim.lr, or weaken the views"

    def __init__(self, *, redundancy_weight: float, **joint: Any) -> None:
        super().__init__(**joint)
        if redundancy_weight < 0:
            raise ValueError(f"objective.redundancy_weight={redundancy_weight}: must not be negative")
        self.redundancy_weight = redundancy_weight

    def compare(self, projections: Projections) -> Losses:
        """See `JointEmbedding`; the terms are sums over dimensions, as in the paper."""
        num_clips, dims = projections.views[0].shape
        found = [correlation_terms(*pair) for pair in projections.pairs]
        on, off = (mean_of(values) for values in zip(*found, strict=True))
        loss = on + self.redundancy_weight * off
        floor = loss.new_full((), barlow_floor(num_clips, dims, self.redundancy_weight))
        return {
            "loss": loss, "on_diagonal": on, "off_diagonal": off, "floor": floor, "above_floor": loss.detach() - floor,
        }  # fmt: skip

    def spread_of(self, view: Tensor) -> Tensor:
        """See `JointEmbedding`: the loss sees no scale, so a std is told as a share of the projections' own size."""
        return view / view.square().mean().sqrt().clamp_min(EPS)


def standardised(z: Tensor) -> Tensor:
    """(B, P) with mean 0 and variance 1 over the clips in every dimension (biased; 1e-5 is added to the variance)."""
    return (z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + EPS).sqrt()


def correlation_terms(za: Tensor, zb: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of (1 - C_ii)^2 and of C_ij^2, i != j, of the cross-correlations C of two views' (B, P) projections.

    With fewer clips than dimensions the squared norm of C is taken from the B x B products of clips: equal in value and
    gradient, and no P x P matrix is built.
    """
    za, zb = standardised(za), standardised(zb)
    num_clips, dims = za.shape
    diagonal = (za * zb).mean(dim=0)
    on = (1 - diagonal).square().sum()
    if num_clips < dims:
        whole = ((za @ za.T) * (zb @ zb.T)).sum() / num_clips**2
        return on, whole - diagonal.square().sum()
    correlation = za.T @ zb / num_clips
    return on, (correlation - torch.diag(correlation.diagonal())).square().sum()


def barlow_floor(num_clips: int, dims: int, redundancy_weight: float) -> float:
    """A value that the loss of a batch cannot go below: P w k / (1 + w k), with k = P / (n - 1) - 1, or 0.

    C has rank n - 1 at most, so with c on its diagonal its squared norm is (c P)^2 / (n - 1) at least; the sum of both
    terms is least at c = 1 / (1 + w k). Not reached: c = 1 gives P w k.
    """
    k = redundancy_weight * crowding(num_clips, dims)
    return dims * k / (1 + k)
