"""What every task of a batch job runs: the recipe, and after a warning the way back into the queue.

A signal meets a run at any place, in the middle of a collective operation as well. So it is only noted while the run
lasts (`vcrast.runs.interrupt`), all ranks save together after the step, `start` returns 128 + the signal's number,
and only then rank 0 does what submitit does on that signal: store the job and call `scontrol requeue`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launch.last_chance import LastChance
from launch.mistakes import explained

if TYPE_CHECKING:
    from types import FrameType

    from submitit.core.utils import DelayedSubmission

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What Slurm sends before the limit, and what a person sends to move a job on."""
REQUEUE_S = 20
"""Time before the limit that the last chance to requeue is given."""
Requeue = Callable[[int, "FrameType | None"], object]


@dataclass(frozen=True)
class BatchJob:
    """One run of a recipe as submitit stores it, loads it on the nodes, and calls it on every task.

    Args:
        overrides: command line of the run, with `run.dir` or `run.resume` among it: a job that starts again must find
            what it saved.
        signal_delay_s: how long before the limit the warning comes.
    """

    overrides: tuple[str, ...]
    signal_delay_s: int

    def __call__(self) -> int:
        """Run, or go on with, the recipe. A job that is to run again does not return, nor does one that failed."""
        from submitit.helpers import TorchDistributedEnvironment

        # Each process chooses its device by LOCAL_RANK; one that saw a single device could not.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        # The run sets up the root logger, which would repeat every line of submitit.
        logging.getLogger("submitit").propagate = False
        # What the run folder notes as its command line.
        sys.argv = ["launch/slurm.py", *self.overrides]
        handler = submitits_handler()
        with LastChance(WARNINGS, max(1, self.signal_delay_s - REQUEUE_S), lambda: self._too_late(handler)):
            status = explained("slurm.py", self._start)
        sys.stdout.flush()
        if status > 128:
            self._after_stop(signal.Signals(status - 128), handler)
        if status != 0:
            sys.exit(status)
        return status

    def checkpoint(self) -> DelayedSubmission:
        """What runs when the job starts again: the same, since the run folder knows how far it is."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)

    def _start(self) -> int:
        from vcrast.run import start

        return start(self.overrides)

    def _after_stop(self, number: signal.Signals, handler: Requeue) -> None:
        """Requeue, or end, after everything was saved; never returns.

        Only rank 0 acts. The others end without an error, since that would make srun end rank 0 as well.
        """
        if int(os.environ["RANK"]) != 0:
            sys.exit(0)
        why_not = reason_to_end(number)
        if why_not is None:
            print("slurm.py: back into the queue; the job goes on from there by itself", file=sys.stderr)
            why_not = requeue(handler)
        print(f"slurm.py: not requeued: {why_not}", file=sys.stderr)
        sys.exit(128 + number)

    def _too_late(self, handler: Requeue) -> None:
        """The run was warned and is still busy, say with an evaluation: requeue with what was saved before."""
        if int(os.environ["RANK"]) == 0 and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            print("slurm.py: busy until the limit; back into the queue with what was saved", file=sys.stderr)
            print(f"slurm.py: not requeued: {requeue(handler)}", file=sys.stderr)


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
