"""Pack a dataset on a Slurm cluster: an array of jobs, each of which writes a part.

python launch/slurm.py data shard NAME [key=value ...] --out DIR --parts N [slurm.key=value ...] [--dry-run]
vcrast submit data shard NAME ...                                                                # the same
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from vcrast.cli.main import Parser
from vcrast.cli.main import main as vcrast_main
from vcrast.cli.options import config_of
from vcrast.cli.shards import add_packing, packing_of
from vcrast.config.files import VARIABLE, add_own_dirs
from vcrast.config.words import suggest

from .arguments import Program
from .requeue import reason_to_end, requeue, submitits_handler

if TYPE_CHECKING:
    from submitit import Job
    from submitit.core.utils import DelayedSubmission

    from vcrast.config.schema import Config, SlurmConfig

    from .submission import Submission

JOBS = "slurm"
"""The folder in that of the shards: scripts, logs and code of the jobs, of no use once all is packed."""
AT_A_TIME = {"nodes": 1, "tasks_per_node": None, "gpus_per_node": None, "gres": None}
"""What one process asks for that needs no GPU."""


@dataclass(frozen=True)
class PackingJob:
    """One part of a packing as submitit stores it, loads it on a node, and calls it there.

    Attributes:
        words: command line of `vcrast`, without `--workers` unless it was given.
        program: how the launcher was called.
        own_options: copies of the user's folders of options, as $VCRAST_CONFIGS names them.
    """

    words: tuple[str, ...]
    program: Program
    own_options: str = ""

    def __call__(self) -> int:
        """Write the part, or what is missing of it; does not return when that fails."""
        os.environ[VARIABLE] = self.own_options
        logging.getLogger("submitit").propagate = False
        signal.signal(signal.SIGTERM, self._end)
        status = vcrast_main([*self.words, *self._workers()])
        sys.stdout.flush()
        if status != 0:
            sys.exit(status)
        return status

    def checkpoint(self) -> DelayedSubmission:
        """What runs when the job starts again: the same, since whole shards are left."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)

    def _workers(self) -> list[str]:
        """As many processes as the job was given cores; not every cluster hides the others."""
        given = os.environ.get("SLURM_CPUS_ON_NODE", "")
        return ["--workers", given] if given.isdecimal() and "--workers" not in self.words else []

    def _end(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's
        """Go back into the queue if Slurm preempts the job, end if it was cancelled."""
        why_not = reason_to_end(signal.Signals(number)) or requeue(submitits_handler())
        print(f"{self.program.name}: not requeued: {why_not}", file=sys.stderr)
        sys.exit(128 + number)


def submit(words: Sequence[str], program: Program) -> int:
    """Check everything that can be checked here, then submit the parts that are missing.

    Args:
        words: behind `data`; the first is the verb.
        program: how the launcher was called.

    Raises:
        ValueError: a wrong setting, a folder that was begun with other clips, or the cluster's refusal.
        ModuleNotFoundError: submitit is missing.
    """
    from . import slurm_options
    from .submission import choose_cluster

    if words[:1] != ["shard"]:
        if not words:
            raise ValueError("data: write data shard NAME --out DIR --parts N")
        word = words[0]
        raise ValueError(f"data {word}: {suggest(word, ['shard'])}; the other verbs run here, as `vcrast data {word}`")
    add_own_dirs()
    args = parse_packing(words[1:], program)
    config = config_of(args)
    slurm_options.check(config.slurm)
    _refuse_several(config.slurm)
    slurm_options.check_folder("--out", args.out)
    cluster = "slurm" if args.dry_run else choose_cluster(config.slurm.cluster)
    if cluster == "local" or config.slurm.cluster == "local":
        slurm_options.refuse_for_local(config.slurm)
    parts = _parts(args, config, program)
    if not parts:
        print(f"{args.out}: packed already, nothing to submit; vcrast data verify {shlex.quote(str(args.out))}")
        return 0
    return _hand_over(args, config, parts, cluster, program)


def parse_packing(words: Sequence[str], program: Program) -> Namespace:
    """Read the words after `data shard`.

    Raises:
        ValueError: no part at all.
    """
    parser = Parser(prog=f"{program.shown} data shard", description="Pack a dataset into large files, by many jobs.")
    add_packing(parser)
    parser.add_argument("--parts", type=int, required=True, metavar="N", help="jobs that share the work")
    parser.add_argument("--dry-run", action="store_true", help="print the batch script, submit nothing")
    args = parser.parse_args(list(words))
    if args.parts < 1:
        raise ValueError(f"--parts {args.parts}: must be at least 1")
    args.out = args.out.expanduser().absolute()
    return args


def _refuse_several(options: SlurmConfig) -> None:
    for key, usual in AT_A_TIME.items():
        if (value := getattr(options, key)) not in (usual, 1):
            raise ValueError(
                f"slurm.{key}={value}: each part is one process on one node, and needs no GPU; leave it out. --parts "
                "says how many jobs, slurm.cpus_per_task how many cores each has"
            )


def _parts(args: Namespace, config: Config, program: Program) -> list[int]:
    """Which parts have something to do, as far as can be seen from here.

    Raises:
        ValueError: there are more parts than shards, or the folder was begun with something else.
    """
    from vcrast.data.open import open_corpus
    from vcrast.data.shards.write import begin, num_shards, unfinished_parts

    try:
        corpus = open_corpus(config.data, trains=False)
    except (ValueError, KeyError, OSError, ModuleNotFoundError) as error:
        said = f"{str(error).splitlines()[0]} (as seen from here; the jobs fail unless the nodes see it)"
        print(f"{program.name}: warning: {said}", file=sys.stderr)
        return list(range(1, args.parts + 1))
    packing = packing_of(args, config.data)
    count = num_shards(corpus, packing) if packing.clips_per_shard > 0 else args.parts  # refused by `begin`
    if args.parts > count:
        raise ValueError(
            f"--parts {args.parts}: {len(corpus.clips)} clips are {count} shards of {packing.clips_per_shard}; give at "
            f"most {count}, or fewer --clips-per-shard"
        )
    if not args.dry_run:
        begin(corpus, args.out, packing)
    return unfinished_parts(args.out, count, args.parts)


def _hand_over(args: Namespace, config: Config, parts: Sequence[int], cluster: str, program: Program) -> int:
    from .slurm import ROOT
    from .snapshot import fingerprint, source_files, take, take_own_options
    from .submission import Submission, why_never

    folder, name = args.out / JOBS, f"shard-{config.data.name}"
    if args.dry_run:
        code = folder / "code" / fingerprint(ROOT, source_files(ROOT))
        print(Submission(config.slurm, name, folder, code).script(len(parts)))
        print(f"{program.name}: would run {len(parts)} of {args.parts} parts into {args.out}", file=sys.stderr)
        return 0
    code, own = take(ROOT, folder / "code"), take_own_options(folder / "code")
    submission = Submission(config.slurm, name, folder, code)
    tasks = [PackingJob(_command(args, part), program, own) for part in parts]
    jobs = submission.submit(cluster, tasks)
    print("\n".join(_receipt(args, parts, jobs, cluster, submission)), flush=True)
    if cluster == "slurm" and (warning := why_never(jobs[0].job_id)):
        print(f"{program.name}: warning: {warning}", file=sys.stderr)
    return 0


def _command(args: Namespace, part: int) -> tuple[str, ...]:
    """The words of `vcrast` for one part."""
    settings = [word for word in args.overrides if not word.lstrip("+~").startswith(("slurm.", "slurm="))]
    words = ["data", "shard", args.name, *settings, "--out", str(args.out), "--codec", args.codec]
    words += ["--clips-per-shard", str(args.clips_per_shard), "--part", f"{part}/{args.parts}"]
    return (*words, *(["--workers", str(args.workers)] if args.workers is not None else []))


def _receipt(
    args: Namespace, parts: Sequence[int], jobs: Sequence[Job[int]], cluster: str, submission: Submission
) -> list[str]:
    """What the user is told: job ids, folders, logs, and the commands for what comes next."""
    first, out = jobs[0].job_id.partition("_")[0], shlex.quote(str(args.out))
    log = Path(jobs[0].task(0).paths.stdout)
    whole = "" if len(parts) == args.parts else f", those of {args.parts} parts that are missing"
    cancel = f"scancel {first}" if cluster == "slurm" else f"kill {' '.join(job.job_id for job in jobs)}"
    return [
        f"submitted {len(jobs)} job{'s' if len(jobs) > 1 else ''}: data shard {args.name}{whole}",
        f"  shards      {args.out}",
        f"  logs        {submission.folder}/",
        f"  follow      tail -F {shlex.quote(str(log))}",
        *([f"  state       squeue --jobs {first}"] if cluster == "slurm" else []),
        f"  cancel      {cancel}",
        f"  code        {submission.code}",
        "  go on       the same command: it submits the parts that are missing",
        f"  check       vcrast data verify {out}    as soon as all are done",
    ]
