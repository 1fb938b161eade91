"""Read a clip off its tokens: statistics over time of each row of frequency."""

from __future__ import annotations

import torch
from torch import Tensor

from vcrast.models.backbone import Tokens, upcast

LEAST_STD = 1e-3
"""Below it a row counts as constant: its standard deviation is this, without gradient (a root at 0 has none)."""


def row_statistics(tokens: Tokens) -> Tensor:
    """Mean and standard deviation over time of each row of tokens.

    Tokens that were dropped do not count; a row that lost all of its tokens has mean 0.

    Args:
        tokens: of B clips on a grid of (t, f), each D wide.

    Returns:
        (B, f * 2 * D), at least fp32: from the lowest row up its D means, then its D standard deviations (of the
        population, not below `LEAST_STD`).

    Source: rows of frequency side by side: Niizumi et al. 2022, arXiv:2210.14648 (M2D); mean and standard deviation
        over time: Okabe et al. 2018, arXiv:1803.10963 (statistics pooling).
    """
    values, (num_times, num_rows) = upcast(tokens.values), tokens.grid
    there = torch.ones_like(values[:, :, :1])
    if tokens.keep is not None:
        places, size = tokens.keep.unsqueeze(2), (values.shape[0], num_times * num_rows)
        there = values.new_zeros(*size, 1).scatter(1, places, there)
        values = values.new_zeros(*size, values.shape[2]).scatter(1, places.expand_as(values), values)
    values, there = (each.unflatten(1, (num_times, num_rows)) for each in (values, there))
    count = there.sum(dim=1).clamp(min=1)
    mean = values.sum(dim=1) / count
    variance = ((values - mean.unsqueeze(1)) * there).square().sum(dim=1) / count
    return torch.stack([mean, variance.clamp(min=LEAST_STD**2).sqrt()], dim=2).flatten(1)
