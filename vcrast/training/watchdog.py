"""End a process that waits too long for others; say who is missing and where.

    with Watchdog(timeout_s=1800, rank=rank, world_size=world_size, store=store):
        ...
        with watched("gather of representations"):      # around what waits for others
            distributed.all_gather(...)

A collective that never returns holds its machines until somebody looks. PyTorch's own limits do not cover all of it:
gloo raises an error that names neither rank nor purpose, and a thread stuck inside a kernel raises nothing. Here one
thread a process looks every few seconds; entering and leaving `watched` only notes the time, in microseconds.

On CUDA an exchange over NCCL returns before it is done. Watch the place where the CPU waits for it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

EXIT_CODE = 124  # as timeout(1): ran out of time
LONGEST_TICK_S = 5.0
LOG_S = 5.0  # for the message to be written, before it goes to standard error alone
ASKED = "watchdog/asked"


class HangError(ConnectionError):
    """An exchange with other processes ran out of time."""


class Waiting:
    """What one thread waits for: names from the outermost in, and since when the innermost makes no progress."""

    __slots__ = ("names", "since")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.since = 0.0


class Watchdog:
    """Context manager for the time in which processes train together; one in a process at a time.

    Args:
        timeout_s: longest wait in one exchange (`launch.timeout_s`); None or 0 switches everything off.
        rank: of this process.
        world_size: number of processes.
        store: where the processes leave notes for each other, to tell who is missing; None leaves that out. A note is
            written only by a process that has waited for a while.
        end: how the process ends.
    """

    def __init__(
        self, timeout_s: float | None, *, rank: int, world_size: int, store: Any = None,
        end: Callable[[int], Any] = os._exit,
    ) -> None:  # fmt: skip
        if timeout_s is not None and timeout_s < 0:
            raise ValueError(f"launch.timeout_s={timeout_s}: must be positive, or 0 to wait for ever")
        self.timeout_s, self.rank, self.world_size, self.end = timeout_s or 0.0, rank, world_size, end
        self.tick_s = min(LONGEST_TICK_S, self.timeout_s / 4)
        # A connection of its own where the store has one: another thread may be waiting in the first.
        self.store = store.clone() if hasattr(store, "clone") and self.timeout_s else store
        self.step = ""
        self.exchanges = 0  # entered so far: the same number means the same exchange on every rank
        self.threads: dict[int, Waiting] = {}
        self.noted = self.answered = False
        self.over = threading.Event()
        self.reporting = threading.Lock()

    def __enter__(self) -> Watchdog:
        global _current
        if self.timeout_s:
            _current = self
            threading.Thread(target=self._look, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        global _current
        self.over.set()
        if _current is self:
            _current = None

    def _look(self) -> None:
        while not self.over.wait(self.tick_s):
            longest = max((found for found in map(self._waited, list(self.threads.values())) if found), default=None)
            if longest is None:
                self.noted = False
                self._answer()
            elif longest[0] > self.timeout_s + self.tick_s:  # a tick later than gloo, whose error can be handled
                self._give_up(*longest)
            elif longest[0] > self.tick_s and not self.noted:
                self.noted = True
                self._note(longest[1])

    def _waited(self, waiting: Waiting) -> tuple[float, str] | None:
        names = " > ".join(waiting.names)
        return (time.monotonic() - waiting.since, names) if names else None

    def _give_up(self, seconds: float, what: str) -> None:
        with self.reporting:
            if self.over.is_set():
                return
            text = f"{self.message(seconds, what)}\n{stacks()}"
            writer = threading.Thread(target=log.critical, args=("%s", text), daemon=True)
            writer.start()
            writer.join(LOG_S)
            if writer.is_alive():  # the thread that hangs may hold the log's lock
                os.write(2, f"{text}\n".encode())
            self.end(EXIT_CODE)
            self.over.set()

    def message(self, seconds: float, what: str) -> str:
        """One line: rank, operation, how long, which step, and who is missing."""
        where = f", {self.step}" if self.step else ""
        return f"rank {self.rank} of {self.world_size} waited {seconds:.0f} s in {what}{where}{self._missing(what)}"

    def _note(self, what: str) -> None:
        with contextlib.suppress(Exception):  # notes are a help; without them the rest is still said
            if self.store is not None:
                self.store.set(f"watchdog/{self.rank}", json.dumps([self.exchanges, what]))

    def _answer(self) -> None:
        """Show where this process stands when another one has given up waiting for it."""
        with contextlib.suppress(Exception):
            if self.store is None or self.answered or not self.store.check([ASKED]):
                return
            self.answered = True
            log.error("rank %d: others wait for this process, which is here\n%s", self.rank, stacks())

    def _missing(self, what: str) -> str:
        """Which ranks have not come to this exchange; others in it note so within a tick."""
        if self.store is None or self.world_size == 1:
            return ""
        try:
            self._note(what)
            self.store.set(ASKED, str(self.rank))
            time.sleep(1.5 * self.tick_s)
            absent = [rank for rank in range(self.world_size) if rank != self.rank and not self._came(rank)]
        except Exception as error:
            return f"; who is missing is not known, the store does not answer ({error})"
        if not absent:
            return "; all ranks are in it"
        return f"; not there: rank{'s' * (len(absent) > 1)} {_ranges(absent)}"

    def _came(self, rank: int) -> bool:
        key = f"watchdog/{rank}"
        return self.store.check([key]) and json.loads(self.store.get(key))[0] >= self.exchanges


_current: Watchdog | None = None


class watched:
    """Context manager around something that waits for other processes; may be nested; nothing without a `Watchdog`.

    Args:
        what: the operation, as the message should call it.

    Raises:
        HangError: gloo's own timeout, with the watchdog's message.
    """

    __slots__ = ("dog", "waiting", "what")

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        self.dog = dog = _current
        if dog is None:
            return
        thread = threading.get_ident()
        self.waiting = waiting = dog.threads.get(thread) or dog.threads.setdefault(thread, Waiting())
        dog.exchanges += 1
        waiting.since = time.monotonic()
        waiting.names.append(self.what)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.dog is None:
            return
        began, names = self.waiting.since, " > ".join(self.waiting.names)
        if isinstance(error, RuntimeError) and is_timeout(error):
            with self.dog.reporting:
                text = self.dog.message(time.monotonic() - began, names)
                log.critical("%s\n%s", text, stacks())
        self.waiting.names.pop()
        # The outer operation has made progress.
        self.waiting.since = time.monotonic()
        if isinstance(error, RuntimeError) and is_timeout(error):
            raise HangError(text) from error


def note_step(text: str) -> None:
    """Say which step this process is at, such as "pretrain step 12"; only read when something hangs."""
    if _current is not None:
        _current.step = text


def is_timeout(error: RuntimeError) -> bool:
    """Whether gloo, NCCL or the store gave up waiting, as far as their texts tell."""
    text = str(error).lower()
    return "timed out" in text or "timeout" in text


def stacks() -> str:
    """Where every thread of this process is."""
    try:
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            return file.read().decode(errors="replace")
    except OSError as error:
        return f"(no stacks: {error})"


def _ranges(numbers: Sequence[int]) -> str:
    """[1, 2, 3, 7] -> "1-3, 7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
