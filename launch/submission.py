"""Submit checked settings: executor, batch script, environment, sbatch."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vcrast.config.schema import SlurmConfig

from .slurm_options import command_words, parameters

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job

    from .slurm_job import BatchJob
    from .slurm_shards import PackingJob

# sbatch takes these from the environment in place of what the script says.
ENVIRONMENT_NAMES = {"time": "TIMELIMIT", "mem": "MEM_PER_NODE", "array": "ARRAY_INX", "requeue": "NO_REQUEUE"}
OF_A_RUN = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")
NEVER = {
    "PartitionTimeLimit": "slurm.timeout_min is above the partition's limit; `sinfo --format='%P %l'` shows it",
    "PartitionNodeLimit": "slurm.nodes is above what the partition has or allows; `sinfo --format='%P %D'` shows it",
    "BadConstraints": "no node has what slurm.constraint, nodes, gpus_per_node, cpus_per_task and mem_gb ask for",
}
"""Reasons for which Slurm takes a job and never starts it."""


@dataclass(frozen=True)
class Submission:
    """What is about to be submitted.

    Attributes:
        options: `slurm.*`, which are checked; all jobs of an array share them.
        name: of the job, unless the options have one.
        folder: where submitit keeps scripts, pickles and logs; seen by all nodes.
        code: copy of the code that the jobs import.
    """

    options: SlurmConfig
    name: str
    folder: Path
    code: Path

    def executor(self, cluster: str) -> AutoExecutor:
        """Submitit's executor with all settings."""
        from submitit import AutoExecutor

        keywords = {"python": self.python_command(), "max_num_timeout": self.options.max_num_timeout}
        both = {f"{kind}_{key}": value for kind in ("slurm", "local") for key, value in keywords.items()}
        executor = AutoExecutor(self.folder, cluster=cluster, **both)
        executor.update_parameters(**parameters(self.options, name=f"vcrast-{self.name}"))
        return executor

    def python_command(self) -> str:
        """Shell command of the interpreter that finds the copied code before anything else.

        `python -m` would put the folder it is started in first, which is as a rule the very checkout that was copied.
        Until Python handles the warning signals they must not end the process, as they would by default.
        """
        path = os.pathsep.join(filter(None, [str(self.code), os.environ.get("PYTHONPATH")]))
        ignoring = ["sh", "-c", 'trap "" USR1 USR2; exec "$@"', "sh"]
        python = command_words("slurm.python", self.options.python) or [sys.executable]
        return shlex.join(["env", "PYTHONSAFEPATH=1", f"PYTHONPATH={path}", *ignoring, *python])

    def script(self, count: int) -> str:
        """The batch script of `count` jobs, as sbatch would be given it; needs no Slurm."""
        from submitit.slurm.slurm import SlurmExecutor

        with _pretend_slurm(SlurmExecutor):
            executor = self.executor("slurm")
        inner = executor._executor
        assert isinstance(inner, SlurmExecutor)
        if count > 1:
            inner.parameters["map_count"] = count
        return inner._make_submission_file_text(inner._submitit_command_str, "")

    def submit(self, cluster: str, jobs: Sequence[BatchJob | PackingJob]) -> list[Job[int]]:
        """Hand the jobs over, several as one array.

        Raises:
            ValueError: the cluster refused; with its words.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = self.executor(cluster)
        # Submitit prints sbatch's error and raises it as well; said once is enough.
        with clean_environment(self.script(len(jobs))), contextlib.redirect_stderr(io.StringIO()):
            try:
                return executor.submit_array(list(jobs)) if len(jobs) > 1 else [executor.submit(jobs[0])]
            except (FailedJobError, FailedSubmissionError) as error:
                said = [line for line in str(error).splitlines() if line.strip()]
                text = "; ".join(line.removeprefix("sbatch: error: ") for line in said) or "no reason given"
                raise ValueError(f"sbatch refused the job: {text}") from None


def choose_cluster(asked: str) -> str:
    """`slurm` or `local`.

    Raises:
        ValueError: `slurm` where there is none.
    """
    found = shutil.which("sbatch") is not None and shutil.which("srun") is not None
    if asked == "slurm" and not found:
        raise ValueError(
            "slurm.cluster=slurm: no sbatch and srun on PATH; log in to a machine of the cluster or load its module. "
            "Here, slurm.cluster=local runs in the background; --dry-run prints the batch script"
        )
    return ("slurm" if found else "local") if asked == "auto" else asked


def why_never(job_id: str) -> str | None:
    """Why a job that was just submitted will not start however long it waits, or None.

    Args:
        job_id: of the job, or of one of an array.
    """
    time.sleep(1.5)  # until Slurm has looked at the job
    command = ["squeue", "--noheader", f"--jobs={job_id.partition('_')[0]}", "--format=%r"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    reason = said.partition("\n")[0].strip()
    return f"the job will wait for ever ({reason}): {NEVER[reason]}" if reason in NEVER else None


@contextlib.contextmanager
def _pretend_slurm(executor: type) -> Iterator[None]:
    """Let submitit build its Slurm executor, which it refuses to where there is no srun."""
    affinity = executor.__dict__["affinity"]
    executor.affinity = staticmethod(lambda: 2)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        executor.affinity = affinity  # type: ignore[attr-defined]


@contextlib.contextmanager
def clean_environment(script: str) -> Iterator[None]:
    """Hide variables that would overrule the job's script: sbatch passes the environment on.

    Those of another job or run in which we are, and `SBATCH_*` defaults of options that stand in the script.
    """
    # Every script has submitit's wckey, which is only a default.
    names = set(re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE)) - {"wckey"}
    hidden = {f"SBATCH_{ENVIRONMENT_NAMES.get(name, name.upper().replace('-', '_'))}" for name in names}
    hidden |= {name for name in os.environ if name.startswith(("SLURM", "SRUN_", "SUBMITIT_")) and name not in KEPT}
    saved = {name: os.environ.pop(name) for name in {*hidden, *OF_A_RUN} if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)
