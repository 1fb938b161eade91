"""Say first what a run reached: its leading number, of what it is, and what was run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vcrast.config.metric import Metric
from vcrast.runs.record import RunRecord
from vcrast.runs.report.headline import described, evaluation_first

PLACES = (
    "recipe",
    "run.dir",
    "run.resume",
    "run.device",
    "launch.jobs",
    "logger",
    "data.cache_dir",
    "data.num_workers",
)
"""Overrides that say where and how a run computes, not what."""


@dataclass(frozen=True)
class Lead:
    """The leading number.

    Attributes:
        label: what it is.
        value: without its unit.
        unit: such as `%`; empty if it has none.
        spread: `± 5.8`, or empty.
        of: the sentence that says over what it is taken.
        beside: name and text of numbers to judge it by: chance, the untrained encoder.
    """

    label: str
    value: str
    unit: str
    spread: str
    of: str
    beside: list[tuple[str, str]]


def lead(record: RunRecord) -> Lead | None:
    """The number that says most: the first headline of the evaluation, or what pretraining came to; None if none."""
    for stage in evaluation_first(record.summary):
        values = (record.summary.get("mean") or {}).get(stage) or {}
        shown = described(record.summary, stage)
        names = [name for name, metric in shown.items() if metric.headline] or ["above_floor", "loss"]
        for name in names:
            if name in shown and isinstance(values.get(name), int | float):
                return _lead(record, stage, name, shown)
    return None


def _lead(record: RunRecord, stage: str, name: str, shown: Mapping[str, Metric]) -> Lead:
    mean, std = ((record.summary.get(kind) or {}).get(stage) or {} for kind in ("mean", "std"))
    folds = [
        fold[stage] for fold in (record.summary.get("folds") or {}).values() if name in (fold or {}).get(stage, {})
    ]
    clips = sum(int(fold.get("num_test_clips") or 0) for fold in folds)
    metric, value = shown[name], float(mean[name])
    error, of = std.get(name), f"over {len(folds)} folds"
    if len(folds) > 1:
        of = f"Mean and standard deviation {of}" + (f", {clips:,} test clips in all" if clips else "")
    elif clips:
        of = f"Of {clips:,} test clips, one fold"
        if name.endswith("accuracy"):
            error = math.sqrt(max(value * (1 - value), 0) / clips)
            of += "; ± is the standard error that the choice of so many clips gives"
    else:
        of = f"At the end of {stage}"
    number, unit = split_unit(metric.text(value))
    spread = f"± {split_unit(metric.text(float(error)))[0]}" if isinstance(error, int | float) else ""
    return Lead(metric.label, number, unit, spread, of, list(_beside(record, name, mean, shown).items()))


def _beside(record: RunRecord, name: str, mean: Mapping[str, Any], shown: Mapping[str, Metric]) -> dict[str, str]:
    found = {}
    if name.endswith("accuracy") and len(record.classes) > 1:
        found["Chance"] = shown[name].text(1 / len(record.classes))
    before = mean.get(f"untrained_{name}")
    if isinstance(before, int | float):
        found["Untrained encoder"] = shown[name].text(before)
    others = [(key, metric) for key, metric in shown.items() if metric.headline and key != name]
    for key, metric in others:
        if isinstance(mean.get(key), int | float):
            found[metric.label] = metric.text(mean[key])
    return found


def split_unit(text: str) -> tuple[str, str]:
    """A number as text and its unit: `81.2 %` -> `81.2`, `%`; a duration stays whole."""
    match = re.fullmatch(r"(-?[\d.,e+-]+) (\D+)", text)
    return (match[1], match[2]) if match else (text, "")


def between(metric: Metric, mean: Any, std: Any) -> str:
    """`76.0 ± 5.8 %`: a mean with its standard deviation, if there is one; empty if it is no number."""
    if not isinstance(mean, int | float):
        return "" if mean is None else str(mean)
    number, unit = split_unit(metric.text(float(mean)))
    if isinstance(std, int | float) and std > 0 and metric.format not in ("duration", "bytes", "count"):
        scatter = f"{std:.2g}" if metric.format == "significant" else split_unit(metric.text(float(std)))[0]
        number += f" ± {scatter}"
    return f"{number} {unit}".strip()


def differences(record: RunRecord) -> list[str]:
    """The words of the command line by which the run differs from its recipe."""
    return [word for word in record.overrides if word.split("=")[0].strip("+~") not in PLACES]


def planned(record: RunRecord) -> list[str]:
    """What each stage did, in words: `534 steps of pretraining`; stages that are not done are left out."""
    names = {"pretrain": "pretraining", "finetune": "finetuning"}
    mean = record.summary.get("mean") or {}
    return [
        f"{mean[stage]['steps']:,.0f} steps of {name}"
        for stage, name in names.items()
        if "steps" in mean.get(stage, {})
    ]
