"""Exponential moving average of weights: the update of a teacher network."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """A frozen copy of a network that follows it; always in evaluation mode (no drop path, running statistics).

    Args:
        student: is copied as it is; its later weights reach the copy through `follow`.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Teacher:  # noqa: ARG002 - nn.Module's signature
        """Stay in evaluation mode, whatever the objective around it does."""
        return super().train(False)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Run the copy, without gradient."""
        with torch.no_grad():
            return self.network(*inputs, **options)

    def follow(self, student: nn.Module, momentum: float, skipped: Tensor) -> None:
        """See `ema_update`; call it in `Objective.after_step`."""
        ema_update(self.network, student, momentum, skipped)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float, skipped: Tensor) -> None:
    """Move every weight of the teacher towards the student's: momentum * teacher + (1 - momentum) * student.

    Args:
        teacher: changed in place; its buffers are copied.
        student: of the same kind; it may have further buffers.
        momentum: in [0, 1].
        skipped: 0-d bool on the device; True leaves the teacher as it is, to the bit, without asking the device.

    Source: Grill et al. 2020, arXiv:2006.07733 (BYOL).
    """
    move_towards(teacher.parameters(), student.parameters(), momentum, skipped)
    found = dict(student.named_buffers())
    for name, mine in teacher.named_buffers():
        mine.copy_(torch.where(skipped, mine, found[name]))


@torch.no_grad()
def move_towards(own: Iterable[Tensor], others: Iterable[Tensor], momentum: float, skipped: Tensor) -> None:
    """Replace each of `own` by momentum * own + (1 - momentum) * other, in place; `skipped` as in `ema_update`."""
    for mine, theirs in zip(own, others, strict=True):
        mine.lerp_(theirs.to(mine.dtype), (1 - momentum) * (~skipped).to(mine.dtype))


def rising(momentum: float, progress: float) -> float:
    """The momentum after a share of the steps in [0, 1]: from `momentum` to 1 along a half cosine."""
    return 1 - (1 - momentum) * (1 + math.cos(math.pi * progress)) / 2
