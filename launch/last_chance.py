"""What happens when a run that was warned does not come to an end in time: the job is put back as it is."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection
from types import TracebackType


class LastChance:
    """Context manager that acts some time after a warning, if the context is still there.

    A step ends soon and the run saves and stops; a long evaluation has no such place. Starting it anew after a requeue
    costs its time, reaching the limit within it would cost the job its place in the queue.

    Args:
        warnings: the signals that count. Their handlers stay those of the program.
        after_s: how long to wait for the context to end.
        act: called in a thread.

    Outside the main thread, which alone may ask for signals, it does nothing.
    """

    def __init__(self, warnings: Collection[signal.Signals], after_s: float, act: Callable[[], None]) -> None:
        self.warnings, self.after_s, self.act = warnings, after_s, act
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="last-chance", daemon=True)
        self._active = False

    def __enter__(self) -> LastChance:
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            # Python writes the number of every handled signal there, whichever handler the program has by then.
            self._old = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._active:
            return
        self._over.set()
        signal.set_wakeup_fd(self._old)
        # A forked child may hold the other end open, so closing it would not wake the thread.
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def _watch(self) -> None:
        while not self._over.is_set():
            if ord(os.read(self._read, 1)) in self.warnings:
                if not self._over.wait(self.after_s):
                    self.act()
                return
