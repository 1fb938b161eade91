"""Submit a recipe, or a sweep over its settings, to a Slurm cluster through submitit.

python launch/slurm.py RECIPE [group=option] [key=value ...] [-m] [--dry-run]     # from a clone, installed or not
vcrast submit RECIPE [group=option] [key=value ...] [-m] [--dry-run]              # the same
python launch/slurm.py data shard NAME --out DIR --parts N                        # see slurm_shards.py
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a script (PEP 366)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    __package__ = "launch"

import vcrast
from vcrast.cli.errors import exit_code
from vcrast.cli.help import SUBMIT_FLAGS, launch_help

from .arguments import Arguments, Program, asks_hydra, parse

if TYPE_CHECKING:
    from submitit import Job

    from vcrast.config.schema import Config

    from .sweep import PlannedRun

ROOT = Path(vcrast.__file__).resolve().parents[1]
"""The folder from which Python imports vcrast: a clone, or an environment's site-packages."""


def main(argv: Sequence[str] | None = None, program: Program | None = None) -> int:
    """Submit the command line.

    Args:
        argv: the words after the launcher's name; this process's own if left out.
        program: how it was called; as a script if left out.

    Returns:
        0 submitted, 2 a mistake in the command or a refusal.
    """
    words = sys.argv[1:] if argv is None else argv
    called = program or Program.of_script(__file__)
    if asks_hydra(words):
        from .local import answer_hydra

        return answer_hydra(words)
    return exit_code(called.name, lambda: _main(words, called))


def _main(words: Sequence[str], program: Program) -> int:
    if words[:1] == ["data"]:
        from .slurm_shards import submit as submit_packing

        refuse_without_submitit()
        return submit_packing(words[1:], program)
    arguments = parse(words)
    if arguments.help:
        print(launch_help(program.shown, SUBMIT_FLAGS))
        return 0
    # Imported late: `--help` must not wait for Hydra and torch.
    if arguments.show_config:
        from vcrast.cli.start import start

        return start(arguments.overrides, show_config=True)
    return submit(arguments, program)


def submit(arguments: Arguments, program: Program) -> int:
    """Check everything that can be checked here, then submit, or print what would be submitted.

    Raises:
        ValueError: a wrong setting, or the cluster's refusal.
        ModuleNotFoundError: submitit is missing.
    """
    refuse_without_submitit()
    from vcrast.runs.check import check_parts

    from . import slurm_options
    from .submission import choose_cluster
    from .sweep import plan

    base, runs = plan(arguments)
    options = runs[0].config.slurm
    slurm_options.check(options)
    if (asked := runs[0].config.launch.num_processes) != 1:
        raise ValueError(
            f"launch.num_processes={asked}: is for runs on this machine; here slurm.nodes and slurm.gpus_per_node "
            "count, or slurm.tasks_per_node where there are no GPUs"
        )
    if runs[0].config.launch.jobs != 1:
        raise ValueError(
            "launch.jobs: is for runs on this machine; of an array, slurm.array_parallelism runs at a time"
        )
    for run in runs:
        refuse_uneven(run.config)
        check_parts(run.config)
    slurm_options.check_folder("run.dir", base)
    cluster = "slurm" if arguments.dry_run else choose_cluster(options.cluster)
    if cluster == "local" or options.cluster == "local":
        slurm_options.refuse_for_local(options)
    for line in doubts(runs, cluster):
        print(f"{program.name}: warning: {line}", file=sys.stderr)
    return show_script(base, runs, program) if arguments.dry_run else hand_over(base, runs, cluster, program)


