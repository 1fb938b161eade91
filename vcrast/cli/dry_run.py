"""`--dry-run`: check settings and data, run two steps of each stage, print the cost."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

from vcrast.config.metric import duration, size
from vcrast.config.resume import holds_work
from vcrast.config.schema import Config
from vcrast.data.streams import clips_per_epoch
from vcrast.run import STAGES, OpenFolds, check, jobs, open_folds, same_clips, what_is_there
from vcrast.runs.interrupt import Interrupt
from vcrast.runs.log import MetricLog
from vcrast.runs.parts import peak_lr
from vcrast.runs.resume import notes_of, plan_folds, said_of
from vcrast.runs.stage import total_steps
from vcrast.runs.summary import Summary
from vcrast.training.schedule import Warmup

REHEARSED = ("pretrain", "finetune")


def rehearse(config: Config) -> int:
    """Check everything that can be checked in a minute and print what the run would cost; returns the exit code.

    Raises:
        ValueError: a fault in settings or data.
    """
    corpus, folds = check(config)
    print(f"recipe {config.recipe}: {len(corpus.clips)} clips, {len(corpus.classes)} classes, folds {', '.join(folds)}")
    short = shortened(config)
    opened = open_folds(short, corpus, folds)
    for text in [*opened.notes, *to_be_redone(config, opened)]:
        print(f"note: {text}")
    with tempfile.TemporaryDirectory(prefix="vcrast-dry-run-") as name, Interrupt() as interrupt:
        folder = Path(name)
        log = MetricLog(folder, ["jsonl"], config={})
        summary = Summary(folder / "summary.json", recipe=config.recipe, classes=corpus.classes)
        job = next(iter(jobs(short, opened, folder, log, summary, interrupt)))
        for stage in [stage for stage in config.stages if stage in REHEARSED]:
            result = STAGES[stage](job)
            summary.record(job.fold, stage, result)
            print(cost_line(config, stage, result, num_clips=len(job.train), num_folds=len(folds)), flush=True)
        log.close()
    print("dry run passed: nothing was written")
    return 0


def to_be_redone(config: Config, opened: OpenFolds) -> list[str]:
    """What going on would do again or to another length, where `run.dir` holds a run; refused as the run would be."""
    folder = Path(str(config.run.dir))
    if not holds_work(folder):
        return []
    summary = Summary(folder / "summary.json", recipe=config.recipe, classes=opened.corpus.classes)
    clips = same_clips(config, opened.corpus, list(opened.parts), summary)
    before = what_is_there(config, folder, summary)
    plans = plan_folds(config, before, clips=clips, sizes=opened.sizes)
    return [*notes_of(plans), *said_of(plans)]


def shortened(config: Config) -> Config:
    """The same run with two steps a stage and no audio cache, one fold, nothing measured along the way."""
    short = copy.deepcopy(config)
    short.data.cache = False
    short.data.num_workers = 0
    # Statistics of a large set take minutes; normalisation does not change what a step costs.
    short.data.mean, short.data.std = short.data.mean or 0.0, short.data.std or 1.0
    for stage in (short.pretrain, short.finetune):
        stage.steps = 2
        stage.log_every_steps = 1
    # Two steps end within any warm-up; `cost_line` looks at that of the whole run.
    for schedule in (short.schedule, short.finetune.schedule):
        if "warmup_epochs" in schedule:
            schedule["warmup_epochs"] = 0.0
    short.pretrain.watch_clips = min(8, short.pretrain.watch_clips)
    return short


def cost_line(config: Config, stage: str, result: dict[str, Any], *, num_clips: int, num_folds: int) -> str:
    """One line: steps, time and memory of a stage. Warns of a run that ends within its warm-up."""
    options = config.pretrain if stage == "pretrain" else config.finetune
    parts = config if stage == "pretrain" else config.finetune
    num_clips = clips_per_epoch(config.source, num_clips) if stage == "pretrain" else num_clips
    per_epoch = num_clips // options.batch_size
    steps = total_steps(options.steps, options.epochs, per_epoch)
    lr, warmup = peak_lr(parts.optim, options.batch_size), parts.schedule.get("warmup_epochs", 0)
    Warmup(lr=lr, total_steps=steps, steps_per_epoch=per_epoch, warmup_epochs=warmup)
    seconds = steps * options.batch_size / result["samples_per_s"]
    whole = f" ({duration(num_folds * seconds)} in all)" if num_folds > 1 else ""
    return (
        f"{stage}: {steps} steps of batch {options.batch_size} on {num_clips} clips, {result['samples_per_s']:.1f} "
        f"clips/s, about {duration(seconds)} a fold{whole}, peak memory {size(result['peak_memory_bytes'])}"
    )
