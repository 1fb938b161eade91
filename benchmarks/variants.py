"""Steps to compare with: the thesis's loss, and gradients added up the wrong way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vcrast.objectives.base import Clips, Losses
from vcrast.objectives.terms import invariance_term, variance_term
from vcrast.objectives.vcr import VCR


class ThesisVCR(VCR):
    """The VCR loss as the thesis's listing computes it: P x P covariance matrices in fp32, each term read at once."""

    def batch_losses(self, outputs: Clips) -> Losses:
        """Compute the loss without its parts; equal to `VCR.batch_losses` in value."""
        za, zb = (self.projector(outputs[view]) for view in "ab")
        terms = (
            self.invariance_weight * invariance_term(za, zb),
            self.variance_weight * (variance_term(za) + variance_term(zb)) / 2,
            float(self.covariance_weight) * (square_covariance(za) + square_covariance(zb)),
        )
        for term in terms:
            term.item()
        return {"loss": terms[0] + terms[1] + terms[2]}


class NaiveVCR(VCR):
    """Micro-batches scored one by one, each with statistics of its own: another loss, at the same cost."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gathered = ()

    def clip_losses(self, outputs: Clips) -> Losses:
        """Give every clip the loss of its micro-batch."""
        loss = self.batch_losses(outputs)["loss"]
        return {"loss": loss.expand(len(outputs["a"]))}


def square_covariance(z: Tensor) -> Tensor:
    """The covariance term of (B, P) through the (P, P) matrix, whatever B."""
    z = z - z.mean(dim=0)
    covariance = z.T @ z / (len(z) - 1)
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    return off_diagonal.square().sum() / z.shape[1]