def refuse_without_submitit() -> None:
    """Say how to install what jobs are handed over with.

    Raises:
        ModuleNotFoundError: it is missing.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ModuleNotFoundError(
            'submitting needs the package submitit: pip install "submitit>=1.5.3,<2", or make setup'
        )


def refuse_uneven(config: Config) -> None:
    """Refuse a batch that the processes of the job could not share, before it has waited in the queue.

    Raises:
        ValueError: names the stage.
    """
    from .slurm_options import tasks_per_node

    count = config.slurm.nodes * tasks_per_node(config.slurm)
    for stage, size in (("pretrain", config.pretrain.batch_size), ("finetune", config.finetune.batch_size)):
        if stage in config.stages and size % count:
            raise ValueError(
                f"{stage}.batch_size={size}: {count} processes cannot share it evenly; use a multiple of that"
            )


def doubts(runs: Sequence[PlannedRun], cluster: str) -> list[str]:
    """What is likely a mistake, but may be right on the cluster."""
    from vcrast.data.open import open_corpus

    from .slurm_options import asks_for_gpus

    config = runs[0].config
    found = []
    if cluster == "slurm" and not asks_for_gpus(config.slurm) and not config.run.device.startswith("cpu"):
        found.append("slurm.gpus_per_node is not set, so no GPU is asked for; run.device=cpu says that this is meant")
    for data in {str(run.config.data): run.config.data for run in runs}.values():
        try:
            open_corpus(data)
        except (ValueError, KeyError, OSError, ModuleNotFoundError) as error:
            found.append(f"{str(error).splitlines()[0]} (as seen from here; the job fails unless the nodes see it)")
    return found


def show_script(base: Path, runs: Sequence[PlannedRun], program: Program) -> int:
    """`--dry-run`: the batch script to stdout, what it belongs to to stderr."""
    from .snapshot import fingerprint, source_files
    from .submission import Submission

    code = base / "code" / fingerprint(ROOT, source_files(ROOT))
    print(Submission(runs[0].config.slurm, runs[0].config.recipe, base / "slurm", code).script(len(runs)))
    for run in runs:
        print(f"{program.name}: would run {run.folder} {' '.join(run.varied)}".rstrip(), file=sys.stderr)
    return 0


def hand_over(base: Path, runs: Sequence[PlannedRun], cluster: str, program: Program) -> int:
    """Copy the code, submit, and say where everything is."""
    from vcrast.config.atomic import write_atomic
    from vcrast.runs.overview import ARRAY

    from .slurm_job import BatchJob
    from .snapshot import take, take_own_options
    from .submission import Submission, why_never

    is_new = not base.exists() or not any(base.iterdir())
    code = take(ROOT, base / "code")
    own = take_own_options(base / "code")
    tasks = [BatchJob(run.overrides, run.config.slurm.signal_delay_s, program, own) for run in runs]
    try:
        jobs = Submission(runs[0].config.slurm, runs[0].config.recipe, base / "slurm", code).submit(cluster, tasks)
    except ValueError:
        if is_new:  # a refused job leaves no run behind
            shutil.rmtree(base)
        raise
    if len(jobs) > 1:
        listed = [
            {"folder": run.folder.name, "varied": list(run.varied), "job": job.job_id}
            for run, job in zip(runs, jobs, strict=True)
        ]
        write_atomic(base / ARRAY, json.dumps(listed, indent=2) + "\n")
    print("\n".join(receipt(base, runs, jobs, cluster, code)), flush=True)
    warning = why_never(jobs[0].job_id) if cluster == "slurm" else None
    if warning:
        print(f"{program.name}: warning: {warning}", file=sys.stderr)
    return 0


def receipt(base: Path, runs: Sequence[PlannedRun], jobs: Sequence[Job[int]], cluster: str, code: Path) -> list[str]:
    """What the user is told: job ids, folders, logs, and the commands for what comes next."""
    logs = [str(job.task(0).paths.stdout) for job in jobs]
    first = jobs[0].job_id.partition("_")[0]
    cancel = f"scancel {first}" if cluster == "slurm" else f"kill {' '.join(job.job_id for job in jobs)}"
    if len(jobs) == 1:
        lines = [f"submitted job {first}: {runs[0].config.recipe}", f"  run folder  {base}"]
        lines += [f"  log         {logs[0]}", f"  follow      tail -F {shlex.quote(logs[0])}"]
    else:
        lines = [f"submitted {len(jobs)} jobs: {runs[0].config.recipe}"]
        width = max(len(job.job_id) for job in jobs)
        lines += [
            f"  {job.job_id:<{width}}  {' '.join(run.varied)}  {run.folder}"
            for job, run in zip(jobs, runs, strict=True)
        ]
        lines += [f"  logs        {base / 'slurm'}/", f"  follow      tail -F {shlex.quote(logs[0])}"]
        lines.append(f"  compare     vcrast compare {shlex.quote(str(base))}    as soon as runs are done")
    if cluster == "slurm":
        lines.append(f"  state       squeue --jobs {first}")
    return [*lines, f"  cancel      {cancel}", f"  code        {code}"]


if __name__ == "__main__":
    sys.exit(main())
