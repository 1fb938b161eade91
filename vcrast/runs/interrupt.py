"""Note signals that ask a run to stop; act on them between steps."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

from vcrast.data.processes import is_left_alone
from vcrast.training.dist import all_reduce_max


class Interrupted(Exception):
    """A signal asked the run to stop; everything needed to go on is on disk."""

    def __init__(self, signal_name: str, where: str) -> None:
        super().__init__(f"stopped by {signal_name} {where}")
        self.signal_name = signal_name


class Interrupt:
    """Context manager that turns the first signal into a request and the second Ctrl-C into `KeyboardInterrupt`.

    Args:
        also: names of further signals that ask to stop, such as `["SIGUSR2"]` where the scheduler warns by one.

    Attributes:
        requested: name of the first signal that came (`"SIGTERM"`), else None. Read it after each step.

    Python lets only the main thread handle signals; entered elsewhere, it does nothing and `requested` stays None.
    """

    def __init__(self, also: Sequence[str] = ()) -> None:
        names = ["SIGINT", "SIGTERM", "SIGHUP", *also]
        unknown = [name for name in names if name not in signal.Signals.__members__]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no signal of this system; give names such as 'SIGUSR1'")
        self.signals = [signal.Signals[name] for name in names]
        self.requested: str | None = None
        self._old: dict[signal.Signals, Any] = {}
        self._interrupts = 0
        self._at_once = ""
        self._pid = os.getpid()

    def agreed(self) -> str | None:
        """The name of a signal that any process was sent; the same answer on all, which must all ask."""
        return self.name(all_reduce_max(self.number)[0])

    @contextlib.contextmanager
    def at_once(self, where: str) -> Iterator[None]:
        """Let a signal end the block where it is: for work that may be left at any moment, as before the first step.

        Raises:
            Interrupted: a signal comes, or has come.
        """
        self._at_once = where
        try:
            if self.requested:
                raise Interrupted(self.requested, where)
            yield
        finally:
            self._at_once = ""

    @property
    def number(self) -> int:
        """Of the requested signal; 0 for none."""
        return signal.Signals[self.requested].value if self.requested else 0

    @staticmethod
    def name(number: float) -> str | None:
        """The reverse of `number`."""
        return signal.Signals(int(number)).name if number else None

    def __enter__(self) -> Interrupt:
        self._pid = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                if is_left_alone(number):
                    continue
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._old.items():
            # None: installed by C code, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._old.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            self._in_child(number)
            return
        name = signal.Signals(number).name
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        first, self.requested = self.requested is None, self.requested or name
        if self._at_once and first:
            raise Interrupted(name, self._at_once)
        if first:
            # Not the logger: the signal may have come while it was writing.
            with contextlib.suppress(OSError):
                os.write(2, f"\n{name}: saving after this step, then stopping; Ctrl-C again stops at once\n".encode())

    def _in_child(self, number: int) -> None:
        """A forked data worker: Ctrl-C reaches it too, but it has to feed the step that its parent finishes."""
        if number == signal.SIGINT:
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
