"""Initialise weights: polar for quaternions, and its plain counterpart for other numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

GAINS = ("glorot", "he")


def component_std(in_features: int, out_features: int, init: str) -> float:
    """Standard deviation of an entry of the real matrix, fans counted in real channels.

    Glorot: sqrt(2 / (in + out)), also called Xavier; He: sqrt(2 / in).

    Raises:
        ValueError: another name.
    """
    if init not in GAINS:
        raise ValueError(f"linear.init={init}: choose from {', '.join(GAINS)}")
    return math.sqrt(2.0 / (in_features + out_features if init == "glorot" else in_features))


@torch.no_grad()
def polar_(parts: Sequence[Tensor], std: float) -> None:
    """Fill the four parts of a quaternion matrix in place: |w| (cos θ + axis sin θ).

    |w| is χ(4)-distributed times `std`, θ uniform in (-π, π), the axis uniform on the sphere. The mean of the four
    parts' variances is std², so the real matrix has Glorot's or He's variance; the real part has twice it and each
    imaginary part two thirds: the distribution favours no axis, but it does favour the real part.

    Args:
        parts: r, i, j, k, each (O, I).
        std: of the real matrix. In the papers' terms 1 / sqrt(2 (n_in + n_out)) and 1 / sqrt(2 n_in), n in quaternions.

    Source: Gaudet and Maida 2018, arXiv:1712.04604; Parcollet et al. 2019, arXiv:1806.04418, Sec. 3. Their code draws
    the axis from a cube, which favours its corners; we draw it from the sphere. Torch's generator draws everything at
    once, so that `run.seed` decides.
    """
    r = parts[0]
    length = std * torch.randn(4, *r.shape, dtype=r.dtype, device=r.device).norm(dim=0)
    phase = torch.empty_like(r).uniform_(-math.pi, math.pi)
    axis = torch.randn(3, *r.shape, dtype=r.dtype, device=r.device)
    axis = axis / axis.norm(dim=0)
    r.copy_(length * phase.cos())
    for part, direction in zip(parts[1:], axis, strict=True):
        part.copy_(length * phase.sin() * direction)
