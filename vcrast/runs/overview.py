"""Look over many run folders: what each is, how far it is, its best number."""

from __future__ import annotations

import itertools
import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vcrast.config.metric import Metric
from vcrast.config.saved import read_summary
from vcrast.config.words import natural
from vcrast.runs.lock import NAME, NOTE, SILENT_S
from vcrast.runs.report.headline import described

log = logging.getLogger(__name__)

RUNNING, STOPPED, DONE = "running", "stopped", "done"
STATES = (RUNNING, STOPPED, DONE)
SWEEP, ARRAY = "sweep.json", "array.json"  # the runs of a sweep on this machine, of one submitted to Slurm
TAIL_BYTES = 2**16  # of metrics.jsonl: its last line lies there
PACE_LINES = 20  # the latest, whose pace says how long the rest takes
TOLD = {
    "test_accuracy": "test accuracy",
    "test_mAP": "test mAP",
    "knn_accuracy": "kNN",
    "knn_mAP": "kNN mAP",
    "loss": "loss",
}
"""Logged numbers that tell of a run before its evaluation, those that say most first."""


@dataclass(frozen=True)
class Place:
    """Where a run is, from what it logged last.

    Attributes:
        stage: empty before the first line.
        fold: of the stage.
        step: done.
        steps: of the whole stage; None where the run has not said it.
        samples_per_s: as logged last.
        left_s: until the stage is over at the pace of the latest lines; None where that is unknown.
        told: what tells most of what was logged, such as `loss 1.82`.
    """

    stage: str = ""
    fold: str = ""
    step: int = 0
    steps: int | None = None
    samples_per_s: float | None = None
    left_s: float | None = None
    told: str = ""

    def __str__(self) -> str:
        of = f" of {self.steps}" if self.steps else ""
        return f"fold {self.fold} {self.stage} {self.step}{of}" if self.stage else ""


@dataclass(frozen=True)
class Overview:
    """One run folder at a glance.

    Attributes:
        folder: of the run.
        recipe: its name.
        state: `running` while its lock is alive, `done` once its report is written, else `stopped`.
        place: the fold, stage and step that were logged last.
        numbers: mean over the folds of every number of the evaluation, by name.
        num_folds: how many folds are in that mean.
        shown: how each is shown.
        warnings: how many the run has.
        changed: when a file of it was last written, its lock's heartbeat apart; seconds since 1970.
        fault: what of it cannot be read; empty if nothing.
    """

    folder: Path
    recipe: str
    state: str
    place: Place = field(default_factory=Place)
    numbers: Mapping[str, float] = field(default_factory=dict)
    num_folds: int = 0
    shown: Mapping[str, Metric] = field(default_factory=dict)
    warnings: int = 0
    changed: float = 0.0
    fault: str = ""

    @property
    def headline(self) -> str:
        """The name of the number that says most; empty where there is none yet."""
        return next((name for name, metric in self.shown.items() if metric.headline and name in self.numbers), "")

    @property
    def number(self) -> str:
        """The number that says most, as text: of the evaluation, else what was logged last."""
        name = self.headline
        if not name:
            return self.place.told
        over = f" ({self.num_folds} fold{'s' * (self.num_folds > 1)})" if self._is_partial else ""
        return f"{self.shown[name].short or name} {self.shown[name].text(self.numbers[name])}{over}"

    @property
    def _is_partial(self) -> bool:
        return self.num_folds > 1 or self.state != DONE

    @property
    def age_s(self) -> float:
        """Seconds since it was last written."""
        return max(0.0, time.time() - self.changed)


