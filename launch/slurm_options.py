"""What a batch job asks for: `slurm.*`, every value checked before it reaches a script, as submitit's parameters."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vcrast.config.schema import SlurmConfig
from vcrast.config.words import suggest

CLUSTERS = ("auto", "slurm", "local")
MAIL_TYPES = ("BEGIN", "END", "FAIL", "REQUEUE", "TIME_LIMIT", "TIME_LIMIT_50", "TIME_LIMIT_80", "TIME_LIMIT_90", "ALL")
# Options without influence on what is run, where its output goes, or how it is stopped: those are the launcher's own.
EXTRA = (
    "begin", "comment", "contiguous", "core-spec", "cpu-freq", "cpus-per-gpu", "deadline", "dependency", "exclusive",
    "gres", "gres-flags", "hint", "licenses", "mem-per-cpu", "mem-per-gpu", "network", "nice", "nodelist", "power",
    "prefer", "priority", "sockets-per-node", "spread-job", "switches", "threads-per-core", "tmp", "wckey",
)  # fmt: skip

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@/+-]*"
SHAPES = {
    "partition": (rf"{NAME}(,{NAME})*", "a name, or several with commas"),
    "account": (NAME, "a name"),
    "qos": (NAME, "a name"),
    "reservation": (rf"{NAME}(,{NAME})*", "a name, or several with commas"),
    "constraint": (r"[A-Za-z0-9_\[(!][A-Za-z0-9_.:,&|*()\[\]!-]*", "features joined by & or |"),
    "exclude": (r"[A-Za-z0-9][A-Za-z0-9_.,\[\]-]*", "nodes such as n[3-5],n9"),
    "mail_user": (r"[A-Za-z0-9_.+-]+(@[A-Za-z0-9.-]+)?", "an address"),
    "python": (r"[A-Za-z0-9_./][A-Za-z0-9_./+ -]*", "the path of an interpreter"),
}
"""What the strings may look like: nothing that a shell, or Slurm's reading of `#SBATCH` lines, could take for more."""
MODULE = r"[A-Za-z0-9_][A-Za-z0-9_./+-]*"
EXTRA_VALUE = r"[A-Za-z0-9_.,:;@%+=/()\[\]*&|!? -]*"
PATH = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029'\"\\`$%:]+"

LOWEST = {
    "nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1, "mem_gb": 0, "timeout_min": 1,
    "signal_delay_s": 1, "max_num_timeout": 0, "array_parallelism": 1,
}  # fmt: skip
SHORTEST_S = 120
"""Between the start and the warning: Slurm may send it a minute early, and a run takes a while to start."""
ONLY_SLURM = (
    "partition", "account", "qos", "constraint", "reservation", "exclude", "cpus_per_task", "mem_gb",
    "array_parallelism", "mail_user",
)  # fmt: skip


def check(options: SlurmConfig) -> None:
    """Refuse what no cluster could use, and whatever could be read as a second option or command.

    Raises:
        ValueError: names the key, the value and what is expected.
    """
    if options.cluster not in CLUSTERS:
        raise ValueError(f"slurm.cluster={_shown(options.cluster)}: {suggest(options.cluster, CLUSTERS)}")
    for key, (shape, expected) in SHAPES.items():
        _check_text(f"slurm.{key}", getattr(options, key), shape, expected)
    for module in options.modules:
        _check_text("slurm.modules", module, MODULE, "names such as cuda/12.4")
    for kind in options.mail_type:
        if kind not in MAIL_TYPES:
            raise ValueError(f"slurm.mail_type={_shown(kind)}: {suggest(kind, MAIL_TYPES)}")
    for key, lowest in LOWEST.items():
        value = getattr(options, key)
        if value is not None and value < lowest:
            raise ValueError(f"slurm.{key}={value}: must be at least {lowest}")
    if options.gpus_per_node and options.tasks_per_node not in (None, options.gpus_per_node):
        raise ValueError(
            f"slurm.tasks_per_node={options.tasks_per_node}: one process is started per GPU "
            f"(slurm.gpus_per_node={options.gpus_per_node}); leave it out"
        )
    if options.signal_delay_s + SHORTEST_S > 60 * options.timeout_min:
        raise ValueError(
            f"slurm.timeout_min={options.timeout_min}: leaves no time to run before the warning, which comes "
            f"slurm.signal_delay_s={options.signal_delay_s} s before the limit, and up to a minute earlier"
        )
    extra(options.extra)


