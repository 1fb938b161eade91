"""Look over many run folders: what each is, how far it is, its best number."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcrast.config.metric import Metric
from vcrast.config.saved import read_summary
from vcrast.config.words import natural
from vcrast.runs.lock import NAME, SILENT_S
from vcrast.runs.report.headline import described

RUNNING, STOPPED, DONE = "running", "stopped", "done"
STATES = (RUNNING, STOPPED, DONE)
TAIL_BYTES = 2**16  # of metrics.jsonl: its last line lies there


@dataclass(frozen=True)
class Overview:
    """One run folder at a glance.

    Attributes:
        folder: of the run.
        recipe: its name.
        state: `running` while its lock is alive, `done` once its report is written, else `stopped`.
        at: the fold, stage and step that were logged last, in words; empty before the first.
        numbers: mean over the folds of every number of the evaluation, by name.
        shown: how each is shown.
        warnings: how many the run has.
        changed: when a file of it was last written, seconds since 1970.
        fault: what of it cannot be read; empty if nothing.
    """

    folder: Path
    recipe: str
    state: str
    at: str
    numbers: Mapping[str, float]
    shown: Mapping[str, Metric]
    warnings: int
    changed: float
    fault: str = ""

    @property
    def headline(self) -> str:
        """The name of the number that says most; empty where there is none yet."""
        return next((name for name, metric in self.shown.items() if metric.headline and name in self.numbers), "")

    @property
    def age_s(self) -> float:
        """Seconds since it was last written."""
        return max(0.0, time.time() - self.changed)


def find_run_folders(top: Path) -> Iterator[Path]:
    """Every run folder at `top` or below, in natural order; what lies in a run folder is not looked at.

    Raises:
        FileNotFoundError: no such folder.
    """
    if not top.is_dir():
        raise FileNotFoundError(f"{top}: no such folder; runs lie under runs/ where they were started")
    for path, folders, files in os.walk(top):
        if "config.yaml" in files and ("overrides.txt" in files or "metrics.jsonl" in files):
            folders.clear()
            yield Path(path)
        folders.sort(key=natural)


def look(folder: Path) -> Overview:
    """Look at a run folder, whatever state it is in."""
    fault, summary = "", dict[str, Any]()
    try:
        summary = read_summary(folder / "summary.json")
    except ValueError as error:
        fault = str(error)
    per_fold = summary.get("folds") or {}
    evaluated = [stages["evaluate"] for stages in per_fold.values() if "evaluate" in stages]
    shown = described(summary, "evaluate")
    numbers = {name: mean for name in shown if (mean := _mean([each.get(name) for each in evaluated])) is not None}
    written = [path.stat().st_mtime for path in folder.iterdir() if path.is_file()]
    return Overview(
        folder, str(summary.get("recipe") or folder.parent.name), state_of(folder, summary), place_of(folder, summary),
        numbers, shown, len(summary.get("warnings") or ()), max(written, default=0.0), fault,
    )  # fmt: skip


def state_of(folder: Path, summary: Mapping[str, Any]) -> str:
    """One of `STATES`."""
    try:
        if time.time() - (folder / NAME).stat().st_mtime < SILENT_S:
            return RUNNING
    except FileNotFoundError:
        pass
    folds = summary.get("folds") or {}
    begun = [(fold, stage) for fold, stages in (summary.get("inputs") or {}).items() for stage in stages]
    over = bool(folds) and all(stage in folds.get(fold, {}) for fold, stage in begun)
    return DONE if over and (folder / "report.html").is_file() else STOPPED


def place_of(folder: Path, summary: Mapping[str, Any]) -> str:
    """What was logged last: `fold 1 pretrain 120 of 430`."""
    line = last_line(folder / "metrics.jsonl")
    if line is None:
        return ""
    fold, stage = str(line.get("fold")), str(line.get("stage"))
    planned = ((summary.get("inputs") or {}).get(fold, {}).get(stage) or {}).get("steps")
    return f"fold {fold} {stage} {line.get('step')}" + (f" of {planned}" if planned else "")


def last_line(path: Path) -> dict[str, Any] | None:
    """The last whole object of a file of JSON lines; None if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:  # cut by a kill
            continue
        if isinstance(found, dict):
            return found
    return None


def _mean(values: list[Any]) -> float | None:
    known = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return statistics.fmean(known) if known and len(known) == len(values) else None
