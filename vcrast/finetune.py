"""Finetuning: the pretrained encoder learns the labels. The same shape as `pretrain.py`."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from vcrast.config.registry import ENGINES
from vcrast.data.dataset import ClipDataset
from vcrast.data.loader import training_batches
from vcrast.evaluation.metrics import accuracy, mean_average_precision
from vcrast.features.cutmix import CutMix
from vcrast.features.mixup import mixup
from vcrast.inference import export
from vcrast.models.ast import Encoder
from vcrast.models.pretrained import load_encoder
from vcrast.objectives.supervised import Supervised
from vcrast.pretrain import export_options
from vcrast.runs.clock import Clock, overall_speed, peak_memory_bytes
from vcrast.runs.job import Job
from vcrast.runs.progress import Progress
from vcrast.runs.stage import Stage, num_parameters, total_steps
from vcrast.training.dist import broadcast_object, gather_rows, is_rank_zero, rank, rank_slice, world_size
from vcrast.training.exact import exact_backward
from vcrast.training.optim import layer_decay_adamw
from vcrast.training.schedule import Cosine

log = logging.getLogger(__name__)


def finetune(job: Job) -> dict[str, Any]:
    """Train encoder and classifier on the labelled training clips of the fold; returns the stage's numbers."""
    config, options = job.config, job.config.finetune
    objective, origin = build_classifier(job)
    per_epoch = len(job.train) // options.batch_size
    num_steps = total_steps(options.steps, options.epochs, per_epoch)
    optimizer = layer_decay_adamw(
        objective, lr=options.lr, weight_decay=options.weight_decay, layer_decay=options.layer_decay
    )
    engine = ENGINES.build(
        config.engine, module=objective, optimizer=optimizer, precision=job.precision, device=job.device,
        clip_grad_norm=options.clip_grad_norm,
    )  # fmt: skip
    schedule = Cosine(
        lr=options.lr, total_steps=num_steps, steps_per_epoch=per_epoch, warmup_epochs=options.warmup_epochs,
        final_lr_ratio=1e-3,
    )  # fmt: skip
    stage = Stage(job, "finetune", engine, schedule, num_steps=num_steps, steps_per_epoch=per_epoch)
    first = stage.begin()
    stage.plan(objective, batch_size=options.batch_size, micro_batch_size=options.micro_batch_size)
    log.info(
        "fold %s finetune from %s: %d clips, %d steps of batch %d, %.1f M weights",
        job.fold, origin, len(job.train), num_steps, options.batch_size, num_parameters(objective) / 1e6,
    )  # fmt: skip
    test_every = max(1, round(options.evaluate_every_epochs * per_epoch))
    batches = training_batches(
        job.train, batch_size=options.batch_size, seed=job.seed("finetune"), start_step=first, num_steps=num_steps,
        num_workers=config.data.num_workers, device=job.device, rank=rank(), world_size=world_size(),
    )  # fmt: skip
    clock = Clock()
    with Progress("finetune", job.fold, num_steps, start_step=first, shown=is_rank_zero()) as progress:
        for step in range(first, num_steps):
            clock.begin_step()
            batch = next(batches)
            clock.data_ready()
            draws = job.draws("finetune", step, options.batch_size)
            wavs, labels = mixup(
                batch.wav, batch.label, draws, probability=options.mixup_probability, alpha=options.mixup_alpha,
                mix_by=options.mix_by,
            )  # fmt: skip
            labels = objective.targets(labels, draws)
            outcome = exact_backward(
                engine, objective, wavs, labels, draws, micro_batch_size=stage.micro_batch_size, kept=stage.kept
            )
            stepped = engine.step(lr=schedule.lr(step))
            stage.note(outcome)
            clock.step_done(options.batch_size)
            if (step + 1) % options.log_every_steps == 0 or step + 1 == num_steps:
                speed = clock.read(outcome.loss)
                values = {"loss": outcome.loss, "grad_norm": stepped.grad_norm, "lr": schedule.lr(step)}
                job.log.log("finetune", job.fold, step + 1, {**values, **speed})
                progress.update(step + 1, loss=outcome.loss, samples_per_s=speed["samples_per_s"])
            if (step + 1) % test_every == 0 or step + 1 == num_steps:
                with engine.gathered_weights():
                    found = test(job, objective)
                job.log.log("finetune", job.fold, step + 1, {"epoch": (step + 1) / per_epoch, **found})
            stage.end_of_step(step + 1)
    return finish(job, objective, stage)


