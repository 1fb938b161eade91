"""Describe the machine, versions, commit and command of a run, without secrets."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vcrast.config.atomic import write_atomic

PACKAGES = (
    "torch", "torchaudio", "timm", "einops", "hydra-core", "omegaconf", "numpy", "soundfile", "soxr", "safetensors",
    "rich", "matplotlib", "jinja2", "deepspeed", "xformers", "wandb", "tensorboard", "submitit",
)  # fmt: skip
# Everything else in the environment may be a secret, and none of it explains a result.
VARIABLES = ("SLURM_JOB_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
HIDDEN = "***"
SNAPSHOT_FILE = "snapshot.json"
"""At the top of a copy of the code: what git said where it was copied."""


def write_environment(run_dir: Path) -> Path:
    """Write `env.json` into the run folder; a resumed run replaces it by what it runs on now."""
    path = Path(run_dir) / "env.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(describe_environment(), indent=2) + "\n")
    return path


def describe_environment() -> dict[str, Any]:
    """The content of `env.json`."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": redact_arguments([sys.executable, *sys.argv]),
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "gpus": gpus,
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "packages": {name: version for name in PACKAGES if (version := installed_version(name))},
        "git": git_state(Path(__file__).resolve().parents[2]),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line with the values of everything that looks like a secret hidden.

    `--api-key=x`, `--api-key x`, `logger.token=x` and the password in `https://user:password@host` are recognised.
    """
    shown, hide_next = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        is_secret = SECRET.search(name.rpartition("/")[2]) is not None
        if hide_next and not argument.startswith("-"):
            shown.append(HIDDEN)
        elif is_secret and equals:
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(re.sub(r"://[^/@\s]+@", f"://{HIDDEN}@", argument))
        hide_next = is_secret and not equals and argument.startswith("-")
    return shown


def redact_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with the strings under names that look like a secret hidden."""
    return {key: _redact(str(key), value) for key, value in values.items()}


def _redact(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return redact_mapping(value)
    # Numbers stay: `num_tokens: 512` is no secret, and a secret is no number.
    return HIDDEN if isinstance(value, str) and SECRET.search(key) else value


def installed_version(package: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Name of the processor."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def git_state(root: Path) -> dict[str, Any] | None:
    """Commit of the program and whether files differ from it; None if `root` is not the top of a git checkout.

    An installed package may lie inside another project's repository, whose commit says nothing. A copy of the code made
    for a batch job says what it was copied from.
    """
    copied = root / SNAPSHOT_FILE
    if copied.is_file():
        state: dict[str, Any] | None = json.loads(copied.read_text(encoding="utf-8"))["git"]
        return state
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top) != root:
        return None
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(root, "rev-parse", "--verify", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
