"""NT-Xent: a clip's views are told from all other clips of the batch.

Source: Chen et al. 2020, arXiv:2002.05709 (SimCLR); on dropped columns and rows arXiv:2605.14231 (AudioMosaic).
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
from vcrast.objectives.joint import STD, JointEmbedding, Projections, mean_of


@OBJECTIVES.register("ntxent")
class NTXent(JointEmbedding):
    """Cross-entropy of finding a clip's other view among the views of the whole global batch; mean over the pairs.

    Negatives are both views of all other clips; with a teacher, as in MoCo v3 (arXiv:2104.02057), its view of them.

    Args:
        temperature: cosine similarities are divided by it.
        **joint: what `JointEmbedding` asks for.

    Raises:
        ValueError: a temperature that is not positive.
    """

    parts: ClassVar[dict[str, Metric]] = {
        "found": Metric("Clips whose other view is the most similar", "percent", "higher"),
        "positive": Metric("Cosine of a clip's views", "fixed"),
        "negative": Metric("Cosine of different clips", "fixed"),
        "std": STD,
        "floor": Metric("Floor of the loss"),
        "above_floor": Metric("Loss above its floor", better="lower"),
    }
    note: ClassVar[str] = (
        "The loss cannot fall below its floor (dashed): equal views, and all clips equally far apart. A cosine of "
        "different clips near 1 is collapse; 100 % found early means that the views are too easy."
    )
    remedy: ClassVar[str] = "lower optim.lr, change objective.temperature, or weaken the views"

    def __init__(self, *, temperature: float, **joint: Any) -> None:
        super().__init__(**joint)
        if not temperature > 0:
            raise ValueError(f"objective.temperature={temperature}: must be above 0")
        self.temperature = temperature

    def compare(self, projections: Projections) -> Losses:
        """See `JointEmbedding`."""
        taught = projections.targets is not None
        compared = [self.against_teacher(*pair) if taught else self.of_pair(*pair) for pair in projections.pairs]
        found = {name: mean_of([each[name] for each in compared]) for name in compared[0]}
        num_negatives = (1 if taught else 2) * (len(projections.views[0]) - 1)
        floor = ntxent_floor(len(projections.views[0]), num_negatives, self.temperature)
        return {
            **found, "floor": found["loss"].new_full((), floor), "above_floor": found["loss"].detach() - floor,
        }  # fmt: skip

    def of_pair(self, za: Tensor, zb: Tensor) -> Losses:
        """Loss and cosines of two views (B, P): each of the 2 B rows has one positive and 2 (B - 1) negatives."""
        rows = F.normalize(torch.cat([za, zb]), dim=1)
        cosine = rows @ rows.T
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        positive = torch.arange(len(rows), device=rows.device).roll(len(za))
        logits = (cosine / self.temperature).masked_fill(itself, -torch.inf)
        return self.measured(logits, positive, cosine, itself)

    def against_teacher(self, own: Tensor, target: Tensor) -> Losses:
        """Loss and cosines of the student's rows (B, P) against the teacher's."""
        cosine = F.normalize(own, dim=1) @ F.normalize(target, dim=1).T
        none = torch.zeros_like(cosine, dtype=torch.bool)
        return self.measured(cosine / self.temperature, torch.arange(len(own), device=own.device), cosine, none)

    def measured(self, logits: Tensor, positive: Tensor, cosine: Tensor, itself: Tensor) -> Losses:
        """Mean cross-entropy of rows whose answer is the column `positive`, and what is shown beside it."""
        seen = cosine.detach()
        right = torch.zeros_like(itself).scatter(1, positive.unsqueeze(1), True)
        others = ~(right | itself)
        return {
            "loss": F.cross_entropy(logits, positive),
            "found": (logits.argmax(dim=1) == positive).to(logits.dtype).mean(),
            "positive": (seen * right).sum() / right.sum(),
            "negative": (seen * others).sum() / others.sum(),
        }

    def spread_of(self, view: Tensor) -> Tensor:
        """See `JointEmbedding`: only directions count; spread evenly over the sphere each dimension has std 1."""
        return F.normalize(view, dim=1) * math.sqrt(view.shape[1])


def ntxent_floor(num_clips: int, num_negatives: int, temperature: float) -> float:
    """The least value that the loss of a batch can take: log(1 + m exp(-n / ((n - 1) t))).

    Equal views have cosine 1, and n directions cannot have a mean cosine below -1 / (n - 1); by convexity nothing else
    is lower. Reached where P >= n - 1.

    Args:
        num_clips: n.
        num_negatives: m of a row.
        temperature: t.
    """
    return math.log1p(num_negatives * math.exp(-num_clips / ((num_clips - 1) * temperature)))
