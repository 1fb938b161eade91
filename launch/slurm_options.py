"""Check `slurm.*` and turn it into submitit's parameters."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vcrast.config.schema import SlurmConfig
from vcrast.config.words import suggest

CLUSTERS = ("auto", "slurm", "local")
TEXTS = ("partition", "account", "qos", "reservation", "constraint", "exclude", "mail_user", "python")
LOWEST = {
    "nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1, "mem_gb": 0, "timeout_min": 1,
    "signal_delay_s": 1, "max_num_timeout": 0, "array_parallelism": 1,
}  # fmt: skip
OWN = (
    "array", "chdir", "error", "export", "job-name", "mem", "no-requeue", "ntasks", "ntasks-per-node", "open-mode",
    "output", "requeue", "signal", "time", "wrap",
)  # fmt: skip
"""sbatch options by which the launcher says what is run, where its output goes and how it is stopped."""
SHORTEST_S = 120
"""Between the start and the warning: Slurm may send it a minute early, and a run takes a while to start."""
ONLY_SLURM = (
    "partition", "account", "qos", "constraint", "reservation", "exclude", "nodes", "cpus_per_task", "mem_gb",
    "array_parallelism", "mail_user", "mail_type", "extra",
)  # fmt: skip


def check(options: SlurmConfig) -> None:
    """Refuse what no cluster could use, and text that a batch script could read as more than one value.

    Raises:
        ValueError: names the key, the value and what is expected.
    """
    if options.cluster not in CLUSTERS:
        raise ValueError(f"slurm.cluster={_shown(options.cluster)}: {suggest(options.cluster, CLUSTERS)}")
    for key, text in _texts(options):
        check_text(f"slurm.{key}", text)
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


def _texts(options: SlurmConfig) -> Iterator[tuple[str, str]]:
    yield from ((key, text) for key in TEXTS if (text := getattr(options, key)) is not None)
    yield from (("modules", text) for text in options.modules)
    yield from (("mail_type", text) for text in options.mail_type)


def check_text(key: str, text: str, *, without: str = "'\"\\`$") -> None:
    """Refuse text that could not stand in a batch script as one value.

    Args:
        key: the setting.
        text: its value.
        without: characters that it must not have.

    Raises:
        ValueError: line breaks or other control characters, one of `without`, nothing, or a leading blank or hyphen.
    """
    if not text.isprintable() or set(text) & set(without) or text[:1] in ("", " ", "-"):
        raise ValueError(
            f"{key}={_shown(text)}: give one line without {' '.join(without)} that starts with no blank or hyphen"
        )


def _shown(text: str) -> str:
    """On one line, whatever it holds."""
    return text if text.isprintable() else repr(text)


def check_folder(key: str, path: Path) -> None:
    """Refuse a folder whose name could not stand in a batch script, a log path of Slurm, or PYTHONPATH.

    Raises:
        ValueError: names the key.
    """
    check_text(key, str(path), without="'\"\\`$%:")


def extra(given: Mapping[str, Any]) -> dict[str, Any]:
    """`slurm.extra` as sbatch options, underscores for hyphens allowed.

    Raises:
        ValueError: an option that is the launcher's or has a key of its own, or a value that is no number, text or
            `true`.
    """
    options: dict[str, Any] = {}
    keys = {field.name.replace("_", "-") for field in fields(SlurmConfig)}
    for key, value in given.items():
        option = str(key).replace("_", "-")
        if re.fullmatch(r"[a-z][a-z0-9-]*", option) is None:
            raise ValueError(f"slurm.extra: {key!r} is no option of sbatch; write it as nice or mem-per-gpu")
        if option in keys:
            raise ValueError(f"slurm.extra.{key}={value}: write slurm.{option.replace('-', '_')}={value}")
        if option in OWN:
            raise ValueError(f"slurm.extra.{key}={value}: the launcher sets --{option} itself; leave it out")
        if value is False or not isinstance(value, bool | int | float | str):
            raise ValueError(f"slurm.extra.{key}={value}: must be a number, plain text or true; else leave it out")
        if isinstance(value, str):
            check_text(f"slurm.extra.{key}", value)
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
    for key in ONLY_SLURM:
        value = getattr(options, key)
        if value not in (None, [], {}) and not (key == "nodes" and value == 1):
            raise ValueError(f"slurm.{key}={value}: slurm.cluster=local runs on this machine and has no use for it")


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
    same = ("partition", "account", "qos", "constraint", "exclude", "mail_user", "signal_delay_s", "array_parallelism")
    specific = {
        **{key: getattr(options, key) for key in same},
        "mail_type": ",".join(options.mail_type) or None,
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
