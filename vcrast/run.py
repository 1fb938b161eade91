"""Run a recipe: its stages and folds in one run folder, then summary and report."""

from __future__ import annotations

import logging
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vcrast.config.compose import to_dict
from vcrast.config.resume import claim, holds_work, names_folder
from vcrast.config.saved import load_config, save_config
from vcrast.config.schema import Config
from vcrast.data.clips import Clips
from vcrast.data.corpus import Corpus
from vcrast.data.dataset import ClipDataset
from vcrast.data.fingerprint import fingerprint
from vcrast.data.folding import write_folds
from vcrast.data.open import FoldData, OpenData, open_corpus, open_data, resolve_stats
from vcrast.evaluate import evaluate
from vcrast.evaluation.embedding import Known
from vcrast.features.fbank import Fbank, build_fbank
from vcrast.finetune import check_finetuning, finetune
from vcrast.models.pretrained import check_checkpoint
from vcrast.pretrain import pretrain, time_of_a_step
from vcrast.runs.bad_step import find_bad_step
from vcrast.runs.budget import planned
from vcrast.runs.check import check_parts, check_sizes, fold_notes, folds_of
from vcrast.runs.checkpoint import latest_step
from vcrast.runs.environment import redact_arguments, write_environment
from vcrast.runs.front_end import front_end_notes
from vcrast.runs.interrupt import Interrupt, Interrupted
from vcrast.runs.job import Job
from vcrast.runs.lock import RunLock
from vcrast.runs.log import MetricLog
from vcrast.runs.messages import setup_logging
from vcrast.runs.report.page import write_report
from vcrast.runs.report.summary_table import print_summary
from vcrast.runs.resume import Before, FoldPlan, check_clips, clear, notes_of, plan_folds, said_of
from vcrast.runs.summary import Summary
from vcrast.runs.unfinished import recover
from vcrast.runs.validation import split_off
from vcrast.training.device import cpu_computes, resolve_device, resolve_precision
from vcrast.training.dist import (
    broadcast_object,
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
    corpus, folds = check(config)
    if overrides and not names_folder(overrides):
        folder = broadcast_object(claim(folder) if is_rank_zero() else folder)
        config.run.dir = str(folder)
    with ExitStack() as stack:
        if is_rank_zero():
            stack.enter_context(RunLock(folder))
        interrupt = stack.enter_context(Interrupt(also=["SIGUSR1", "SIGUSR2"]))
        setup_logging(folder, rank())
        log.info("run folder: %s", folder)
        log.info("process %d of %d on %s", rank(), world_size(), platform.node())
        summary = Summary(folder / "summary.json", recipe=config.recipe, classes=corpus.classes)
        metrics = MetricLog(folder, config.logger, config=to_dict(config), active=is_rank_zero())
        stack.callback(metrics.close)
        before, is_new = what_is_there(config, folder, summary), not holds_work(folder)
        if is_new and is_rank_zero():
            keep_settings(config, overrides, folder)
        with interrupt.at_once("while the data was prepared"):
            clips = same_clips(config, corpus, folds, summary)
            opened = open_folds(config, corpus, folds)
            asked = config
            config = with_length(config, opened, folder, metrics, summary, interrupt)
        plans = plan_folds(config, before, clips=clips, sizes=opened.sizes)
        if not is_new and is_rank_zero():  # not before: what is refused must not become the run's settings
            keep_settings(asked, overrides, folder)
        for text in [*opened.notes, *notes_of(plans)]:
            log.warning("%s", text)
            summary.warn(text)
        if opened.data.left_out:
            summary.warn(opened.data.left_out)
        if is_rank_zero() and not (corpus.listed or corpus.content):  # of millions, the dataset keeps lists
            write_folds(corpus, folder / "clips.csv")
        for text in said_of(plans):
            log.info("%s", text)
        clear(plans, before, metrics)
        for job in jobs(config, opened, folder, metrics, summary, interrupt):
            run_stages(job, plans[job.fold])
        summary.write()
        if is_rank_zero():
            report = write_report(folder)
            print_summary(folder)
            print(f"report: {report}")
    return folder


def check(config: Config) -> tuple[Corpus, list[str]]:
    """The data and the folds of a run, after all that can be known before a clip is decoded.

    Raises:
        KeyError: no such part.
        FileNotFoundError: the data is not where it should be.
        ValueError: names the setting, or the faults of the data.
    """
    resolve_precision(config.precision, resolve_device(config.run.device))
    corpus = open_corpus(config.data)
    folds = folds_of(config, corpus)
    check_parts(config, corpus)
    check_finetuning(config, corpus, folds)
    if not holds_work(Path(str(config.run.dir))):
        recover_source(config, folds)
        features = {**config.features, "sample_rate": config.data.sample_rate}
        for fold in folds:
            check_checkpoint(config.model, linear=config.linear, features=features, fold=fold, data=vars(config.data))
    if config.data.mean is not None or config.data.std is not None:
        resolve_stats(config.data, ())
    undecoded = OpenData(config.data, corpus, store=None)
    check_sizes(config, {fold: len(undecoded.fold(fold, seed=config.run.seed).train) for fold in folds})
    return corpus, folds


def recover_source(config: Config, folds: Sequence[str]) -> None:
    """Make models of the run that `model.checkpoint` names, where its pretraining has not come to its end."""
    source = config.model.get("checkpoint")
    if source is None:
        return
    with rank_zero_first():
        told = [text for fold in folds for text in recover(Path(str(source)).expanduser(), fold=fold)]
    for text in told if is_rank_zero() else ():
        log.warning("model.checkpoint=%s: %s", source, text)


def what_is_there(config: Config, folder: Path, summary: Summary) -> Before:
    """What a run folder holds before this process changes it."""
    saved = folder / "config.yaml"
    # The first process plans; others could read a file that it is writing.
    return Before(folder, load_config(saved) if is_rank_zero() and saved.is_file() else config, summary)


@dataclass(frozen=True)
class OpenFolds:
    """The data of a run, opened once, its part of each fold, and what is to be said of its front end."""

    corpus: Corpus
    data: OpenData
    parts: dict[str, FoldData]
    front_end: list[str]

    @property
    def sizes(self) -> dict[str, int]:
        """The number of training clips of each fold."""
        return {fold: len(part.train) for fold, part in self.parts.items()}

    def divided(self, part: FoldData, config: Config) -> tuple[ClipDataset, ClipDataset | None]:
        """What finetuning learns from, and what it holds out for validation, if anything."""
        if "finetune" not in config.stages or config.finetune.validation.clips is None:
            return part.train, None
        kept, held = split_off(part.train.clips, config.finetune, self.corpus, seed=config.run.seed)
        if isinstance(held, Clips):
            return part.train, self.data.dataset(held, seed=config.run.seed)
        return part.train.only(kept), part.train.only(held)

    @property
    def notes(self) -> list[str]:
        """What a reader of the results should know of the data and its classes."""
        return [*self.data.notes, *self.front_end, *fold_notes(self.corpus, list(self.parts))]


def open_folds(config: Config, corpus: Corpus, folds: Sequence[str]) -> OpenFolds:
    """Open the data, its cache built if need be; sizes are checked again, now without the clips that are left out."""
    with rank_zero_first():
        data = open_data(config.data, corpus)
    parts = {fold: data.fold(fold, seed=config.run.seed) for fold in folds}
    opened = OpenFolds(corpus, data, parts, front_end_notes(config))
    check_sizes(config, opened.sizes)
    return opened


def with_length(
    config: Config, opened: OpenFolds, folder: Path, metrics: MetricLog, summary: Summary, interrupt: Interrupt
) -> Config:
    """The settings with the steps of `pretrain.minutes`, which are measured when the run begins and then kept."""
    minutes = config.pretrain.minutes
    if minutes is None or "pretrain" not in config.stages:
        return config
    known = summary.planned("pretrain")
    if known is None or known["minutes"] != minutes:
        step_s = (
            known["step_s"]
            if known
            else time_of_a_step(next(jobs(config, opened, folder, metrics, summary, interrupt)))
        )
        known = planned(minutes, step_s)
        summary.plan("pretrain", known)
    return replace(config, pretrain=replace(config.pretrain, steps=known["steps"]))


def same_clips(config: Config, corpus: Corpus, folds: Sequence[str], summary: Summary) -> dict[str, dict[str, Any]]:
    """Fingerprint the clips of the folds asked for and of those begun; refuse others than those begun with.

    Before the data is opened: a cache of the wrong clips may take hours.

    Raises:
        ValueError: names the fold and what differs.
    """
    begun = [fold for fold in summary.content["inputs"] if fold in corpus.folds]
    clips = {fold: fingerprint(corpus, fold) for fold in dict.fromkeys([*folds, *begun])}
    check_clips(config, summary, clips)
    return clips


def run_stages(job: Job, plan: FoldPlan) -> None:
    """The stages of one fold that are not done yet, in order."""
    for stage in job.config.stages:
        if job.summary.done(job.fold, stage):
            log.info("fold %s %s: done already", job.fold, stage)
            continue
        job.summary.begin(job.fold, stage, plan.inputs[stage])
        try:
            result = STAGES[stage](job)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; {way_out(job, stage)}{way_in(job)}") from error
        job.summary.record(job.fold, stage, result)
        # Also what makes the others wait until the first process has written what the next stage reads.
        if asked := job.interrupt.agreed():
            raise Interrupted(asked, f"after {stage} of fold {job.fold}")


def way_out(job: Job, stage: str) -> str:
    """What to do with a stage that has diverged, in words."""
    latest = latest_step(job.checkpoints(stage))
    folder = shlex.quote(str(job.run_dir))
    if latest is None:
        return "no checkpoint was written before: start a new run with a lower rate"
    if stage == "pretrain":
        return (
            f"the checkpoint of step {latest} is good: a new run with model.checkpoint={folder} and a lower optim.lr "
            "starts from its weights"
        )
    return f'a new run with model.checkpoint={folder} "stages=[finetune,evaluate]" and a lower finetune.optim.lr'


def way_in(job: Job) -> str:
    """How to find the cause of a loss that is not finite, in words."""
    return (
        f"; `vcrast replay {shlex.quote(str(job.run_dir))}` says where it began" if find_bad_step(job.run_dir) else ""
    )


def jobs(
    config: Config, opened: OpenFolds, folder: Path, metrics: MetricLog, summary: Summary, interrupt: Interrupt
) -> Iterator[Job]:
    """One `Job` per fold; a fold pretrains on its own training clips only, so no test clip is seen before the test."""
    device, corpus = resolve_device(config.run.device), opened.corpus
    precision = resolve_precision(config.precision, device)
    if device.type == "cpu" and not cpu_computes(precision):
        log.warning("precision=%s: this processor only emulates it, many times slower than fp32", precision)
    known: Known | None = {} if len(opened.parts) > 1 else None
    for fold, part in opened.parts.items():
        with interrupt.at_once("while the data was prepared"), rank_zero_first():
            mean, std = opened.data.statistics(part.train, raw_fbank(config), settings=config.features)
        learnt, held_out = opened.divided(part, config)
        yield Job(
            config=config, run_dir=folder, fold=fold, device=device, precision=precision, classes=corpus.classes,
            multilabel=corpus.multilabel, train=part.train, test=part.test, mean=mean, std=std, log=metrics,
            summary=summary, interrupt=interrupt, known=known, learnt=learnt, held_out=held_out,
        )  # fmt: skip


def raw_fbank(config: Config) -> Fbank:
    """The front end without normalisation, for statistics."""
    return build_fbank({**config.features, "name": "fbank"}, sample_rate=config.data.sample_rate)


def keep_settings(config: Config, overrides: Sequence[str], folder: Path) -> None:
    """Write what the run was asked and what it runs on; a continued run adds its own command line."""
    save_config(config, folder / "config.yaml")
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    with (folder / "overrides.txt").open("a", encoding="utf-8") as file:
        command = shlex.join(redact_arguments(sys.argv))
        file.write(f"# {stamp}  {command}\n" + "".join(f"{word}\n" for word in redact_arguments(overrides)))
    write_environment(folder)
