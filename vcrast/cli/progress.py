"""Tell on stderr how many sounds a verb has heard, once it takes longer than a moment."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

AFTER_S = 2.0  # quicker work needs no progress
EVERY_S = 5.0  # between two lines, where stderr is no terminal
REDRAW_S = 0.2


class Progress:
    """A live line on a terminal, which gives way to results, or else a line every few seconds.

    Args:
        verb: what is done.
        total: sounds.
    """

    def __init__(self, verb: str, total: int) -> None:
        from rich import progress
        from rich.console import Console

        console = Console(stderr=True)
        # Asked here and not of rich, which also believes FORCE_COLOR.
        self.live = sys.stderr.isatty() and not console.is_dumb_terminal
        self.verb, self.total, self.shown_at, self.shown = verb, total, time.monotonic() + AFTER_S, False
        # Not redirected: rich would write to stderr what is printed to a pipe.
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
            progress.TimeRemainingColumn(), console=console, auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self.task = self.bar.add_task(verb, total=total)

    def update(self, sounds: float, current: str) -> None:
        """Tell that so many sounds are heard, with the heard part of the current one."""
        now = time.monotonic()
        if now < self.shown_at:
            return
        self.shown_at = now + (REDRAW_S if self.live else EVERY_S)
        part = sounds % 1
        line = f"{self.verb}: {int(sounds)} of {self.total} sounds"
        line += f", {100 * part:.0f} % of {current}" if part else ""
        if not self.live:
            print(line, file=sys.stderr, flush=True)
            return
        if not self.shown:
            self.bar.start()
            self.shown = True
        self.bar.update(self.task, completed=sounds, description=line, refresh=True)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """While something else is printed, no live line is in its way; the next update shows it again."""
        self.close()
        yield

    def close(self) -> None:
        """Take the live line away."""
        if self.shown:
            self.bar.stop()
            self.shown = False
