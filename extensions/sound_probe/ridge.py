"""Ridge regression with a penalty chosen for each target, and R2, by scikit-learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
except ModuleNotFoundError as error:
    raise ValueError(f"the probe needs scikit-learn ({error}); pip install 'vcrast[probe]'") from None

PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(-10, 9))  # 1e-5 to 1e4 times the variance of a feature


def fit_ridge(features: Tensor, targets: Tensor) -> Any:
    """Standardise features and fit linear regression with squared weights penalised, the constant left free.

    Each target gets the penalty with the least mean squared error when each row is left out in turn.

    Args:
        features: (n, D).
        targets: (n, C).

    Returns:
        A fitted scikit-learn pipeline, float64; its `predict` takes (m, D) and gives (m, C).

    Raises:
        ValueError: numbers that are not finite.

    Source: Allen 1974, "The relationship between variable selection and data augmentation" (PRESS).
    """
    # scikit-learn adds the penalty to the sum of squared errors; ours are relative to their mean.
    alphas = [penalty * len(features) for penalty in PENALTIES]
    model = make_pipeline(StandardScaler(), RidgeCV(alphas, alpha_per_target=True))
    return model.fit(_array(features), _array(targets))


def predict(model: Any, features: Tensor) -> Tensor:
    """(m, D) -> (m, C) float64 predictions of a fitted pipeline."""
    # Of a single target scikit-learn gives (m,).
    return torch.from_numpy(model.predict(_array(features))).reshape(len(features), -1)


def r2(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - squared error / squared deviation from the mean, both of these rows: 1 is perfect, 0 as good as their mean.

    Args:
        prediction: (m, C).
        target: (m, C).

    Returns:
        (C,) float64; not finite where the target is constant.
    """
    scores = r2_score(_array(target), _array(prediction), multioutput="raw_values", force_finite=False)
    return torch.from_numpy(scores)


def _array(numbers: Tensor) -> Any:
    return numbers.double().numpy()
