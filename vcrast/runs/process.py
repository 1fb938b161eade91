"""Who wrote a file: a process by host, number and start time, and whether it still runs."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Writer:
    """One process. The start time tells it from a later process that was given the same number."""

    host: str
    pid: int
    started: int

    def is_here(self) -> bool:
        """Whether this is a process of this machine, so that `is_alive` can tell."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Whether the process still runs; asked of a process of this machine only."""
        started = start_time(self.pid)
        if started is None:
            return False
        return started == self.started


def this_process() -> Writer:
    """The process that asks; never cached, because a forked child is another one."""
    pid = os.getpid()
    return Writer(host=socket.gethostname(), pid=pid, started=start_time(pid) or 0)


def start_time(pid: int) -> int | None:
    """Clock ticks between boot and the start of a process.

    Returns:
        None for a process that does not exist or has ended and only waits to be reaped; 0 for a living one on a system
        without `/proc`, where reuse of a process number goes unnoticed.
    """
    if not _has_proc():
        return 0 if _answers(pid) else None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets, which may itself hold blanks and brackets.
    fields = stat.rpartition(")")[2].split()
    state, started = fields[0], fields[19]
    return None if state in "ZX" else int(started)


@cache
def _has_proc() -> bool:
    return Path("/proc/self/stat").exists()


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
