"""The headline numbers of a run as text cells: one table for the terminal and for the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vcrast.config.words import natural

MISSING = "–"  # noqa: RUF001 (an en dash is the usual mark of an empty cell)


@dataclass(frozen=True)
class Row:
    """One metric: its name, a cell per fold, then mean and standard deviation over the folds."""

    label: str
    cells: list[str]
    mean: str
    std: str


@dataclass(frozen=True)
class Group:
    """The metrics of one stage."""

    stage: str
    rows: list[Row]


@dataclass(frozen=True)
class Headline:
    """The table: the folds that are its columns, and its groups of rows."""

    folds: list[str]
    groups: list[Group]


def percent(value: float) -> str:
    """0.8125 -> 81.2 %."""
    return f"{100 * value:.1f} %"


def fixed(value: float) -> str:
    """0.81249 -> 0.812."""
    return f"{value:.3f}"


def significant(value: float) -> str:
    """Four significant digits without an exponent where that is readable."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def count(value: float) -> str:
    """12800 -> 12,800."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def size(value: float) -> str:
    """Bytes in binary units, as GPU memory is quoted."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{value / scale:.1f} {unit}"
    return f"{value:.0f} B"


def duration(value: float) -> str:
    """Seconds as a person says them."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


METRICS: dict[str, dict[str, tuple[str, Callable[[float], str]]]] = {
    "evaluate": {
        "accuracy": ("Accuracy, finetuned", percent),
        "mAP": ("mAP, finetuned", fixed),
        "auc": ("AUC, finetuned", fixed),
        "d_prime": ("d′, finetuned", fixed),  # noqa: RUF001 (the prime is the measure's name)
        "probe_accuracy": ("Accuracy, linear probe", percent),
        "probe_mAP": ("mAP, linear probe", fixed),
        "knn_accuracy": ("Accuracy, nearest neighbours", percent),
        "knn_mAP": ("mAP, nearest neighbours", fixed),
        "untrained_knn_accuracy": ("Accuracy, neighbours, untrained", percent),
        "untrained_knn_mAP": ("mAP, neighbours, untrained", fixed),
        "untrained_probe_accuracy": ("Accuracy, linear probe, untrained", percent),
        "untrained_probe_mAP": ("mAP, linear probe, untrained", fixed),
        "num_test_clips": ("Test clips", count),
        "wall_s": ("Wall time", duration),
    },
    "pretrain": {
        "steps": ("Steps", count),
        "loss": ("Loss", significant),
        "floor": ("Floor of the loss", significant),
        "above_floor": ("Loss above its floor", significant),
        "invariance": ("Invariance term", significant),
        "variance": ("Variance term", significant),
        "covariance": ("Covariance term", significant),
        "embedding_std": ("Embedding std", fixed),
        "effective_rank": ("Effective rank", significant),
        "samples_per_s": ("Samples per second", significant),
        "data_s": ("Time waiting for data", duration),
        "compute_s": ("Time computing", duration),
        "peak_memory_bytes": ("Peak memory", size),
        "wall_s": ("Wall time", duration),
    },
    "finetune": {
        "steps": ("Steps", count),
        "loss": ("Loss", significant),
        "accuracy": ("Accuracy, last epoch", percent),
        "mAP": ("mAP, last epoch", fixed),
        "best_epoch": ("Best epoch on the test clips", count),
        "best_epoch_accuracy": ("Accuracy, best epoch (optimistic)", percent),
        "samples_per_s": ("Samples per second", significant),
        "data_s": ("Time waiting for data", duration),
        "compute_s": ("Time computing", duration),
        "peak_memory_bytes": ("Peak memory", size),
        "wall_s": ("Wall time", duration),
    },
}


def headline(summary: Mapping[str, Any]) -> Headline:
    """The table of `summary.json`: evaluation first, then the stages; a metric that no fold has is left out."""
    per_fold = summary.get("folds") or {}
    folds = sorted((str(fold) for fold in per_fold), key=natural)
    stages = [per_fold[fold] or {} for fold in folds]
    groups = []
    for stage, named in METRICS.items():
        blocks = [block.get(stage) or {} for block in (*stages, summary.get("mean") or {}, summary.get("std") or {})]
        extra = {
            key: (key.replace("_", " "), significant)
            for block in blocks
            for key, value in block.items()
            if key not in named and not isinstance(value, list | dict)
        }
        rows = [
            _row(label, [block.get(key) for block in blocks], form) for key, (label, form) in {**named, **extra}.items()
        ]
        shown = [row for row in rows if any(cell != MISSING for cell in (*row.cells, row.mean))]
        if shown:
            groups.append(Group(stage, shown))
    return Headline(folds, groups)


def wall_seconds(summary: Mapping[str, Any], lines: list[dict[str, Any]]) -> float | None:
    """Seconds of all stages and folds; of an unfinished run, from its first logged line to its last."""
    per_fold = (summary.get("folds") or {}).values()
    spent = [stage.get("wall_s") for fold in per_fold for stage in (fold or {}).values() if isinstance(stage, Mapping)]
    numbers = [value for value in spent if isinstance(value, int | float)]
    if numbers:
        return float(sum(numbers))
    times = [line["time"] for line in lines if isinstance(line.get("time"), int | float)]
    return float(max(times) - min(times)) if len(times) > 1 else None


def _row(label: str, values: list[Any], form: Callable[[float], str]) -> Row:
    *cells, mean, std = [_cell(value, form) for value in values]
    return Row(label, cells, mean, std)


def _cell(value: Any, form: Callable[[float], str]) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return form(value) if math.isfinite(value) else str(value)
