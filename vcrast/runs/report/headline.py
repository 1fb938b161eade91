"""A run's numbers as one table of text cells, for terminal and page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vcrast.config.metric import Metric
from vcrast.config.words import natural

MISSING = "–"  # noqa: RUF001 (an en dash is the usual mark of an empty cell)


@dataclass(frozen=True)
class MetricRow:
    """One metric: its name, a cell per fold, then mean and standard deviation over the folds."""

    label: str
    cells: list[str]
    mean: str
    std: str


@dataclass(frozen=True)
class StageRows:
    """The metrics of one stage."""

    stage: str
    rows: list[MetricRow]


@dataclass(frozen=True)
class Headline:
    """The table: the folds that are its columns, and its groups of rows."""

    folds: list[str]
    groups: list[StageRows]


def headline(summary: Mapping[str, Any]) -> Headline:
    """The table of `summary.json`: evaluation first, then the stages.

    A metric that no fold has is left out, unless a fold says why it is undefined.
    """
    per_fold = summary.get("folds") or {}
    folds = sorted((str(fold) for fold in per_fold), key=natural)
    stages = [per_fold[fold] or {} for fold in folds]
    groups = []
    for stage in evaluation_first(summary):
        blocks = [block.get(stage) or {} for block in (*stages, summary.get("mean") or {}, summary.get("std") or {})]
        named = described(summary, stage)
        extra = {
            key: Metric(key.replace("_", " "))
            for block in blocks
            for key, value in block.items()
            if key not in named and not isinstance(value, list | dict)
        }
        undefined = {key for block in blocks for key in block.get("undefined") or ()}
        rows = {key: _row(metric, [block.get(key) for block in blocks]) for key, metric in {**named, **extra}.items()}
        shown = [
            row
            for key, row in rows.items()
            if key in undefined or any(cell != MISSING for cell in (*row.cells, row.mean))
        ]
        if shown:
            groups.append(StageRows(stage, shown))
    return Headline(folds, groups)


def described(summary: Mapping[str, Any], stage: str) -> dict[str, Metric]:
    """How the numbers of a stage are shown, as the run itself has written it down."""
    found = (summary.get("metrics") or {}).get(stage) or {}
    return {name: Metric(**values) for name, values in found.items()}


def evaluation_first(summary: Mapping[str, Any]) -> list[str]:
    """The stages that a run has numbers of: what it is worth, then how it came to it."""
    stages = [stage for fold in (summary.get("folds") or {}).values() for stage in fold or {}]
    names = dict.fromkeys([*(summary.get("metrics") or {}), *stages])
    return sorted(names, key=lambda stage: stage != "evaluate")


def wall_seconds(summary: Mapping[str, Any], lines: list[dict[str, Any]]) -> float | None:
    """Seconds of all stages and folds; of an unfinished run, from its first logged line to its last."""
    per_fold = (summary.get("folds") or {}).values()
    spent = [stage.get("wall_s") for fold in per_fold for stage in (fold or {}).values() if isinstance(stage, Mapping)]
    numbers = [value for value in spent if isinstance(value, int | float)]
    if numbers:
        return float(sum(numbers))
    times = [line["time"] for line in lines if isinstance(line.get("time"), int | float)]
    return float(max(times) - min(times)) if len(times) > 1 else None


def _row(metric: Metric, values: list[Any]) -> MetricRow:
    *cells, mean, std = [_cell(value, metric) for value in values]
    return MetricRow(metric.label, cells, mean, std)


def _cell(value: Any, metric: Metric) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return metric.text(value) if math.isfinite(value) else str(value)
