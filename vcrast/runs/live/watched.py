"""Watch the runs of a folder: what the page asks for, and whether all have ended."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from vcrast.config.saved import read_summary
from vcrast.runs.failure import LOG
from vcrast.runs.live.curves import Curves
from vcrast.runs.lock import NAME, SILENT_S
from vcrast.runs.overview import ARRAY, RUNNING, SWEEP, Overview, find_run_folders, look
from vcrast.runs.record import read_overrides

EVERY_S = 2.0
GRACE_S = 10.0  # from one run's end to what a script starts next
MAX_READ = 48  # runs whose curves are held
LOG_BYTES, LOG_LINES = 2**15, 80
FILES = ("summary.json", "metrics.jsonl", "report.html", NAME)
OWN_WORDS = ("run.dir=", "run.resume=", "launch.jobs=", "recipe=")
WAITING = "waiting"


class Watched:
    """The runs at a folder or below, looked at again when asked, at most every `every_s`; for several threads.

    Args:
        top: a run folder, or one that runs lie in.
        every_s: between two looks.
        grace_s: how long nothing must run until all is over.

    Attributes:
        over: in words, once runs were seen running and have all ended; empty before.

    Raises:
        FileNotFoundError: no such folder.
    """

    def __init__(self, top: Path, *, every_s: float = EVERY_S, grace_s: float = GRACE_S) -> None:
        self.top, self.every_s, self.grace_s = top, every_s, grace_s
        self.over, self.closing = "", False
        self._lock = threading.RLock()
        self._runs: dict[str, Overview] = {}
        self._seen: dict[str, tuple[Any, Overview]] = {}
        self._words: dict[str, list[str]] = {}
        self._curves: OrderedDict[str, Curves] = OrderedDict()
        self._faults: list[str] = []
        self._waiting: list[dict[str, Any]] = []
        self._looked_at = float("-inf")
        self._ran, self._still_since = False, 0.0
        next(find_run_folders(top), None)
        self.look()

    def look(self) -> None:
        """Look at all runs, unless that was done just now."""
        with self._lock:
            if time.monotonic() - self._looked_at < self.every_s:
                return
            faults: list[str] = []
            try:
                found = list(find_run_folders(self.top, lambda error: faults.append(_told(error))))
            except FileNotFoundError:
                found = []
                faults.append(f"{self.top}: the folder is gone")
            self._runs = {self._name(folder): self._overview(folder) for folder in found}
            self._seen = {name: self._seen[name] for name in self._runs}
            self._words = {name: self._words.get(name) or self._read_words(name) for name in self._runs}
            self._waiting = list(self._read_waiting(faults))
            self._faults = faults
            self._looked_at = time.monotonic()
            self._judge()

    def listing(self) -> dict[str, Any]:
        """All runs as plain data."""
        with self._lock:
            self.look()
            common = set.intersection(*map(set, self._words.values())) if len(self._words) > 1 else set()
            rows = [self._row(name, each, common) for name, each in self._runs.items()]
            return {
                "top": str(self.top), "runs": [*rows, *self._waiting], "faults": self._faults, "over": self.over,
                "closing": self.closing, "every_s": self.every_s,
            }  # fmt: skip

    def details(self, name: str, seen: str = "") -> dict[str, Any] | None:
        """Curves, warnings and log of one run; only its name and version where that is `seen`; None: no such run."""
        with self._lock:
            run = self._runs.get(name)
            if run is None:
                return None
            curves = self._curves.pop(name, None) or Curves(run.folder / "metrics.jsonl")
            self._curves[name] = curves
            while len(self._curves) > MAX_READ:
                self._curves.popitem(last=False)
            faults = []
            try:
                curves.read()
            except OSError as error:
                faults.append(_told(error))
            version = f"{curves.version} {curves.share:.3f} {_stamp(run.folder, ('summary.json', LOG))} {faults}"
            if version == seen:
                return {"id": name, "version": version, "same": True}
            found = {"id": name, "version": version, "share": curves.share, "curves": curves.plain()}
        return {**found, **self._texts(run.folder, faults)}

    @property
    def states(self) -> dict[str, str]:
        """The state of every run, by name."""
        with self._lock:
            return {name: each.state for name, each in self._runs.items()}

    def _texts(self, folder: Path, faults: list[str]) -> dict[str, Any]:
        summary: dict[str, Any] = {}
        try:
            summary = read_summary(folder / "summary.json")
        except ValueError as error:
            faults.append(str(error))
        except OSError as error:
            faults.append(_told(error))
        try:
            log = tail(folder / LOG)
        except OSError as error:
            log = ""
            faults.append(_told(error))
        stages = summary.get("metrics") or {}
        return {
            "labels": {stage: {key: each["label"] for key, each in found.items()} for stage, found in stages.items()},
            "warnings": [str(text) for text in summary.get("warnings") or ()],
            "log": log, "faults": faults,
        }  # fmt: skip

    def _name(self, folder: Path) -> str:
        return folder.resolve().name if folder == self.top else folder.relative_to(self.top).as_posix()

    def _overview(self, folder: Path) -> Overview:
        """What `look` says, as it was where none of its files has changed and nothing runs."""
        name, stamp = self._name(folder), _stamp(folder, FILES)
        known = self._seen.get(name)
        if known is None or known[0] != stamp or known[1].state == RUNNING:
            self._seen[name] = known = (stamp, look(folder))
        return known[1]

    def _read_words(self, name: str) -> list[str]:
        try:
            words = read_overrides(self._runs[name].folder / "overrides.txt")[1]
        except OSError:
            return []  # said by what else of the folder cannot be read
        return [word for word in words if not word.startswith(OWN_WORDS)]

    def _row(self, name: str, each: Overview, common: set[str]) -> dict[str, Any]:
        place = each.place
        return {
            "id": name, "recipe": each.recipe, "differences": [w for w in self._words[name] if w not in common],
            "state": each.state, "stage": place.stage, "fold": place.fold, "step": place.step, "steps": place.steps,
            "left_s": place.left_s if each.state == RUNNING else None,
            "samples_per_s": place.samples_per_s if each.state == RUNNING else None, "number": each.number,
            "warnings": each.warnings, "age_s": round(each.age_s), "fault": each.fault,
        }  # fmt: skip

    def _read_waiting(self, faults: list[str]) -> Any:
        """Runs of sweeps that have not begun, as rows."""
        tops = sorted({self.top, *(each.folder.parent for each in self._runs.values())})
        for path in [top / name for top in tops for name in (SWEEP, ARRAY)]:
            try:
                listed = json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                faults.append(f"{path}: {error}")
                continue
            for run in listed if isinstance(listed, list) else ():
                folder = path.parent / str(run.get("folder"))
                if folder.is_relative_to(self.top) and run.get("exit_code") is None and not folder.is_dir():
                    job = f"job {run['job']}" if "job" in run else ""
                    yield {
                        "id": self._name(folder), "recipe": job, "differences": list(map(str, run.get("varied") or ())),
                        "state": WAITING, "stage": "", "number": "", "warnings": 0, "fault": "",
                    }  # fmt: skip

    def _judge(self) -> None:
        """Set `over`: a run was seen running, and none is now, nor will soon."""
        now = time.monotonic()
        if any(each.state == RUNNING for each in self._runs.values()):
            self._ran, self._still_since, self.over = True, now, ""
        elif self._ran and now - self._still_since >= (max(SILENT_S, self.grace_s) if self._waiting else self.grace_s):
            left = f", {len(self._waiting)} of a sweep have not begun" if self._waiting else ""
            self.over = f"all runs have ended{left}"


def tail(path: Path) -> str:
    """The last lines of a log, empty where there is none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - LOG_BYTES))
            text = file.read(LOG_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""
    lines = text.splitlines()
    return "\n".join(lines[1 if size > LOG_BYTES else 0 :][-LOG_LINES:])


def _stamp(folder: Path, names: tuple[str, ...]) -> list[tuple[int, int] | None]:
    """Time and size of files, which tell whether they have changed."""
    found: list[tuple[int, int] | None] = []
    for name in names:
        try:
            stat = (folder / name).stat()
            found.append((stat.st_mtime_ns, stat.st_size))
        except OSError:
            found.append(None)
    return found


def _told(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}"
