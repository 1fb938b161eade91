"""Compute the numbers behind the figures, apart from the drawing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcrast.config.words import natural

Curve = tuple[NDArray[Any], NDArray[Any]]


def curves(lines: Iterable[Mapping[str, Any]], stage: str, key: str, *, over: str = "step") -> dict[str, Curve]:
    """(x, y) per fold of the lines of `stage` that hold both `over` and a finite `key`, sorted by x."""
    points: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        if line.get("stage") != stage or not (_is_number(line.get(over)) and _is_number(line.get(key))):
            continue
        points.setdefault(str(line.get("fold", "1")), []).append((float(line[over]), float(line[key])))
    found = {}
    for fold in sorted(points, key=natural):
        pairs = np.array(sorted(points[fold]))
        found[fold] = (pairs[:, 0], pairs[:, 1])
    return found


def moving_mean(values: NDArray[Any], width: int) -> NDArray[Any]:
    """Centred mean over `width` values (odd), over fewer at both ends, so that the curve keeps its length."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


@dataclass(frozen=True)
class Confusion:
    """Counts (C, C), row = true class, column = predicted class; `shares` are the counts over their row's sum."""

    counts: NDArray[np.int64]
    shares: NDArray[np.float64]

    def worst(self, top: int = 5) -> list[tuple[int, int, int, int]]:
        """The most frequent mistakes: (true, predicted, count, clips of the true class)."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:top]
        pairs = [divmod(int(flat), len(wrong)) for flat in order]
        return [(t, p, int(wrong[t, p]), int(self.counts[t].sum())) for t, p in pairs if wrong[t, p] > 0]


def confusion(scores: NDArray[Any], labels: NDArray[Any]) -> Confusion:
    """Confusion matrix of single-label clips.

    Args:
        scores: (n, C), larger is likelier.
        labels: (n, C), one-hot.

    Raises:
        ValueError: a clip has no label or several; a confusion matrix is not defined then.
    """
    if scores.shape != labels.shape:
        raise ValueError(f"scores are {scores.shape}, labels {labels.shape}: they must agree")
    if not np.all(np.sum(labels > 0, axis=1) == 1):
        raise ValueError("some clips have no label or several, for which a confusion matrix is not defined")
    classes = scores.shape[1]
    cells = labels.argmax(axis=1) * classes + scores.argmax(axis=1)
    counts = np.bincount(cells, minlength=classes**2).reshape(classes, classes).astype(np.int64)
    return Confusion(counts, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def principal_plane(embeddings: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Projection of (n, D) embeddings on their two directions of largest variance.

    Returns:
        (n, 2) coordinates and (2,) shares of the total variance. Each direction points where its entry of largest
        magnitude is positive, so that the map does not flip between machines.

    Raises:
        ValueError: fewer than 3 clips, fewer than 2 dimensions, or values that are not finite.
    """
    if embeddings.shape[0] < 3 or embeddings.shape[1] < 2 or not np.isfinite(embeddings).all():
        raise ValueError(f"embeddings {embeddings.shape} are too few or not finite")
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    plane = directions[:, :-3:-1]
    plane = plane * np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])
    total = max(float(variances.clip(min=0).sum()), np.finfo(np.float64).tiny)
    return centred @ plane, variances[:-3:-1].clip(min=0) / total


def most_frequent(classes: NDArray[Any], top: int) -> list[int]:
    """The `top` class indices with the most clips, in ascending order."""
    values, counts = np.unique(classes, return_counts=True)
    return sorted(int(value) for value in values[np.argsort(-counts, kind="stable")][:top])


def stack_folds(evaluations: Mapping[str, Mapping[str, NDArray[Any]]], names: Sequence[str]) -> list[NDArray[Any]]:
    """The arrays called `names`, concatenated over the folds that have all of them.

    Raises:
        KeyError: no fold has them.
    """
    having = [arrays for arrays in evaluations.values() if all(name in arrays for name in names)]
    if not having:
        raise KeyError(f"no fold's evaluation holds {' and '.join(names)}")
    return [np.concatenate([arrays[name] for arrays in having]) for name in names]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
