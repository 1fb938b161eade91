"""How far a stage is: one live line on a terminal, a plain line now and then in a file or a batch job's log."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text
from torch import Tensor

from vcrast.runs.clock import peak_memory_bytes

# The log shares it, so that its lines go above the live line and not through it.
console = Console(stderr=True)

WINDOW = 20
REDRAW_S = 0.25


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
        self,
        stage: str,
        fold: str,
        total_steps: int,
        *,
        start_step: int = 0,
        every_s: float = 10.0,
        shown: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        self.title = f"{stage} fold {fold}" if fold else stage
        self.total_steps, self.start_step, self.every_s, self.shown = total_steps, start_step, every_s, shown
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._live: Live | None = None
        self._times: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._speeds: deque[float] = deque(maxlen=WINDOW)
        self._shown_at = float("-inf")

    def __enter__(self) -> Progress:
        self._times.append((time.monotonic(), self.start_step))
        # Asked here and not of rich, which also believes FORCE_COLOR: a live line in a log file is garbage.
        if self.shown and sys.stderr.isatty() and not console.is_dumb_terminal:
            self._live = Live(Text(self.title), console=console, auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

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
        now = time.monotonic()
        self._times.append((now, step))
        if samples_per_s is not None:
            self._speeds.append(float(samples_per_s))
        due = REDRAW_S if self._live is not None else self.every_s
        if now - self._shown_at < due and step < self.total_steps:
            return
        self._shown_at = now
        more = {**(parts or {}), **{key: value for key, value in more.items() if not key.endswith("_s")}}
        self._show(self._line(step, loss, more))

    def eta_s(self) -> float | None:
        """Seconds left at the speed of the last updates; None before there is a speed."""
        (first_time, first_step), (last_time, last_step) = self._times[0], self._times[-1]
        if last_step <= first_step:
            return None
        return (self.total_steps - last_step) * (last_time - first_time) / (last_step - first_step)

    def _line(self, step: int, loss: Any, parts: Mapping[str, Any]) -> str:
        pieces = [self.title, f"{step}/{self.total_steps}"]
        if loss is not None:
            pieces.append(f"loss {float(loss):.4g}")
        if parts:
            pieces.append("(" + ", ".join(f"{name} {float(value):.3g}" for name, value in parts.items()) + ")")
        if self._speeds:
            pieces.append(f"{sum(self._speeds) / len(self._speeds):.4g} samples/s")
        eta_s = self.eta_s()
        pieces.append("ETA --" if eta_s is None else f"ETA {clock_time(eta_s)}")
        pieces.append(f"{peak_memory_bytes(self.device) / 2**30:.1f} GiB")
        return "  ".join(pieces)

    def _show(self, line: str) -> None:
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
        else:
            print(line, file=sys.stderr, flush=True)


def clock_time(seconds: float) -> str:
    """`0:05:07`, or `3 d 04:10:00` from a day on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days} d {hour:02}:{minute:02}:{second:02}" if days else f"{hour}:{minute:02}:{second:02}"
