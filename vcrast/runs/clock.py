"""Split the time of a step into waiting for data and computing."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class Clock:
    """Splits wall time into data and compute since the last reading."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.data_s = self.compute_s = 0.0
        self.clips = 0
        self.begin_step()

    def begin_step(self) -> None:
        """A step begins: what happened since the last one (logging, saving) is neither data nor compute."""
        self._mark = time.perf_counter()

    def data_ready(self) -> None:
        """The batch is here: the time since the last mark was spent waiting for it."""
        self.data_s += self._lap()

    def step_done(self, clips: int) -> None:
        """The step was issued: the time since the last mark was spent on it."""
        self.compute_s += self._lap()
        self.clips += clips

    def read(self, loss: Tensor) -> dict[str, float]:
        """`samples_per_s`, and seconds of data and compute in this interval; starts a new one.

        A GPU works behind the program's back: times are true only over an interval that ends with waiting for it, so
        this waits for the last step's `loss`.
        """
        loss.item()
        self.compute_s += self._lap()
        total = max(self.data_s + self.compute_s, 1e-9)
        values = {"samples_per_s": self.clips / total, "data_s": self.data_s, "compute_s": self.compute_s}
        self.reset()
        return values

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._mark = now - self._mark, now
        return lap


def overall_speed(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Samples per second, seconds of data and seconds of compute of a whole stage.

    Args:
        lines: what `Clock.read` gave for each interval; others are passed over.
    """
    intervals = [line for line in lines if line.get("samples_per_s") is not None]
    data_s, compute_s = (sum(line[key] for line in intervals) for key in ("data_s", "compute_s"))
    clips = sum(line["samples_per_s"] * (line["data_s"] + line["compute_s"]) for line in intervals)
    return {"samples_per_s": clips / max(data_s + compute_s, 1e-9), "data_s": data_s, "compute_s": compute_s}


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: the CUDA allocator's on a GPU, the process's resident set on CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)
