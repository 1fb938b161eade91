"""Send a recipe, or a sweep over recipes' settings, to a Slurm cluster through submitit.

python launch/slurm.py RECIPE [group=option] [key=value ...] [-m] [--dry-run]
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from launch.arguments import Arguments, parse
from launch.mistakes import explained
from launch.planned import Planned, plan
from vcrast.config.files import launch_help

if TYPE_CHECKING:
    from submitit import Job

    from launch.submission import Submission
    from vcrast.config.schema import Config

ROOT = Path(__file__).resolve().parent.parent
SLURM_KEYS = """
cluster (slurm.*; null means the cluster's own default; docs/slurm.md):
  slurm.partition=gpu slurm.account=NAME slurm.qos=NAME slurm.constraint=a100
  slurm.nodes=4 slurm.gpus_per_node=8    one process per GPU; slurm.tasks_per_node=N where there are none
  slurm.cpus_per_task=12 slurm.mem_gb=64
  slurm.timeout_min=240                  at the limit the job saves, requeues itself and goes on
  slurm.cluster=local                    processes on this machine instead, for those without Slurm

  -m             several values per key: `-m attention=softmax,rfa run.seed=0,1,2` is one job array of six runs
  --dry-run      print the batch script, submit nothing"""


def main(argv: list[str] | None = None) -> int:
    """Submit the command line; returns the exit code: 0 submitted, 2 a mistake in the command or a refusal."""
    words = sys.argv[1:] if argv is None else argv
    return explained("slurm.py", lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    arguments = parse(words)
    if arguments.help:
        # The flags of this launcher do something else.
        common, _, _ = launch_help("launch/slurm.py").partition("\n  -m ")
        print(common.rstrip() + "\n" + SLURM_KEYS)
        return 0
    if arguments.show_config:
        from vcrast.run import start

        return start(arguments.overrides, show_config=True)
    return submit(arguments)


def submit(arguments: Arguments) -> int:
    """Check everything that can be checked here, then submit, or print what would be submitted.

    Raises:
        ValueError: a wrong setting, or the cluster's refusal.
        ModuleNotFoundError: submitit is missing.
    """
    from launch import slurm_options
    from launch.submission import choose_cluster
    from vcrast.features.views import check_views

    require_submitit()
    base, runs = plan(arguments)
    options = runs[0].config.slurm
    slurm_options.check(options)
    if (asked := runs[0].config.launch.num_processes) != 1:
        raise ValueError(
            f"launch.num_processes={asked}: is for launch/local.py; here slurm.nodes and slurm.gpus_per_node count, or "
            "slurm.tasks_per_node where there are no GPUs"
        )
    for run in runs:
        refuse_uneven(run.config)
        check_views(run.config)
    slurm_options.check_path("run.dir", base)
    cluster = "slurm" if arguments.dry_run else choose_cluster(options.cluster)
    if cluster == "local" or options.cluster == "local":
        slurm_options.refuse_for_local(options)
    for line in doubts(runs, cluster):
        print(f"slurm.py: warning: {line}", file=sys.stderr)
    return show_script(base, runs) if arguments.dry_run else hand_over(base, runs, cluster)


def refuse_uneven(config: Config) -> None:
    """Refuse a batch that the processes of the job could not share, before it has waited in the queue.

    Raises:
        ValueError: names the stage.
    """
    from launch.slurm_options import tasks_per_node

    count = config.slurm.nodes * tasks_per_node(config.slurm)
    for stage, size in (("pretrain", config.pretrain.batch_size), ("finetune", config.finetune.batch_size)):
        if stage in config.stages and size % count:
            raise ValueError(
                f"{stage}.batch_size={size}: {count} processes cannot share it evenly; use a multiple of that"
            )


def require_submitit() -> None:
    """Say how to install the only package that this launcher adds.

    Raises:
        ModuleNotFoundError: it is missing.
    """
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise ModuleNotFoundError(
            'launch/slurm.py needs the package submitit: pip install "submitit>=1.5.3,<2", or make setup'
        ) from None


def doubts(runs: Sequence[Planned], cluster: str) -> list[str]:
    """What is likely a mistake, but may be right on the cluster."""
    from vcrast.data.open import open_corpus

    config = runs[0].config
    found = []
    if cluster == "slurm" and not config.slurm.gpus_per_node and not config.run.device.startswith("cpu"):
        found.append("slurm.gpus_per_node is not set, so no GPU is asked for; run.device=cpu says that this is meant")
    for data in {str(run.config.data): run.config.data for run in runs}.values():
        try:
            open_corpus(data)
        except (ValueError, KeyError, OSError, ModuleNotFoundError) as error:
            found.append(f"{str(error).splitlines()[0]} (as seen from here; the job fails unless the nodes see it)")
    return found


def show_script(base: Path, runs: Sequence[Planned]) -> int:
    """`--dry-run`: the batch script to stdout, what it belongs to to stderr."""
    from launch.snapshot import fingerprint, source_files

    code = base / "code" / fingerprint(ROOT, source_files(ROOT))
    print(_submission(base, runs, code).script(len(runs)))
    for run in runs:
        print(f"slurm.py: would run {run.folder} {' '.join(run.varied)}".rstrip(), file=sys.stderr)
    return 0


def hand_over(base: Path, runs: Sequence[Planned], cluster: str) -> int:
    """Copy the code, submit, and say where everything is."""
    from launch.slurm_job import BatchJob
    from launch.snapshot import take
    from launch.submission import why_never

    is_new = not base.exists()
    code = take(ROOT, base / "code")
    try:
        jobs = _submission(base, runs, code).submit(
            cluster, [BatchJob(run.overrides, run.config.slurm.signal_delay_s) for run in runs]
        )
    except ValueError:
        if is_new:  # a refused job leaves no run behind
            shutil.rmtree(base)
        raise
    print("\n".join(receipt(base, runs, jobs, cluster, code)), flush=True)
    warning = why_never(jobs[0].job_id) if cluster == "slurm" else None
    if warning:
        print(f"slurm.py: warning: {warning}", file=sys.stderr)
    return 0


def receipt(base: Path, runs: Sequence[Planned], jobs: Sequence[Job[int]], cluster: str, code: Path) -> list[str]:
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


def _submission(base: Path, runs: Sequence[Planned], code: Path) -> Submission:
    from launch.submission import Submission

    return Submission(runs[0].config.slurm, f"vcrast-{runs[0].config.recipe}", base / "slurm", code)


if __name__ == "__main__":
    from launch.local import HYDRA_FLAGS, hydra_main

    if any(word.split("=")[0] in HYDRA_FLAGS for word in sys.argv[1:]):
        hydra_main()
    else:
        sys.exit(main())
