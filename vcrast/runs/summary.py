"""`summary.json`: what each stage of each fold reached, mean and std over folds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vcrast.config.atomic import write_atomic
from vcrast.config.metric import Metric
from vcrast.config.saved import read_summary
from vcrast.training.dist import broadcast_object, is_rank_zero


class Summary:
    """Results of a run, written to disk whenever a stage of a fold is done."""

    def __init__(self, path: Path, *, recipe: str, classes: tuple[str, ...]) -> None:
        self.path = path
        known = broadcast_object(read_summary(path) if is_rank_zero() else {})
        self.content: dict[str, Any] = {
            "recipe": recipe,
            "classes": list(classes),
            "folds": known.get("folds", {}),
            "warnings": known.get("warnings", []),
            "metrics": known.get("metrics", {}),
            "parts": known.get("parts", {}),
            "notes": known.get("notes", {}),
            "planned": known.get("planned", {}),
            "inputs": known.get("inputs", {}),
        }

    def done(self, fold: str, stage: str) -> bool:
        """Whether this stage of this fold has finished, in this process or before a restart."""
        return stage in self.content["folds"].get(fold, {})

    def result(self, fold: str, stage: str) -> dict[str, Any]:
        """What `record` was given."""
        found: dict[str, Any] = self.content["folds"][fold][stage]
        return found

    def inputs(self, fold: str, stage: str) -> dict[str, Any] | None:
        """What `begin` was given; None for a stage that has not begun, or that an earlier version has begun."""
        found: dict[str, Any] | None = self.content["inputs"].get(fold, {}).get(stage)
        return found

    def planned(self, stage: str) -> dict[str, Any] | None:
        """What `plan` was given."""
        found: dict[str, Any] | None = self.content["planned"].get(stage)
        return found

    def plan(self, stage: str, length: dict[str, Any]) -> None:
        """Keep a length that was measured, so that the run has the same when it goes on."""
        self.content["planned"][stage] = length
        self.write()

    def alike(self, fold: str, other: str, stage: str) -> bool:
        """Whether a stage of two folds has the same settings and length."""
        one, two = self.inputs(fold, stage) or {}, self.inputs(other, stage) or {}
        return all(one.get(key) == two.get(key) for key in ("settings", "steps"))

    def begin(self, fold: str, stage: str, inputs: dict[str, Any]) -> None:
        """Keep what a stage is made from, before its first step: what is done of it counts for these inputs alone."""
        self.content["inputs"].setdefault(fold, {})[stage] = inputs
        self.write()

    def forget(self, fold: str, stage: str, *, inputs: bool = True) -> None:
        """Drop what a stage has reached, and unless it goes on to another length what it was made from; no write."""
        self.content["folds"].get(fold, {}).pop(stage, None)
        if inputs:
            self.content["inputs"].get(fold, {}).pop(stage, None)

    def record(self, fold: str, stage: str, result: dict[str, Any]) -> None:
        """Add a finished stage and write the file; what is not finite, such as d-prime at an AUC of 1, becomes null."""
        plain = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in result.items()
        }
        self.content["folds"].setdefault(fold, {})[stage] = plain
        self.write()

    def describe(self, stage: str, metrics: Mapping[str, Metric], *, parts: Sequence[str] = (), note: str = "") -> None:
        """Keep how the numbers of a stage are shown, in order, so that every reader of the run shows them alike.

        Args:
            stage: whose numbers they are.
            metrics: by the name in the results.
            parts: those that are parts of the loss.
            note: how to read the curves.
        """
        self.content["metrics"][stage] = {name: metric._asdict() for name, metric in metrics.items()}
        self.content["parts"][stage], self.content["notes"][stage] = list(parts), note
        self.write()

    def warn(self, text: str) -> None:
        """Keep a warning for the report, once."""
        if text not in self.content["warnings"]:
            self.content["warnings"].append(text)

    def write(self) -> None:
        """Write aside and rename, so that a reader never sees half a file; the first process does."""
        if not is_rank_zero():
            return
        # Inputs last: the longest part, and the least read.
        content = {**self.content, **spread(self.content["folds"])}
        content["inputs"] = content.pop("inputs")
        write_atomic(self.path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def spread(folds: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """`mean` and `std` over the folds of every number, by stage.

    The standard deviation is the sample's (n - 1) and None for a single fold. `best_epoch_accuracy` is AST's way to
    report ESC-50: the epoch whose accuracy, averaged over the folds, is highest. It looks at the test folds to choose
    and is therefore optimistic; the plain `accuracy` is the last epoch's. Source: arXiv:2104.01778, released code.
    """
    mean: dict[str, dict[str, float]] = {}
    std: dict[str, dict[str, float | None]] = {}
    for stage in dict.fromkeys(stage for fold in folds.values() for stage in fold):
        results = [fold[stage] for fold in folds.values() if stage in fold]
        for key in {key: None for result in results for key, value in result.items() if _is_number(value)}:
            values = [float(result[key]) for result in results if _is_number(result.get(key))]
            mean.setdefault(stage, {})[key] = statistics.fmean(values)
            std.setdefault(stage, {})[key] = statistics.stdev(values) if len(values) > 1 else None
    results = [fold["finetune"] for fold in folds.values() if "finetune" in fold]
    best = _best_epoch(results) if len(results) > 1 else {}
    if best:
        mean["finetune"].update(best)
    return {"mean": mean, "std": std}


def _best_epoch(results: list[dict[str, Any]]) -> dict[str, float]:
    """Highest mean accuracy over the epochs that every fold has tested."""
    # An epoch's number is null where the test clips do not define it.
    measured = [[point for point in result.get("accuracy_by_epoch", []) if _is_number(point[1])] for result in results]
    curves = [dict(points) for points in measured]
    shared = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    if not shared:
        return {}
    accuracy, epoch = max((statistics.fmean(curve[epoch] for curve in curves), -epoch) for epoch in shared)
    return {"best_epoch": -epoch, "best_epoch_accuracy": accuracy}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
