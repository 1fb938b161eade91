"""Put a batch job back into Slurm's queue: after saving, or by a timer when it is busy."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Collection
from types import FrameType, TracebackType

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What Slurm sends before the limit, and what a person sends to move a job on."""
Requeue = Callable[[int, "FrameType | None"], object]


class WarningTimer:
    """Context manager that acts some time after a warning signal, if the context has not ended by then.

    A training step ends soon, and the run saves and stops. A long evaluation cannot stop in between: to run it again
    after a requeue costs its time, to reach the limit within it would cost the job its place in the queue.

    Args:
        warnings: the signals that start the timer. Their handlers stay those of the program.
        after_s: how long to wait for the context to end.
        act: called in a thread.

    Outside the main thread, which alone may ask for signals, it does nothing.
    """

    def __init__(self, warnings: Collection[signal.Signals], after_s: float, act: Callable[[], None]) -> None:
        self.warnings, self.after_s, self.act = warnings, after_s, act
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="requeue", daemon=True)
        self._active = False

    def __enter__(self) -> WarningTimer:
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


def reason_to_end(number: signal.Signals) -> str | None:
    """Why a job that was stopped by a signal must not run again, or None.

    `scancel` and a preemption with a grace time look alike to a process: SIGTERM. Slurm knows which it was.
    """
    record = slurm_record()
    if record.get("JobState", "RUNNING") not in ("RUNNING", "SUSPENDED"):
        return "Slurm ends this job itself (it was cancelled or requeued)"
    if number in WARNINGS or record.get("PreemptTime", "None") != "None":
        return None
    return f"{number.name} was sent to this job alone"


def slurm_record() -> dict[str, str]:
    """What `scontrol show job` says about this job; empty outside Slurm and when Slurm does not answer."""
    job = os.environ.get("SLURM_JOB_ID")
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm" or job is None:
        return {}
    command = ["scontrol", "show", "job", job, "--oneliner"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(word.partition("=")[::2] for word in done.stdout.split() if "=" in word)


def submitits_handler() -> Requeue:
    """What submitit installed for the warning before it called us: stores the job, requeues it and exits."""
    handler = signal.getsignal(signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"])
    assert callable(handler), "submitit left no handler"
    return handler


def requeue(handler: Requeue) -> str:
    """Put this job back into the queue and exit; returns only when that is not possible, and then why."""
    from submitit.core.utils import UncompletedJobError

    try:
        handler(signal.SIGUSR2, None)
    except (UncompletedJobError, OSError, subprocess.SubprocessError) as error:
        return f"{error} Submit the same command with run.dir=FOLDER again to go on"
    return "submitit did not"
