"""Run a recipe as a task of a batch job, and requeue it after a warning.

A signal meets a run at any place, in the middle of a collective operation as well. So it is only noted while the run
lasts (`vcrast.runs.interrupt`), all ranks save together after the step, `start` returns 128 + the signal's number,
and only then rank 0 does what submitit does on that signal: store the job and call `scontrol requeue`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vcrast.cli.errors import exit_code
from vcrast.config.files import VARIABLE
from vcrast.config.quoting import home, literal
from vcrast.runs.failure import LOG, append_to_log

from .arguments import Program
from .requeue import WARNINGS, Requeue, WarningTimer, reason_to_end, requeue, submitits_handler

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

REQUEUE_S = 20
"""How long before the limit a run that is still busy is requeued."""


@dataclass(frozen=True)
class BatchJob:
    """One run of a recipe as submitit stores it, loads it on the nodes, and calls it on every task.

    Attributes:
        overrides: command line of the run, with `run.dir` or `run.resume` among it: a job that starts again must find
            what it saved.
        signal_delay_s: how long before the limit the warning comes.
        program: how the launcher was called.
        own_options: copies of the user's folders of options, as $VCRAST_CONFIGS names them.
    """

    overrides: tuple[str, ...]
    signal_delay_s: int
    program: Program
    own_options: str = ""

    def __call__(self) -> int:
        """Run, or go on with, the recipe. A job that is to run again does not return, nor does one that failed."""
        from submitit.helpers import TorchDistributedEnvironment

        # Each process chooses its device by LOCAL_RANK; one that saw a single device could not.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        os.environ[VARIABLE] = self.own_options
        # The run sets up the root logger, which would repeat every line of submitit.
        logging.getLogger("submitit").propagate = False
        # What the run folder notes as its command line.
        sys.argv = [*self.program.shown.removeprefix("python ").split(), *self.overrides]
        handler = submitits_handler()
        with WarningTimer(WARNINGS, max(1, self.signal_delay_s - REQUEUE_S), lambda: self._too_late(handler)):
            status = exit_code(self.program.name, self._start)
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
        from vcrast.cli.start import start

        return start(self.overrides, command=self.program.shown)

    def _after_stop(self, number: signal.Signals, handler: Requeue) -> None:
        """Requeue, or end, after everything was saved; never returns.

        Only rank 0 acts. The others end without an error, since that would make srun end rank 0 as well.
        """
        if int(os.environ["RANK"]) != 0:
            sys.exit(0)
        why_not = reason_to_end(number)
        if why_not is None:
            self._say("back into the queue; the job goes on from there by itself")
            why_not = requeue(handler)
        self._say(f"not requeued: {why_not}")
        sys.exit(128 + number)

    def _too_late(self, handler: Requeue) -> None:
        """The run was warned and is still busy, say with an evaluation: requeue with what was saved before."""
        if int(os.environ["RANK"]) == 0 and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            self._say("busy until the limit; back into the queue with what was saved")
            self._say(f"not requeued: {requeue(handler)}")

    def _say(self, text: str) -> None:
        """On stderr, which is the job's log, and in that of the run."""
        print(f"{self.program.name}: {text}", file=sys.stderr)
        for word in self.overrides:
            key, _, folder = word.partition("=")
            if key in ("run.dir", "run.resume") and folder not in ("auto", "never"):
                append_to_log(Path(home(key, literal(folder))) / LOG, text, level="WARNING", name=self.program.name)
