"""Finetuning: the pretrained encoder learns the labels, in the same loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vcrast.config.metric import Metric
from vcrast.config.registry import OBJECTIVES
from vcrast.config.schema import Config
from vcrast.data.corpus import Corpus
from vcrast.data.dataset import ClipDataset
from vcrast.data.loader import Batch, mean_by_clip, training_batches
from vcrast.data.sampling import check_sampling, class_clips, sampling_chances
from vcrast.evaluation.metrics import accuracy, mean_average_precision
from vcrast.models.export import export
from vcrast.models.kept_epochs import among
from vcrast.objectives.base import Task
from vcrast.objectives.class_weights import class_weights
from vcrast.objectives.supervised import Supervised
from vcrast.runs.epochs import check_epochs, epochs_to_keep, keep_epoch, tell_missed
from vcrast.runs.first_head import start_head
from vcrast.runs.job import Job
from vcrast.runs.parts import build_engine, build_schedule
from vcrast.runs.stage import Stage, Watch, num_parameters
from vcrast.runs.validation import Validation, check_validation, measure, metric_of
from vcrast.train import train
from vcrast.training.average import check_decay, copy_weights
from vcrast.training.dist import broadcast_object, gather_rows, is_rank_zero, rank, rank_slice, world_size

log = logging.getLogger(__name__)

NUMBERS = {
    "accuracy": Metric("Accuracy, last epoch", "percent", "higher"),
    "mAP": Metric("mAP, last epoch", "fixed", "higher"),
    "best_epoch": Metric("Best epoch on the test clips", "count"),
    "best_epoch_accuracy": Metric("Accuracy, best epoch (optimistic)", "percent", "higher"),
}


def finetune(job: Job) -> dict[str, Any]:
    """Train encoder and classifier on the labelled training clips of the fold; returns the stage's numbers."""
    options = job.config.finetune
    objective, origin = build_classifier(job)
    learnt, held, validation = learnt_from(job), job.held_out, None
    if held is not None:
        validation = Validation(metric_of(options, multilabel=job.multilabel), options.validation.patience)
    per_epoch = len(job.train) // options.batch_size
    schedule = build_schedule(options.schedule, options.optim, options, per_epoch)
    start_head(job, objective, learnt, partial(batches_of, job, 0))
    engine = build_engine(job, objective, options.optim, options)

    def test_now(done: int) -> None:
        found = {f"test_{name}": value for name, value in test(job, objective).items()}
        job.log.log("finetune", job.fold, done, {"epoch": done / per_epoch, **found})

    def validate_now(done: int) -> None:
        assert validation is not None
        assert held is not None
        score, label, _ = scores(job, objective, held)
        value = measure(score, label, metric=validation.metric, multilabel=job.multilabel)
        job.log.log("finetune", job.fold, done, {"val_epoch": done / per_epoch, f"val_{validation.metric}": value})
        validation.note(done, value, lambda: copy_weights(objective))

    def keep_now(done: int) -> None:
        epoch, inside = divmod(done, per_epoch)
        if not inside and among(epoch, kept) and is_rank_zero():
            keep_epoch(job, objective, epoch)

    kept = epochs_to_keep(options)
    every_steps = max(1, round(options.evaluate_every_epochs * per_epoch))
    stage = Stage(
        job, "finetune", options, objective=objective, engine=engine, schedule=schedule, steps_per_epoch=per_epoch,
        watches=[
            *([Watch(every_steps, test_now)] if len(job.test) else []),
            *([Watch(every_steps, validate_now)] if validation is not None else []),
            *([Watch(per_epoch, keep_now)] if kept else []),
        ],
        numbers=NUMBERS if validation is None else numbers_of(validation), ema_decay=options.ema_decay,
        validation=validation,
    )  # fmt: skip
    stage.begin((job.num_samples,))
    if late := [epoch for epoch in range(1, stage.first // per_epoch + 1) if among(epoch, kept)]:
        tell_missed(job, late)
    log.info(
        "fold %s finetune from %s: %d clips%s, %d steps of batch %d, %s weights%s", job.fold, origin, len(learnt),
        "" if held is None else f" ({len(held)} held out for validation)", stage.num_steps, options.batch_size,
        f"{num_parameters(objective):,}", " (the encoder is frozen)" if objective.frozen else "",
    )  # fmt: skip
    train(stage, batches_of(job, stage.first, stage.num_steps))
    return finish(job, stage, objective)


def learnt_from(job: Job) -> ClipDataset:
    """The clips that finetuning learns from."""
    return job.train if job.learnt is None else job.learnt


def batches_of(job: Job, first: int, num_steps: int) -> Iterator[Batch]:
    """This process's batches of the steps first, ..., num_steps - 1."""
    options, learnt = job.config.finetune, learnt_from(job)
    return training_batches(
        learnt, batch_size=options.batch_size, seed=job.seed("finetune"), start_step=first, num_steps=num_steps,
        num_workers=job.config.data.num_workers, device=job.device, rank=rank(), world_size=world_size(),
        chances=sampling_chances(learnt.clips, options.sampling), patience=job.patience,
    )  # fmt: skip


def check_finetuning(config: Config, corpus: Corpus, folds: Sequence[str]) -> None:
    """Refuse options of finetuning that cannot work with this data, before hours are spent on pretraining.

    Raises:
        ValueError: names the setting.
    """
    if "finetune" not in config.stages:
        return
    options = config.finetune
    check_sampling(options.sampling)
    check_decay("finetune.ema_decay", options.ema_decay)
    check_validation(options, corpus, folds)
    check_epochs(config, corpus, folds)
    weights = options.objective.get("class_weights")
    counts = class_clips(corpus.clips, len(corpus.classes))
    task = Task(len(counts), corpus.multilabel, 0, 0, corpus.classes, counts, len(corpus.clips))
    class_weights(weights, task)


def build_classifier(job: Job) -> tuple[Supervised, str]:
    """The classifier and where its encoder's weights come from.

    Raises:
        ValueError: an objective that is no classifier.
    """
    options = job.config.finetune
    encoder = job.backbone(patch_stride=options.patch_stride, drop_path=options.drop_path)
    origin = job.load_pretrained(encoder)
    torch.manual_seed(job.seed("classifier"))
    objective = OBJECTIVES.build(options.objective, encoder=encoder, views=job.views(options.views), task=job.task())
    if not isinstance(objective, Supervised):
        name = options.objective["name"]
        raise ValueError(f"finetune.objective={name}: finetuning trains a classifier; choose supervised")
    if options.freeze_encoder:
        objective.freeze_encoder()
    return objective.to(job.device), origin


@torch.no_grad()
def scores(job: Job, objective: Supervised, clips: ClipDataset) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (n, C) in [0, 1], averaged over each clip's windows, labels (n, C) and indices (n,) of clips, on CPU.

    Each process scores a part of the clips; all get all.
    """
    fbank, encoder = job.fbank(), objective.encoder
    objective.eval()
    num_classes = len(job.classes)
    rows = [(torch.empty(0, num_classes), torch.empty(0, num_classes), torch.empty(0, dtype=torch.int64))]
    for batch in job.batches(clips, rank_slice(len(clips))):
        logits = objective.logits(encoder(fbank(batch.wav)))
        probabilities = logits.sigmoid() if job.multilabel else logits.softmax(dim=-1)
        rows.append((probabilities.cpu(), batch.label.cpu(), batch.index.cpu()))
    objective.train()
    score, label, row = (torch.cat(part) for part in zip(*rows, strict=True))
    score, index = mean_by_clip(score, row)
    label, _ = mean_by_clip(label, row)  # equal in all of them
    return gather_rows(score), gather_rows(label), gather_rows(index)


def test(job: Job, objective: Supervised) -> dict[str, float]:
    """Accuracy (mAP if a clip may have several labels) on the test clips of the fold; NaN where it is undefined."""
    score, label, _ = scores(job, objective, job.test)
    name = "mAP" if job.multilabel else "accuracy"
    try:
        found = mean_average_precision(score, label) if job.multilabel else accuracy(score, label.argmax(dim=1))
    except ValueError as error:  # NaN scores: training may recover, and what it has learnt is not thrown away
        log.warning("fold %s finetune: %s on the test clips is undefined: %s", job.fold, name, error)
        return {name: math.nan}
    return {name: float(found)}


def finish(job: Job, stage: Stage, objective: Supervised) -> dict[str, Any]:
    """Export the classifier and collect the stage's numbers, those of the last test or of the best weights among them.

    Validation looks at no test clip, so the accuracy of the weights that it has chosen is not optimistic.
    """
    chosen: dict[str, Any] = {}
    with stage.final_weights():
        if is_rank_zero():
            export(job.exported("finetuned"), encoder=objective.encoder, head=objective.head, **job.export_options())
        if stage.validation is not None:
            best = stage.validation
            chosen = {"val_" + best.metric: best.best, "best_step": best.best_step}
            chosen |= test(job, objective) if len(job.test) else {}
            early = f"; it got no better in {best.since} evaluations and ended early" if stage.over else ""
            log.info(
                "fold %s finetune: of %d steps the weights after step %d are best on the validation clips, %s %.3f%s",
                job.fold, stage.done, best.best_step, best.metric, math.nan if best.best is None else best.best, early,
            )  # fmt: skip
    return broadcast_object({**stage.results(), **tested(job), **chosen} if is_rank_zero() else {})


def numbers_of(validation: Validation) -> dict[str, Metric]:
    """How the numbers of a stage are shown whose weights are chosen by validation."""
    shown = {key: metric._replace(label=metric.label.replace("last epoch", "best on validation")) for key, metric in
             NUMBERS.items()}  # fmt: skip
    kind = "percent" if "accuracy" in validation.metric else "fixed"
    return {
        **shown,
        f"val_{validation.metric}": Metric(f"Best {validation.metric.replace('_', ' ')}, validation", kind, "higher"),
        "best_step": Metric("Step of the best weights", "count"),
    }


def tested(job: Job) -> dict[str, Any]:
    """The last test's number, and that of every test by its epoch; None where the test clips do not define it."""
    if not len(job.test):
        return {}
    lines = [line for line in job.log.lines("finetune", job.fold) if "epoch" in line]
    name = "mAP" if job.multilabel else "accuracy"
    by_epoch = [[line["epoch"], line[f"test_{name}"]] for line in lines]
    return {name: by_epoch[-1][1], "accuracy_by_epoch": by_epoch}
