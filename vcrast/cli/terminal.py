"""Let a run outlive its terminal: later output goes nowhere."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any


class Terminal(io.FileIO):
    """A terminal whose end is no error: a run that is told so by SIGHUP has yet to save, and to say so in its log."""

    def write(self, data: Any, /) -> int:
        """As usual; once the terminal is gone, to `os.devnull`."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(data)


def outlive_terminal() -> None:
    """Replace stdout and stderr of this program where they are a terminal."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or not stream.isatty():
            continue
        raw = Terminal(stream.fileno(), "w", closefd=False)
        own = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=True,
            write_through=name == "stderr",
        )  # fmt: skip
        setattr(sys, name, own)
