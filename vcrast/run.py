"""Run a recipe: its stages and folds in one run folder, then summary and report."""

from __future__ import annotations

import logging
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vcrast.config.compose import to_dict
from vcrast.config.saved import save_config
from vcrast.config.schema import Config
from vcrast.data.clip import WHOLE, Corpus, select_folds
from vcrast.data.open import FoldData, open_corpus, open_data
from vcrast.data.streams import recordings_per_batch
from vcrast.evaluate import evaluate
from vcrast.evaluation.base import build_evaluations
from vcrast.evaluation.embedding import Known
from vcrast.features.draws import PARTNER_BLOCK
from vcrast.features.fbank import Fbank, build_fbank
from vcrast.features.views import check_views
from vcrast.finetune import check_finetuning, finetune
from vcrast.pretrain import pretrain
from vcrast.runs.environment import redact_arguments, write_environment
from vcrast.runs.interrupt import Interrupt
from vcrast.runs.job import Job
from vcrast.runs.lock import RunLock
from vcrast.runs.log import MetricLog
from vcrast.runs.messages import setup_logging
from vcrast.runs.report.page import write_report
from vcrast.runs.report.summary_table import print_summary
from vcrast.runs.stage import Interrupted
from vcrast.runs.summary import Summary
from vcrast.training.device import cpu_computes, resolve_device, resolve_precision
from vcrast.training.dist import (
    is_rank_zero,
    rank,
    rank_zero_first,
    world_size,
)

log = logging.getLogger(__name__)

STAGES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "pretrain": pretrain,
    "finetune": finetune,
    "evaluate": evaluate,
}


def run(config: Config, overrides: Sequence[str] = ()) -> Path:
    """Run all folds and stages that are not done yet; returns the run folder, which the first process writes."""
    folder = Path(str(config.run.dir))
    # Checked before the folder exists: a mistake in the command must not leave a run behind.
    corpus = open_corpus(config.data)
    folds = select_folds(corpus, config.data.folds) or [whole_corpus(config, corpus)]
    resolve_precision(config.precision, resolve_device(config.run.device))
    check_parts(config)
    check_finetuning(config, corpus)
    with ExitStack() as stack:
        if is_rank_zero():
            stack.enter_context(RunLock(folder))
        interrupt = stack.enter_context(Interrupt(also=["SIGUSR1", "SIGUSR2"]))
        setup_logging(folder, rank())
        if is_rank_zero():
            keep_settings(config, overrides, folder)
        log.info("run folder: %s", folder)
        log.info("process %d of %d on %s", rank(), world_size(), platform.node())
        summary = Summary(folder / "summary.json", recipe=config.recipe, classes=corpus.classes)
        metrics = MetricLog(folder, config.logger, config=to_dict(config), active=is_rank_zero())
        stack.callback(metrics.close)
        for job in jobs(config, corpus, folds, folder, metrics, summary, interrupt):
            run_stages(job)
        summary.write()
        if is_rank_zero():
            report = write_report(folder)
            print_summary(folder)
            print(f"report: {report}")
    return folder


def check_parts(config: Config) -> None:
    """Refuse wrong options of what later stages build, before hours are spent on the first one.

    Raises:
        KeyError: no such part.
        ValueError: names the setting.
    """
    check_views(config)
    build_evaluations(config.evaluation)


def run_stages(job: Job) -> None:
    """The stages of one fold that are not done yet, in order."""
    for stage in job.config.stages:
        if job.summary.done(job.fold, stage):
            log.info("fold %s %s: done already", job.fold, stage)
            continue
        job.summary.record(job.fold, stage, STAGES[stage](job))
        # Also what makes the others wait until the first process has written what the next stage reads.
        if asked := job.interrupt.agreed():
            raise Interrupted(asked, f"after {stage} of fold {job.fold}")


def jobs(
    config: Config,
    corpus: Corpus,
    folds: list[str],
    folder: Path,
    metrics: MetricLog,
    summary: Summary,
    interrupt: Interrupt,
) -> Iterator[Job]:
    """One `Job` per fold; a fold pretrains on its own training clips only, so no test clip is seen before the test."""
    device = resolve_device(config.run.device)
    precision = resolve_precision(config.precision, device)
    if device.type == "cpu" and not cpu_computes(precision):
        log.warning("precision=%s: this processor only emulates it, many times slower than fp32", precision)
    with rank_zero_first():
        data = open_data(config.data, corpus)
    for text in data.warnings:
        summary.warn(text)
    known: Known | None = {} if len(folds) > 1 else None
    for fold in folds:
        part = data.fold(fold, seed=config.run.seed)
        check_sizes(config, part, fold)
        with rank_zero_first():
            mean, std = data.statistics(part.train, raw_fbank(config), settings=config.features)
        yield Job(
            config=config, run_dir=folder, fold=fold, device=device, precision=precision, classes=corpus.classes,
            multilabel=corpus.multilabel, train=part.train, test=part.test, mean=mean, std=std, log=metrics,
            summary=summary, interrupt=interrupt, known=known,
        )  # fmt: skip


def whole_corpus(config: Config, corpus: Corpus) -> str:
    """The name of the only fold of data without labels or folds, which can pretrain and nothing else."""
    if config.stages != ["pretrain"]:
        raise ValueError(
            f"data={corpus.name}: has nothing to test on (no folds, or no labels); set stages=[pretrain], or give the "
            "clips a fold or a split"
        )
    return WHOLE


def raw_fbank(config: Config) -> Fbank:
    """The front end without normalisation, for statistics."""
    return build_fbank({**config.features, "name": "fbank"}, sample_rate=config.data.sample_rate)


def check_sizes(config: Config, part: FoldData, fold: str) -> None:
    """Refuse a batch that the training clips cannot fill, before hours are spent on the stage before it."""
    heard = recordings_per_batch(config.source, config.pretrain.batch_size)
    for stage, size in (("pretrain", heard), ("finetune", config.finetune.batch_size)):
        if stage in config.stages and size > len(part.train):
            raise ValueError(
                f"{stage}.batch_size={size}: fold {fold} has only {len(part.train)} training clips; "
                f"set {stage}.batch_size={len(part.train)} or lower"
            )
        if stage in config.stages and size % world_size():
            raise ValueError(
                f"{stage}.batch_size={size}: {world_size()} processes cannot share it evenly; use a multiple of that"
            )
        if stage in config.stages and size // world_size() % PARTNER_BLOCK and world_size() > 1:
            log.warning(
                "%s.batch_size=%d is an odd number of clips for each of %d processes: mixup and background noise find "
                "other partners than in one process", stage, size, world_size(),
            )  # fmt: skip


def keep_settings(config: Config, overrides: Sequence[str], folder: Path) -> None:
    """Write what the run was asked and what it runs on; a continued run adds its own command line."""
    save_config(config, folder / "config.yaml")
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    with (folder / "overrides.txt").open("a", encoding="utf-8") as file:
        command = shlex.join(redact_arguments(sys.argv))
        file.write(f"# {stamp}  {command}\n" + "".join(f"{word}\n" for word in redact_arguments(overrides)))
    write_environment(folder)