def build_cutmix(job: Job) -> CutMix:
    """What `finetune.cutmix_...` asks for, at the size of the job's filterbanks."""
    options = job.config.finetune
    return CutMix(
        probability=options.cutmix_probability,
        mixup_probability=options.mixup_probability,
        alpha=options.cutmix_alpha,
        mix_by=options.mix_by,
        num_frames=job.fbank().num_frames(job.num_samples),
        num_mel_bins=job.config.features["num_mel_bins"],
    )


def build_classifier(job: Job) -> tuple[Supervised, str]:
    """The classifier and where its encoder's weights come from."""
    options = job.config.finetune
    encoder = job.encoder(patch_stride=options.patch_stride, drop_path=options.drop_path)
    origin = load_pretrained(job, encoder)
    torch.manual_seed(job.seed("classifier"))
    objective = Supervised(
        encoder=encoder,
        views=job.views(options.views),
        num_classes=len(job.classes),
        multilabel=job.multilabel,
        label_smoothing=options.label_smoothing,
        cutmix=build_cutmix(job),
    )
    return objective.to(job.device), origin


def load_pretrained(job: Job, encoder: Encoder) -> str:
    """Fill an encoder: from this run's pretraining, else from `model.checkpoint`, else leave it random; says which."""
    own = job.exported("pretrained") / "weights.safetensors"
    if job.summary.done(job.fold, "pretrain"):
        load_encoder(encoder, own)
        return "this run's pretraining"
    if job.config.model.checkpoint:
        load_encoder(encoder, job.config.model.checkpoint)
        return str(job.config.model.checkpoint)
    return "scratch"


@torch.no_grad()
def scores(job: Job, objective: Supervised, clips: ClipDataset) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (n, C) in [0, 1], labels (n, C) and indices (n,) of clips, on CPU; deterministic crops, no views.

    Each process scores a part of the clips; all get all.
    """
    fbank = job.fbank()
    objective.eval()
    num_classes = len(job.classes)
    kept = [(torch.empty(0, num_classes), torch.empty(0, num_classes), torch.empty(0, dtype=torch.int64))]
    for batch in job.batches(clips, rank_slice(len(clips))):
        logits = objective.logits(objective.encoder(fbank(batch.wav)).float().mean(dim=1))
        chances = logits.sigmoid() if job.multilabel else logits.softmax(dim=-1)
        kept.append((chances.cpu(), batch.label.cpu(), batch.index.cpu()))
    objective.train()
    score, label, index = (gather_rows(torch.cat(part)) for part in zip(*kept, strict=True))
    return score, label, index


def test(job: Job, objective: Supervised) -> dict[str, float]:
    """Accuracy (mAP if a clip may have several labels) on the test clips of the fold."""
    score, label, _ = scores(job, objective, job.test)
    if job.multilabel:
        return {"test_mAP": float(mean_average_precision(score, label))}
    return {"test_accuracy": float(accuracy(score, label.argmax(dim=1)))}


def finish(job: Job, objective: Supervised, stage: Stage) -> dict[str, Any]:
    """Export the classifier and collect the stage's numbers."""
    with stage.engine.gathered_weights():
        if is_rank_zero():
            export(job.exported("finetuned"), encoder=objective.encoder, head=objective.head, **export_options(job))
    return broadcast_object(results(job, stage) if is_rank_zero() else {})


def results(job: Job, stage: Stage) -> dict[str, Any]:
    """The stage's numbers, from what was logged."""
    lines = list(job.log.lines("finetune", job.fold))
    tested = [line for line in lines if "epoch" in line]
    metric = "test_mAP" if job.multilabel else "test_accuracy"
    return {
        "steps": stage.num_steps,
        "loss": next(line["loss"] for line in reversed(lines) if "loss" in line),
        **overall_speed(lines),
        metric.removeprefix("test_"): tested[-1][metric],
        "accuracy_by_epoch": [[line["epoch"], line[metric]] for line in tested],
        "peak_memory_bytes": peak_memory_bytes(job.device),
        "wall_s": stage.wall_s,
    }
