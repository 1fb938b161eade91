"""What every task of a batch job runs: the recipe, and after a warning the way back into the queue.

A signal meets a run at any place, in the middle of a collective operation as well. So it is only noted while the run
lasts (`vcrast.training.interrupt`), all ranks save together after the step, `start` returns 128 + the signal's number,
and only then rank 0 does what submitit does on that signal: store the job and call `scontrol requeue`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launch.mistakes import explained

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

WARNINGS = ("SIGUSR1", "SIGUSR2")
"""What Slurm sends before the limit, and what a person sends to move a job on."""


@dataclass(frozen=True)
class BatchJob:
    """One run of a recipe as submitit stores it, loads it on the nodes, and calls it on every task.

    Args:
        overrides: command line of the run, with `run.dir` or `run.resume` among it: a job that starts again must find
            what it saved.
    """

    overrides: tuple[str, ...]

    def __call__(self) -> int:
        """Run, or go on with, the recipe. A job that is to run again does not return, nor does one that failed."""
        from submitit.helpers import TorchDistributedEnvironment

        # Each process chooses its device by LOCAL_RANK; one that saw a single device could not.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        # The run sets up the root logger, which would repeat every line of submitit.
        logging.getLogger("submitit").propagate = False
        # What the run folder notes as its command line.
        sys.argv = ["launch/slurm.py", *self.overrides]
        status = explained("slurm.py", self._start)
        sys.stdout.flush()
        if status > 128:
            self._after_stop(signal.Signals(status - 128))
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

    def _after_stop(self, number: signal.Signals) -> None:
        """Requeue, or end, after everything was saved; never returns.

        Only rank 0 acts. The others end without an error, since that would make srun end rank 0 as well.
        """
        if int(os.environ["RANK"]) != 0:
            sys.exit(0)
        why_not = reason_to_end(number)
        if why_not is not None:
            print(f"slurm.py: {why_not}; not requeued", file=sys.stderr)
            sys.exit(128 + number)
        from submitit.core.utils import UncompletedJobError

        print("slurm.py: back into the queue; the job goes on from there by itself", file=sys.stderr)
        try:
            requeue()
        except (UncompletedJobError, OSError, subprocess.SubprocessError) as error:
            print(f"slurm.py: error: {error}; submit the same command again to go on", file=sys.stderr)
            sys.exit(128 + number)


def reason_to_end(number: signal.Signals) -> str | None:
    """Why a job that was stopped by a signal must not run again, or None.

    `scancel` and a preemption with a grace time look alike to a process: SIGTERM. Slurm knows which it was.
    """
    record = slurm_record()
    if record.get("JobState") in ("CANCELLED", "COMPLETING"):
        return "the job was cancelled"
    if number.name in WARNINGS or record.get("PreemptTime", "None") != "None":
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


def requeue() -> None:
    """Put this job back into the queue, by the handler that submitit installed before it called us; does not return.

    Raises:
        UncompletedJobError: the job reached its time limit too often.
        SubprocessError: Slurm refused.
    """
    number = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
    handler = signal.getsignal(number)
    assert callable(handler), f"submitit left no handler for {number.name}"
    handler(number, None)
