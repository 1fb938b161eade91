"""Ridge regression that chooses its own penalty, and the share of a target's variance that a prediction explains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(-10, 9))  # 1e-5 to 1e4 times the variance of a feature


def ridge_predict(
    train: Tensor, targets: Tensor, test: Tensor, *, penalties: Sequence[float] = PENALTIES
) -> tuple[Tensor, Tensor]:
    """Linear regression with squared weights penalised, fitted on some rows and read out on others.

    Features are standardised by the training rows; the constant is not penalised. For each target the penalty is the
    one with the least mean squared error when each training row is left out in turn, which needs no refit: a row's
    residual without itself is its residual over 1 - h, h its leverage. In float64.

    Args:
        train: (n, D) features, n at least 2.
        targets: (n, C).
        test: (m, D).
        penalties: to choose from; penalty * |w|^2 is added to the mean squared error.

    Returns:
        (m, C) predictions and (C,) the penalties chosen, float64.

    Raises:
        ValueError: fewer than 2 training rows, no penalty or one that is not positive, or numbers that are not finite.

    Source: Allen 1974, "The relationship between variable selection and data augmentation" (PRESS).
    """
    if len(train) < 2:
        raise ValueError(f"ridge regression on {len(train)} rows: needs at least 2")
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties {tuple(penalties)}: give at least one, all above 0")
    if not all(torch.isfinite(numbers).all() for numbers in (train, targets, test)):
        raise ValueError("features and targets must be finite: one of them is NaN or infinite")
    train, targets, test = train.double(), targets.double(), test.double()
    mean, std = train.mean(dim=0), train.std(dim=0).clamp_min(1e-6)
    offset = targets.mean(dim=0)
    left, singular, right = torch.linalg.svd((train - mean) / std, full_matrices=False)
    along = left.T @ (targets - offset)  # (k, C), k = min(n, D)
    strengths = torch.tensor(penalties, dtype=torch.float64, device=train.device)
    shrink = singular.square() / (singular.square() + len(train) * strengths.unsqueeze(1))  # (penalties, k)
    errors = [_left_out_error(left, kept, along, targets - offset) for kept in shrink]
    best = torch.stack(errors).argmin(dim=0)  # (C,)
    # From singular vectors to weights: shrink / singular, written without dividing by a singular value of 0.
    scale = singular.unsqueeze(1) / (singular.square().unsqueeze(1) + len(train) * strengths[best])
    weights = right.T @ (scale * along)
    return (test - mean) / std @ weights + offset, strengths[best]


def _left_out_error(left: Tensor, kept: Tensor, along: Tensor, centred: Tensor) -> Tensor:
    """(C,) mean squared error of each row, predicted by the others."""
    residual = centred - left @ (kept.unsqueeze(1) * along)
    leverage = 1 / len(left) + left.square() @ kept
    return (residual / (1 - leverage).clamp_min(1e-12).unsqueeze(1)).square().mean(dim=0)


def r2(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - squared error / squared deviation from the mean, both of these rows: 1 is perfect, 0 as good as their mean.

    Args:
        prediction: (m, C).
        target: (m, C).

    Returns:
        (C,) float64; NaN where the target is constant.

    Raises:
        ValueError: different shapes, or no rows.
    """
    if prediction.shape != target.shape or len(target) == 0:
        raise ValueError(f"predictions {tuple(prediction.shape)} and targets {tuple(target.shape)} must be (rows, C)")
    prediction, target = prediction.double(), target.double()
    deviation = (target - target.mean(dim=0)).square().sum(dim=0)
    score = 1 - (prediction - target).square().sum(dim=0) / deviation
    return torch.where(deviation > 0, score, torch.nan)
