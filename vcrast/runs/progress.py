"""Show how far a stage is: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

import torch
from rich import progress as rich_progress
from rich.console import Console
from torch import Tensor

from vcrast.runs.clock import peak_memory_bytes

# The log shares it, so that its lines go above the live line and not through it.
console = Console(stderr=True)

REDRAW_S = 0.25
SPEED_OVER_S = 300.0


class Progress:
    """Context manager that shows stage, step, loss and its parts, throughput, time left and memory on stderr.

    Args:
        stage: such as "pretrain".
        fold: shown if not empty.
        total_steps: of the whole stage.
        start_step: steps done before, by the run that is being resumed; they do not count for the speed.
        every_s: without a terminal, least time between two lines; the last step always gets one.
        shown: False for all processes of a run but one.
        device: whose peak memory is shown; default: the current GPU if there is one, else this process.
    """

    def __init__(
        self, stage: str, fold: str, total_steps: int, *, start_step: int = 0, every_s: float = 10.0,
        shown: bool = True, device: torch.device | str | None = None,
    ) -> None:  # fmt: skip
        self.title, self.shown = f"{stage} fold {fold}" if fold else stage, shown
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        # Asked here and not of rich, which also believes FORCE_COLOR: a live line in a log file is garbage.
        self.live = shown and sys.stderr.isatty() and not console.is_dumb_terminal
        self.every_s, self._shown_at, self._samples_per_s = REDRAW_S if self.live else every_s, float("-inf"), 0.0
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False), console=console, auto_refresh=False,
            speed_estimate_period=SPEED_OVER_S, disable=not self.live, get_time=lambda: time.monotonic(),
        )  # fmt: skip
        self._bar.add_task(self.title, total=total_steps, completed=start_step)
        self._task = self._bar.tasks[0]

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def update(
        self,
        step: int,
        *,
        loss: float | Tensor | None = None,
        parts: Mapping[str, float | Tensor] | None = None,
        samples_per_s: float | None = None,
        **more: float | Tensor,
    ) -> None:
        """Tell that `step` steps are done.

        Tensors are copied from the device only when something is drawn. Of the remaining values, seconds (`..._s`) are
        left out: they belong into the metrics, not on the line.
        """
        if not self.shown:
            return
        self._bar.update(self._task.id, completed=step)
        self._samples_per_s = samples_per_s or self._samples_per_s
        if time.monotonic() - self._shown_at < self.every_s and not self._task.finished:
            return
        self._shown_at = time.monotonic()
        line = self._line(loss, {**(parts or {}), **{key: more[key] for key in more if not key.endswith("_s")}})
        if self.live:
            self._bar.update(self._task.id, description=line, refresh=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _line(self, loss: float | Tensor | None, parts: Mapping[str, float | Tensor]) -> str:
        left_s = self._task.time_remaining
        pieces = [
            self.title,
            f"{self._task.completed:.0f}/{self._task.total:.0f}",
            f"loss {float(loss):.4g}" if loss is not None else "",
            f"({', '.join(f'{name} {float(value):.3g}' for name, value in parts.items())})" if parts else "",
            f"{self._samples_per_s:.4g} samples/s" if self._samples_per_s else "",
            f"ETA {timedelta(seconds=left_s) if left_s is not None else '--'}",
            f"{peak_memory_bytes(self.device) / 2**30:.1f} GiB",
        ]
        return "  ".join(filter(None, pieces))