def find_run_folders(top: Path, unreadable: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Every run folder at `top` or below, in natural order; what lies in a run folder is not looked at.

    Args:
        top: where to begin.
        unreadable: told of folders that cannot be looked into; default: a warning each.

    Raises:
        FileNotFoundError: no such folder.
    """
    if not top.is_dir():
        raise FileNotFoundError(f"{top}: no such folder; runs lie under runs/ where they were started")
    for path, folders, files in os.walk(top, onerror=unreadable or _warn):
        if "config.yaml" in files and ("overrides.txt" in files or "metrics.jsonl" in files):
            folders.clear()
            yield Path(path)
        folders.sort(key=natural)


def _warn(error: OSError) -> None:
    log.warning("%s: not looked into: %s", error.filename, error.strerror)


def look(folder: Path) -> Overview:
    """Look at a run folder, whatever state it is in."""
    faults, summary, written = [], dict[str, Any](), list[float]()
    place = Place()
    try:
        summary = read_summary(folder / "summary.json")
    except (ValueError, OSError) as error:
        faults.append(str(error))
    try:
        files = [path for path in folder.iterdir() if path.name not in (NAME, NOTE)]
        written = [path.stat().st_mtime for path in files if path.is_file()]
        place = place_of(folder, summary)
    except OSError as error:  # vanished just now, or not ours to read
        faults.append(f"{error.filename}: {error.strerror}")
    per_fold = summary.get("folds") or {}
    evaluated = [stages["evaluate"] for stages in per_fold.values() if "evaluate" in stages]
    shown = described(summary, "evaluate")
    numbers = {name: mean for name in shown if (mean := _mean([each.get(name) for each in evaluated])) is not None}
    return Overview(
        folder, str(summary.get("recipe") or folder.parent.name), state_of(folder, summary), place, numbers,
        len(evaluated), shown, len(summary.get("warnings") or ()), max(written, default=0.0), "; ".join(faults),
    )  # fmt: skip


def state_of(folder: Path, summary: Mapping[str, Any]) -> str:
    """One of `STATES`."""
    try:
        if time.time() - (folder / NAME).stat().st_mtime < SILENT_S:
            return RUNNING
    except OSError:
        pass
    folds = summary.get("folds") or {}
    begun = [(fold, stage) for fold, stages in (summary.get("inputs") or {}).items() for stage in stages]
    over = bool(folds) and all(stage in folds.get(fold, {}) for fold, stage in begun)
    return DONE if over and (folder / "report.html").is_file() else STOPPED


def place_of(folder: Path, summary: Mapping[str, Any]) -> Place:
    """Where the run is.

    Raises:
        OSError: its metrics cannot be read; that there are none yet is no error.
    """
    lines = last_lines(folder / "metrics.jsonl")
    if not lines:
        return Place()
    fold, stage = str(lines[-1].get("fold")), str(lines[-1].get("stage"))
    own = [line for line in lines if (str(line.get("fold")), str(line.get("stage"))) == (fold, stage)]
    step = lines[-1].get("step")
    step = int(step) if isinstance(step, int | float) else 0
    steps = ((summary.get("inputs") or {}).get(fold, {}).get(stage) or {}).get("steps")
    steps = int(steps) if isinstance(steps, int | float) else None
    pace_s = seconds_per_step(own)
    return Place(
        stage, fold, step, steps, _latest(own, "samples_per_s"),
        max(0, steps - step) * pace_s if steps and pace_s is not None else None, told(own),
    )  # fmt: skip


def seconds_per_step(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """The median pace between the latest lines of one stage, so that a pause between two of them does not count."""
    stamped = [line for line in lines if "loss" in line and _is_number(line.get("time")) and _is_number(line["step"])]
    latest = stamped[-PACE_LINES - 1 :]
    paces = [
        (later["time"] - line["time"]) / (later["step"] - line["step"])
        for line, later in itertools.pairwise(latest)
        if later["step"] > line["step"]
    ]
    return max(0.0, statistics.median(paces)) if paces else None


def told(lines: Sequence[Mapping[str, Any]]) -> str:
    """Which of `TOLD` the lines have, its latest value in words; empty for none."""
    for name, label in TOLD.items():
        value = _latest(lines, name)
        if value is not None:
            return f"{label} {100 * value:.1f} %" if name.endswith("accuracy") else f"{label} {value:.4g}"
    return ""


def _latest(lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = (line.get(name) for line in reversed(lines))
    return next((float(value) for value in values if _is_number(value)), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def last_lines(path: Path) -> list[dict[str, Any]]:
    """The last whole objects of a file of JSON lines, in order; empty if there are none.

    Raises:
        OSError: it cannot be read; that it is not there is no error.
    """
    found = []
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:  # cut by a kill, or by where the tail begins
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _mean(values: list[Any]) -> float | None:
    known = [float(value) for value in values if _is_number(value)]
    return statistics.fmean(known) if known and len(known) == len(values) else None
