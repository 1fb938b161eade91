"""Compose the help of `vcrast run` and `vcrast submit`: recipes, groups, keys, flags."""

from __future__ import annotations

from vcrast.config.files import GROUPS, LISTS, options

COMMON_KEYS = (
    ("data.root=DIR", "where the dataset lies"),
    ("data.folds=[1]", "folds to test on: a list, or all"),
    ("stages=[pretrain,finetune,evaluate]", "any of them, in this order"),
    ("pretrain.batch_size=96", "the batch of the loss; memory does not limit it"),
    ("pretrain.epochs=100", "or pretrain.steps=N, which wins; finetune. has the same keys"),
    ("finetune.optim.lr=1e-4", "peak learning rate; optim.lr is pretraining's"),
    ("precision=auto", "bf16, fp16 or fp32"),
    ("launch.num_processes=1", "processes on this machine, one GPU each; they share the batch"),
    ("run.dir=DIR", "the run folder; runs/<recipe>/<time> by default"),
    ("run.resume=DIR", "go on with the run in that folder"),
    ("logger=[jsonl]", "add wandb, tensorboard"),
)

RUN_FLAGS = """\
  -m             several values per key, as in `-m attention=softmax,rfa run.seed=0,1`: one run after the other
  --dry-run      check settings and data, run two steps of every stage, estimate memory and time; writes nothing"""

SUBMIT_FLAGS = """\
cluster (slurm.*; null means the cluster's own default; docs/slurm.md):
  slurm.partition=gpu slurm.account=NAME slurm.qos=NAME slurm.constraint=a100
  slurm.nodes=4 slurm.gpus_per_node=8    one process per GPU; slurm.tasks_per_node=N where there are none
  slurm.cpus_per_task=12 slurm.mem_gb=64
  slurm.timeout_min=240                  at the limit the job saves, requeues itself and goes on
  slurm.cluster=local                    processes on this machine instead, for those without Slurm

  -m             several values per key: `-m attention=softmax,rfa run.seed=0,1,2` is one job array of six runs
  --dry-run      print the batch script, submit nothing
  data shard NAME --out DIR --parts N    in place of a recipe: pack a dataset by N jobs (docs/slurm.md)"""

ALL_FLAGS = """\
  --recipes DIR  recipes of your own, DIR/NAME.yaml, beside those above; the folder vcrast_recipes is found by itself
  --cfg job      print the composed settings (every key there can be set) and stop
  completion     eval "$({command} -sc install=bash)"
  VCRAST_DEBUG=1 in the environment: the traceback of a mistake, too, that is otherwise told in one line"""


def launch_help(command: str, flags: str) -> str:
    """The help of a launcher.

    Args:
        command: what the user types before the recipe, `vcrast run`.
        flags: `RUN_FLAGS` or `SUBMIT_FLAGS`.
    """
    usage = f"usage: {command} RECIPE [group=option] [key=value ...] [-m] [--dry-run | --cfg job]"
    lines = [usage, "", "recipes:"]
    lines += [f"  {name:<14} {text}" for name, text in options("recipe")]
    lines += ["", "groups (group=option; the default is in the recipe or in configs/run.yaml):"]
    lines += [f"  {group:<14} {', '.join(name for name, _ in options(group))}" for group in (*GROUPS, *LISTS)]
    lines += ["", "tables of the thesis (thesis table=NAME [table.scale=smoke | esc10 | full]; docs/thesis-tables.md):"]
    lines += [f"  {name:<14} {text.partition(':')[0]}" for name, text in options("table")]
    lines += ["", "commonest keys:"]
    lines += [f"  {key:<38} {text}" for key, text in COMMON_KEYS]
    return "\n".join([*lines, "", flags, ALL_FLAGS.format(command=command)])
