"""Put a run's numbers into small tables: stages, loss terms, time, classes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vcrast.config.metric import Metric, duration
from vcrast.evaluation.metrics import average_precision, class_accuracy, class_auc
from vcrast.runs.record import RunRecord
from vcrast.runs.report.headline import MISSING, described, evaluation_first
from vcrast.runs.report.lead import between
from vcrast.runs.report.numbers import curves

COSTS = ("samples_per_s", "data_s", "compute_s", "peak_memory_bytes", "wall_s")
"""Numbers of the table of time, and of no other."""
UNTRAINED = "untrained_"


@dataclass(frozen=True)
class Small:
    """A table: title, header, rows of text cells, the first of which names the row, and what is said below it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def stage_tables(record: RunRecord) -> list[Small]:
    """A table for each stage: its numbers beside those of the untrained encoder, where there are some."""
    return [table for stage in evaluation_first(record.summary) if (table := _stage(record, stage)).rows]


def _stage(record: RunRecord, stage: str) -> Small:
    shown, parts = described(record.summary, stage), record.parts(stage)
    mean, std = means(record, stage)
    untrained = any(name.startswith(UNTRAINED) and name in mean for name in shown)
    plain = {
        name: Metric(name.replace("_", " "))
        for name, value in mean.items()
        if name not in shown and isinstance(value, int | float | str)
    }
    rows, notes = [], []
    for name, metric in {**shown, **plain}.items():
        if name in (*COSTS, *parts) or name.startswith(UNTRAINED):
            continue
        if isinstance(words := mean.get(name), str):
            notes.append(f"{metric.label}: {words}.")
            continue
        cells = [between(metric, mean.get(name), std.get(name))]
        if untrained:
            before = UNTRAINED + name
            cells.append(between(metric, mean.get(before), std.get(before)))
        if any(cells):
            rows.append([metric.label, *(cell or MISSING for cell in cells)])
    return Small(stage, ["", *(["trained", "untrained"] if untrained else [_over(record)])], rows, notes)


def _over(record: RunRecord) -> str:
    return "mean ± std" if len(record.summary.get("folds") or {}) > 1 else "value"


def means(record: RunRecord, stage: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Mean over the folds of each number, what is text from the first fold, and the standard deviations."""
    words = {
        name: value
        for fold in _folds(record, stage)[:1]
        for name, value in fold[stage].items()
        if isinstance(value, str)
    }
    numbers = (record.summary.get("mean") or {}).get(stage) or {}
    return {**words, **numbers}, (record.summary.get("std") or {}).get(stage) or {}


def _folds(record: RunRecord, stage: str) -> list[Mapping[str, Any]]:
    return [fold for fold in (record.summary.get("folds") or {}).values() if (fold or {}).get(stage)]


def loss_terms(record: RunRecord) -> list[Small]:
    """For each stage with parts of its loss: what each was when it was first logged and what it came to, over folds."""
    found = []
    for stage in evaluation_first(record.summary):
        parts, shown = record.parts(stage), described(record.summary, stage)
        rows = []
        last = means(record, stage)[0]
        for name in ["loss", *parts] if parts else []:
            if name not in shown:
                continue
            metric, ends = shown[name], list(curves(record.lines, stage, name).values())
            if ends:
                texts = [metric.text(statistics.fmean(float(y[at]) for _, y in ends)) for at in (0, -1)]
                rows.append([metric.label, *texts])
            elif isinstance(last.get(name), int | float):  # of a run with fewer steps than it logs one of
                rows.append([metric.label, MISSING, metric.text(last[name])])
        if rows:
            found.append(Small(f"Terms of the loss, {stage}", ["", "first logged", "last"], rows))
    return found


def time_table(record: RunRecord) -> Small:
    """Of each stage: samples a second, time per sample split into data and compute, memory, hours."""
    header = [
        "",
        "samples/s",
        "data, ms a sample",
        "compute, ms a sample",
        "waiting for data",
        "peak memory",
        "wall time, all folds",
    ]
    rows = []
    for stage in evaluation_first(record.summary):
        shown, (mean, _) = described(record.summary, stage), means(record, stage)
        rate, data, compute = (mean.get(name) for name in COSTS[:3])
        split = ["", "", ""]
        if rate and data is not None and compute is not None and data + compute > 0:
            share = data / (data + compute)
            split = [f"{1000 * share / rate:.3g}", f"{1000 * (1 - share) / rate:.3g}", f"{100 * share:.1f} %"]
        texts = {name: between(shown[name], mean.get(name), None) for name in COSTS if name in shown}
        spent = sum(fold[stage].get("wall_s") or 0.0 for fold in _folds(record, stage))
        wall = duration(spent) if spent else ""
        cells = [texts.get("samples_per_s"), *split, texts.get("peak_memory_bytes"), wall]
        if any(cells):
            rows.append([stage, *(cell or MISSING for cell in cells)])
    return Small("Time", header, rows)


@dataclass(frozen=True)
class ClassRow:
    """A class: its test clips over all folds, and means over the folds that define them; NaN where none does."""

    name: str
    clips: int
    accuracy: float
    AP: float
    auc: float


def class_rows(record: RunRecord) -> Iterator[ClassRow]:
    """A row for each class that has test clips; none where no fold has finite scores."""
    having = [arrays for arrays in record.evaluations.values() if "scores" in arrays and "labels" in arrays]
    scored = [arrays for arrays in having if np.isfinite(arrays["scores"]).all()]
    columns, counts = [], []
    for arrays in scored:
        scores, labels = torch.from_numpy(arrays["scores"]), torch.from_numpy(arrays["labels"])
        single = bool((labels.gt(0).sum(dim=1) == 1).all())
        right = class_accuracy(scores, labels.argmax(dim=1)) if single else torch.full(labels.shape[1:], torch.nan)
        columns.append(torch.stack([right, average_precision(scores, labels), class_auc(scores, labels)]))
        counts.append(labels.gt(0).sum(dim=0))
    if not columns:
        return
    values = torch.stack(columns).double().nanmean(dim=0).numpy()
    for place, count in enumerate(np.sum([each.numpy() for each in counts], axis=0)):
        if count:
            yield ClassRow(record.classes[place], int(count), *map(float, values[:, place]))
