"""Exponential moving average of weights: the update of a teacher network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def make_teacher(student: nn.Module, teacher: nn.Module) -> nn.Module:
    """Copy the student's weights into a freshly built teacher of the same kind and freeze it."""
    teacher.load_state_dict(student.state_dict())
    return teacher.requires_grad_(False)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float, skipped: Tensor) -> None:
    """Move every weight of the teacher towards the student's: momentum * teacher + (1 - momentum) * student.

    Args:
        teacher: changed in place; buffers are copied.
        student: of the same kind.
        momentum: in [0, 1].
        skipped: 0-d bool on the device; True leaves the teacher as it is, to the bit, without asking the device.

    Source: Grill et al. 2020, arXiv:2006.07733 (BYOL).
    """
    for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
        own.lerp_(other.to(own.dtype), (1 - momentum) * (~skipped).to(own.dtype))
    for mine, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
        mine.copy_(torch.where(skipped, mine, theirs))


def cosine_momentum(start: float, progress: float) -> float:
    """Momentum that rises from `start` to 1 along half a cosine; `progress` in [0, 1]. Source: arXiv:2006.07733."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
