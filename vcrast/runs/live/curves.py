"""Read metrics.jsonl as it grows, into curves of bounded size."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_POINTS = 1000  # of one curve; a screen has fewer columns of pixels for it
MAX_CURVES = 600  # of one run: a file with endless names must not fill the memory
CHUNK_BYTES = 2**20
MARK_BYTES = 64
OTHER = {"stage", "fold", "step", "time", "epoch", "val_epoch", "floor", "data_s", "compute_s"}


@dataclass(slots=True)
class Point:
    """Neighbouring values of a curve as one: the last step, sum and count of the finite ones, and their range."""

    step: float
    total: float
    finite: int
    low: float
    high: float

    def join(self, later: Point) -> None:
        """Add a later one."""
        self.step, self.total, self.finite = later.step, self.total + later.total, self.finite + later.finite
        self.low, self.high = min(self.low, later.low), max(self.high, later.high)


class Curve:
    """One number over the steps, at most `MAX_POINTS` long: where there are more, neighbours are joined in pairs.

    Attributes:
        lost: values that were not finite.
        lost_at: step of the last of them.
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.width, self.filled = 1, 0
        self.lost, self.lost_at = 0, 0.0

    def add(self, step: float, value: float | None) -> None:
        """Append a value; None is not finite. A step that is there already begins its part of the curve anew."""
        while self.points and self.points[-1].step >= step:
            self.points.pop()
            self.filled = self.width
        if value is None:
            self.lost, self.lost_at = self.lost + 1, step
            point = Point(step, 0.0, 0, math.inf, -math.inf)
        else:
            point = Point(step, value, 1, value, value)
        if self.points and self.filled < self.width:
            self.points[-1].join(point)
            self.filled += 1
            return
        if len(self.points) >= MAX_POINTS:
            self._halve()
        self.points.append(point)
        self.filled = 1

    def plain(self) -> dict[str, Any]:
        """Steps `x`, means `y` (None: nothing finite), with joined points their range `low` and `high`, and `lost`."""
        seen = [point if point.finite else None for point in self.points]
        found: dict[str, Any] = {
            "x": [point.step for point in self.points],
            "y": [_short(point.total / point.finite) if point else None for point in seen],
        }
        if self.width > 1:
            found["low"] = [_short(point.low) if point else None for point in seen]
            found["high"] = [_short(point.high) if point else None for point in seen]
        if self.lost:
            found |= {"lost": self.lost, "lost_at": self.lost_at}
        return found

    def _halve(self) -> None:
        pairs = zip(self.points[::2], self.points[1::2], strict=False)
        joined = []
        for first, second in pairs:
            first.join(second)
            joined.append(first)
        self.points = joined + (self.points[-1:] if len(self.points) % 2 else [])
        self.width *= 2


class Curves:
    """The curves of a run, read from where the last reading ended.

    A file that was replaced, as a run does when it resumes from an earlier step, is read anew from its beginning.

    Args:
        path: of metrics.jsonl, which need not be there yet.

    Attributes:
        version: another number whenever the curves are others.
        share: of the file that is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0
        self._forget()

    def _forget(self) -> None:
        self.curves: dict[tuple[str, str, str], Curve] = {}
        self.share, self._offset, self._mark = 1.0, 0, b""
        self.version += 1

    def read(self, within_s: float = 1.0) -> None:
        """Read what is new, whole lines only, for at most about `within_s`; the next call goes on.

        Raises:
            OSError: the file cannot be read; one that is not there is an empty one.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            if self._offset:
                self._forget()
            return
        until = time.monotonic() + within_s
        with file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, self._offset - len(self._mark)))
            if self._offset > size or file.read(len(self._mark)) != self._mark:
                self._forget()
                file.seek(0)
            for line in self._lines(file, until):
                self._take(line)
            self.share = self._offset / size if self._offset < size else 1.0
        if time.monotonic() < until:  # what is left is a line that is being written
            self.share = 1.0

    def _lines(self, file: Any, until: float) -> Iterator[bytes]:
        while chunk := file.read(CHUNK_BYTES):
            end = chunk.rfind(b"\n") + 1
            if not end and len(chunk) < CHUNK_BYTES:
                return
            taken = chunk[: end or len(chunk)]
            self._offset += len(taken)
            self._mark = (self._mark + taken)[-MARK_BYTES:]
            file.seek(self._offset)
            yield from taken.splitlines()
            if time.monotonic() > until:
                return

    def _take(self, text: bytes) -> None:
        try:
            line = json.loads(text)
            stage, fold, step = str(line["stage"]), str(line["fold"]), float(line["step"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # cut by a kill
            return
        if not math.isfinite(step):
            return
        values = {name: value for name, value in line.items() if name not in OTHER}
        data_s, compute_s = line.get("data_s"), line.get("compute_s")
        if isinstance(data_s, float) and isinstance(compute_s, float) and data_s + compute_s > 0:
            values["data_share"] = data_s / (data_s + compute_s)
        self.version += 1
        for name, value in values.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                continue
            key = (stage, fold, name)
            if key not in self.curves and len(self.curves) >= MAX_CURVES:
                continue
            self.curves.setdefault(key, Curve()).add(step, _finite(value))

    def plain(self) -> list[dict[str, Any]]:
        """Every curve with its `stage`, `fold` and `name`, as they came."""
        return [
            {"stage": stage, "fold": fold, "name": name, **curve.plain()}
            for (stage, fold, name), curve in self.curves.items()
        ]


def _finite(value: float | None) -> float | None:
    try:
        return float(value) if value is not None and math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return None


def _short(value: float) -> float:
    return float(f"{value:.6g}")
