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
TEXTS = (
    "partition", "account", "qos", "reservation", "constraint", "exclude", "nodelist", "gres", "job_name", "comment",
    "dependency", "mail_user", "srun_args", "python",
)  # fmt: skip
LOWEST = {
    "nodes": 1, "tasks_per_node": 1, "cpus_per_task": 1, "mem_gb": 0, "timeout_min": 1, "signal_delay_s": 1,
    "max_num_timeout": 0, "array_parallelism": 1,
}  # fmt: skip
INSTEAD = {"time": "timeout_min", "mem": "mem_gb", "ntasks-per-node": "tasks_per_node", "ntasks": "tasks_per_node"}
"""sbatch options that have a key of another name."""
OWN = ("array", "chdir", "error", "no-requeue", "open-mode", "output", "requeue", "signal", "wrap")
"""sbatch options by which the launcher says what is run, where its output goes and how it is stopped."""
GPUS = re.compile(r"([^\s:,]+:)?\d+(,([^\s:,]+:)?\d+)*")
SHORTEST_S = 120
"""Between the start and the warning: Slurm may send it a minute early, and a run takes a while to start."""
ONLY_SLURM = (
    "partition", "account", "qos", "constraint", "reservation", "exclude", "nodelist", "nodes", "gres", "cpus_per_task",
    "mem_gb", "array_parallelism", "mail_user", "mail_type", "job_name", "comment", "dependency", "srun_args", "extra",
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
    for line in (options.setup or "").split("\n"):
        check_text("slurm.setup", f".{line}".expandtabs(), without="")
    for key in ("srun_args", "python"):
        command_words(f"slurm.{key}", getattr(options, key))
    for key, lowest in LOWEST.items():
        value = getattr(options, key)
        if value is not None and value < lowest:
            raise ValueError(f"slurm.{key}={value}: must be at least {lowest}")
    if options.gpus_per_node is not None and not GPUS.fullmatch(str(options.gpus_per_node)):
        raise ValueError(f"slurm.gpus_per_node={_shown(str(options.gpus_per_node))}: write 4, or with a kind a100:4")
    if options.gpus_per_node and gpus_in(options.gres):
        raise ValueError(f"slurm.gres={options.gres}: slurm.gpus_per_node={options.gpus_per_node} asks for GPUs, too")
    if num_gpus(options) and options.tasks_per_node not in (None, num_gpus(options)):
        raise ValueError(
            f"slurm.tasks_per_node={options.tasks_per_node}: one process is started per GPU, of which a node gives "
            f"{num_gpus(options)}; leave it out"
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


def check_text(key: str, text: str, *, without: str = "\\") -> None:
    """Refuse text that sbatch would not read as it was typed: it takes the first line, without backslashes.

    Args:
        key: the setting.
        text: its value.
        without: characters that it must not have.

    Raises:
        ValueError: line breaks or other control characters, one of `without`, or nothing.
    """
    if not text.isprintable() or set(text) & set(without) or not text.strip():
        but = f" without {' '.join(without)}" if without else ""
        raise ValueError(f"{key}={_shown(text)}: give one line of text{but}")


def command_words(key: str, text: str | None) -> list[str]:
    """The words of a command line, blanks in quotes kept together; none for None.

    Raises:
        ValueError: a quote that is not closed.
    """
    try:
        return shlex.split(text or "")
    except ValueError as error:
        raise ValueError(f"{key}={text}: {str(error).lower()}") from None


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
    """`slurm.extra` as sbatch options, underscores for hyphens allowed; what they mean is the cluster's to judge.

    Raises:
        ValueError: an option that is the launcher's or has a key of its own, or a value that is no number, text or
            `true`.
    """
    options: dict[str, Any] = {}
    keys = {field.name.replace("_", "-"): field.name for field in fields(SlurmConfig)} | INSTEAD
    for key, value in given.items():
        option = str(key).replace("_", "-")
        if re.fullmatch(r"[a-z][a-z0-9-]*", option) is None:
            raise ValueError(f"slurm.extra: {key!r} is no option of sbatch; write it as nice or mem-per-gpu")
        if option in keys:
            raise ValueError(f"slurm.extra.{key}={_shown(str(value))}: write it as slurm.{keys[option]}")
        if option in OWN:
            raise ValueError(f"slurm.extra.{key}={value}: the launcher sets --{option} itself; leave it out")
        if value is False or not isinstance(value, bool | int | float | str):
            raise ValueError(f"slurm.extra.{key}={value}: must be a number, plain text or true; else leave it out")
        check_text(f"slurm.extra.{key}", str(value))
        options[option] = value
    return options


def gpus_in(text: str | int | None) -> int:
    """Number of GPUs that `slurm.gpus_per_node` or `slurm.gres` names.

    >>> gpus_in(4), gpus_in("gpu:a100:2,gpu:h100:1,nvme:800"), gpus_in("gpu"), gpus_in("nvme:800"), gpus_in(None)
    (4, 3, 1, 0, 0)
    """
    if text is None or isinstance(text, int):
        return text or 0
    found = [each.removeprefix("gres/").split(":") for each in text.partition("(")[0].split(",")]
    return sum(int(words[-1]) if words[-1].isdecimal() else 1 for words in found if words[0] == "gpu")


def num_gpus(options: SlurmConfig) -> int:
    """GPUs of each node, as far as the settings say."""
    own = options.gpus_per_node
    typed = ",".join(f"gpu:{each}" for each in own.split(",")) if isinstance(own, str) else own
    return gpus_in(typed) or gpus_in(options.gres)


def asks_for_gpus(options: SlurmConfig) -> bool:
    """Whether a GPU is asked for in any way."""
    return num_gpus(options) > 0 or any(key.replace("_", "-").startswith("gpus") for key in options.extra)


def tasks_per_node(options: SlurmConfig) -> int:
    """Processes on each node: one per GPU, or what was asked for where there are none."""
    return options.tasks_per_node or max(1, num_gpus(options))


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
    before = [f"module load {shlex.join(options.modules)} || exit 1"] if options.modules else []
    if options.setup:
        before += ["set -e", *options.setup.splitlines(), "set +e"]
    # Since Slurm 22.05 srun does not take over the job's --cpus-per-task. A rank that fails must not leave the others
    # waiting for it in a collective.
    srun = ["--kill-on-bad-exit=1"]
    if options.cpus_per_task is not None:
        srun.append(f"--cpus-per-task={options.cpus_per_task}")
    additional: dict[str, Any] = {"requeue": True, **extra(options.extra)}
    if options.reservation is not None:
        additional["reservation"] = options.reservation
    if options.gpus_per_node:
        additional["gpus-per-node"] = options.gpus_per_node
    same = (
        "partition", "account", "qos", "constraint", "exclude", "nodelist", "gres", "comment", "dependency",
        "mail_user", "signal_delay_s", "array_parallelism",
    )  # fmt: skip
    specific = {
        **{key: getattr(options, key) for key in same},
        "mail_type": ",".join(options.mail_type) or None,
        "setup": before or None,
        "srun_args": [*srun, *command_words("slurm.srun_args", options.srun_args)],
        "additional_parameters": additional,
    }
    return {
        "name": options.job_name or re.sub(r"[^A-Za-z0-9_.-]", "_", name),
        "timeout_min": options.timeout_min,
        "nodes": options.nodes,
        "tasks_per_node": tasks_per_node(options),
        "cpus_per_task": options.cpus_per_task,
        "mem_gb": options.mem_gb,
        "stderr_to_stdout": True,
        **{f"slurm_{key}": value for key, value in specific.items()},
        "local_setup": ["\n".join(before)] if before else None,
    }