def check_path(key: str, path: Path) -> None:
    """Refuse a folder whose name cannot stand in a batch script, a log path of Slurm, or PYTHONPATH.

    Raises:
        ValueError: names the key.
    """
    _check_text(key, str(path), PATH, "a path without quotes, \\, `, $, %, : and control characters")


def extra(given: Mapping[str, Any]) -> dict[str, Any]:
    """`slurm.extra` as sbatch options, underscores for hyphens allowed.

    Raises:
        ValueError: an option that is not in `EXTRA`, or a value that is no number, plain text or `true`.
    """
    options: dict[str, Any] = {}
    for key, value in given.items():
        option = str(key).replace("_", "-")
        if option not in EXTRA:
            raise ValueError(f"slurm.extra: {_shown(key)} is not allowed; {suggest(option, EXTRA)}")
        if isinstance(value, bool):
            if not value:
                raise ValueError(f"slurm.extra.{key}=false: leave an option out that is not wanted")
        elif not isinstance(value, int | float):
            if not isinstance(value, str):
                raise ValueError(f"slurm.extra.{key}={value}: must be a number, plain text or true")
            _check_text(f"slurm.extra.{key}", value, EXTRA_VALUE, "plain text")
        options[option] = value
    return options


def tasks_per_node(options: SlurmConfig) -> int:
    """Processes on each node: one per GPU, or what was asked for where there are none."""
    return options.tasks_per_node or max(1, options.gpus_per_node or 0)


def refuse_for_local(options: SlurmConfig) -> None:
    """Refuse settings that processes on this machine would ignore.

    Raises:
        ValueError: names the first of them.
    """
    given = {key: getattr(options, key) for key in ONLY_SLURM if getattr(options, key) is not None}
    lists = {"mail_type": options.mail_type, "extra": options.extra}
    given |= {key: value for key, value in lists.items() if value}
    if options.nodes > 1:
        given["nodes"] = options.nodes
    for key, value in given.items():
        raise ValueError(f"slurm.{key}={value}: slurm.cluster=local runs on this machine and has no use for it")


def constructor_options(options: SlurmConfig, *, python: str) -> dict[str, Any]:
    """Keywords of `AutoExecutor(folder, cluster=...)`; `python` is a shell command, quoted already."""
    keywords = {"python": python, "max_num_timeout": options.max_num_timeout}
    return {f"{cluster}_{key}": value for cluster in ("slurm", "local") for key, value in keywords.items()}


def parameters(options: SlurmConfig, *, name: str) -> dict[str, Any]:
    """Keywords of `AutoExecutor.update_parameters`; None means not set."""
    load = [f"module load {shlex.join(options.modules)} || exit 1"] if options.modules else None
    # Since Slurm 22.05 srun does not take over the job's --cpus-per-task. A rank that fails must not leave the others
    # waiting for it in a collective.
    srun = ["--kill-on-bad-exit=1"]
    if options.cpus_per_task is not None:
        srun.append(f"--cpus-per-task={options.cpus_per_task}")
    additional: dict[str, Any] = {"requeue": True, **extra(options.extra)}
    if options.reservation is not None:
        additional["reservation"] = options.reservation
    specific = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "exclude": options.exclude,
        "mail_user": options.mail_user,
        "mail_type": ",".join(options.mail_type) or None,
        "signal_delay_s": options.signal_delay_s,
        "array_parallelism": options.array_parallelism,
        "setup": load,
        "srun_args": srun,
        "additional_parameters": additional,
    }
    return {
        "name": re.sub(r"[^A-Za-z0-9_.-]", "_", name),
        "timeout_min": options.timeout_min,
        "nodes": options.nodes,
        "tasks_per_node": tasks_per_node(options),
        "gpus_per_node": options.gpus_per_node or None,
        "cpus_per_task": options.cpus_per_task,
        "mem_gb": options.mem_gb,
        "stderr_to_stdout": True,
        **{f"slurm_{key}": value for key, value in specific.items()},
        "local_setup": load,
    }


def _check_text(key: str, value: str | None, shape: str, expected: str) -> None:
    if value is not None and re.fullmatch(shape, value) is None:
        raise ValueError(f"{key}={_shown(value)}: give {expected}")


def _shown(value: object) -> str:
    """A value on one line, whatever it holds."""
    text = str(value)
    return text if text.isprintable() else repr(text)
