"""What `--help` and `vcrast list` say about `configs/`, read without Hydra or torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vcrast.config.schema import config_dir

GROUPS = (
    "data", "source", "features", "views", "model", "attention", "linear", "objective", "optim", "schedule", "engine",
    "slurm",
)  # fmt: skip

COMMON_KEYS = (
    ("data.root=DIR", "where the dataset lies"),
    ("data.folds=[1]", "folds to test on: a list, or all"),
    ("stages=[pretrain,finetune,evaluate]", "any of them, in this order"),
    ("pretrain.batch_size=96", "the batch of the loss; memory does not limit it"),
    ("pretrain.epochs=100", "or pretrain.steps=N, which wins; finetune. has the same keys"),
    ("finetune.lr=1e-4", "peak learning rate; optim.lr is pretraining's"),
    ("precision=auto", "bf16, fp16 or fp32"),
    ("launch.num_processes=1", "processes on this machine, one GPU each; they share the batch"),
    ("run.dir=DIR", "the run folder; runs/<recipe>/<time> by default"),
    ("run.resume=DIR", "go on with the run in that folder"),
    ("logger=[jsonl]", "add wandb, tensorboard"),
)


def options(group: str) -> Iterator[tuple[str, str]]:
    """(name, first comment line) of every file of a config group."""
    for path in sorted((config_dir() / group).glob("*.yaml")):
        yield path.stem, first_comment(path)


def first_comment(path: Path) -> str:
    """The first comment that is not a directive to Hydra; empty if there is none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").rstrip(".")
    return ""


def launch_help(script: str) -> str:
    """The text of `--help`: recipes, groups and the commonest keys."""
    usage = f"usage: python {script} RECIPE [group=option] [key=value ...] [-m] [--dry-run | --cfg job]"
    lines = [usage, "", "recipes:"]
    lines += [f"  {name:<14} {text}" for name, text in options("recipe")]
    lines += ["", "groups (group=option; the default is in the recipe or in configs/run.yaml):"]
    lines += [f"  {group:<14} {', '.join(name for name, _ in options(group))}" for group in GROUPS]
    lines += ["", "commonest keys:"]
    lines += [f"  {key:<38} {text}" for key, text in COMMON_KEYS]
    lines += [
        "",
        "  -m           several values per key, as in `-m attention=softmax,rfa run.seed=0,1`: one run after the other",
        "  --dry-run    check settings and data, run one step of every stage, estimate memory and time; writes nothing",
        "  --cfg job    print the composed settings (every key there can be set) and stop",
        f'  completion   eval "$(python {script} -sc install=bash)"',
    ]
    return "\n".join(lines)
