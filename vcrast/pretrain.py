"""Pretraining: two views of a clip, one encoder, the whole batch's loss. Build the parts, then the loop."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import save_file

from vcrast.config.registry import ENGINES, OBJECTIVES, OPTIMS, SCHEDULES
from vcrast.data.streams import Stream, open_stream
from vcrast.evaluation.embedding import embed_clips
from vcrast.evaluation.metrics import effective_rank, embedding_std
from vcrast.features.draws import Draws
from vcrast.inference import export
from vcrast.models.ast import Encoder
from vcrast.models.pretrained import load_encoder
from vcrast.runs.clock import Clock, overall_speed, peak_memory_bytes
from vcrast.runs.job import Job
from vcrast.runs.progress import Progress
from vcrast.runs.stage import Stage, num_parameters, total_steps
from vcrast.training.dist import broadcast_object, is_rank_zero, rank, world_size
from vcrast.training.exact import exact_backward

log = logging.getLogger(__name__)


def pretrain(job: Job) -> dict[str, Any]:
    """Train the encoder without labels, on the fold's training clips or another source; returns the stage's numbers."""
    config, options = job.config, job.config.pretrain
    stream = open_stream(job)
    if stream.same_for_all_folds and (done := pretrained_before(job)):
        return done
    objective = build_objective(job)
    per_epoch = stream.clips_per_epoch // options.batch_size
    num_steps = total_steps(options.steps, options.epochs, per_epoch)
    lr = peak_lr(config.optim, options.batch_size)
    optimizer = OPTIMS.build(drop(config.optim, "lr_per_batch"), module=objective, lr=lr)
    engine = ENGINES.build(
        config.engine, module=objective, optimizer=optimizer, precision=job.precision, device=job.device,
        clip_grad_norm=options.clip_grad_norm,
    )  # fmt: skip
    schedule = SCHEDULES.build(config.schedule, lr=lr, total_steps=num_steps, steps_per_epoch=per_epoch)
    stage = Stage(job, "pretrain", engine, schedule, num_steps=num_steps, steps_per_epoch=per_epoch)
    first = stage.begin()
    stage.plan(
        objective, batch_size=options.batch_size, micro_batch_size=options.micro_batch_size,
        clip_shape=stream.clip_shape,
    )  # fmt: skip
    log.info(
        "fold %s pretrain on %s: %d clips an epoch, %d steps of batch %d, %.1f M weights, %s",
        job.fold, config.source["name"], stream.clips_per_epoch, num_steps, options.batch_size,
        num_parameters(objective) / 1e6, job.precision,
    )  # fmt: skip
    watch = FeatureWatch(job, objective.encoder, engine, num_clips=options.watch_clips)
    watch_every = max(1, round(options.watch_every_epochs * per_epoch))
    if is_rank_zero():
        save_example_views(job, objective, stream)
    batches = stream.batches(first, num_steps, rank=rank(), world_size=world_size())
    clock = Clock()
    with Progress("pretrain", job.fold, num_steps, start_step=first, shown=is_rank_zero()) as progress:
        for step in range(first, num_steps):
            clock.begin_step()
            wavs = next(batches)
            clock.data_ready()
            draws = job.draws("pretrain", step, options.batch_size)
            outcome = exact_backward(
                engine, objective, wavs, None, draws, micro_batch_size=stage.micro_batch_size, kept=stage.kept
            )
            stepped = engine.step(lr=schedule.lr(step))
            schedule.observe(outcome.loss)
            stage.note(outcome)
            clock.step_done(options.batch_size)
            if (step + 1) % options.log_every_steps == 0 or step + 1 == num_steps:
                speed = clock.read(outcome.loss)
                values = {
                    "loss": outcome.loss,
                    **outcome.parts,
                    "grad_norm": stepped.grad_norm,
                    "lr": schedule.lr(step),
                }
                job.log.log("pretrain", job.fold, step + 1, {**values, **speed})
                progress.update(step + 1, loss=outcome.loss, parts=outcome.parts, samples_per_s=speed["samples_per_s"])
            if (step + 1) % watch_every == 0 or step + 1 == num_steps:
                watch.measure(step + 1)
            stage.end_of_step(step + 1)
    return finish(job, objective, stage, watch)


def pretrained_before(job: Job) -> dict[str, Any] | None:
    """The numbers of a fold that has pretrained in this run already, its weights taken over; None if there is none."""
    for fold in job.summary.content["folds"]:
        if fold != job.fold and job.summary.done(fold, "pretrain"):
            log.info("fold %s pretrain: nothing of it depends on the fold; taken from fold %s", job.fold, fold)
            if is_rank_zero():
                earlier = replace(job, fold=fold).exported("pretrained")
                shutil.copytree(earlier, job.exported("pretrained"), dirs_exist_ok=True)
            return {**job.summary.result(fold, "pretrain"), "wall_s": 0.0}
    return None


def build_objective(job: Job) -> Any:
    """The objective with its encoder, weights from `model.checkpoint` if one is named."""
    config = job.config
    encoder = job.encoder(patch_stride=config.pretrain.patch_stride, drop_path=config.model.drop_path)
    if config.model.checkpoint:
        load_encoder(encoder, config.model.checkpoint)
    torch.manual_seed(job.seed("projector"))
    return OBJECTIVES.build(config.objective, encoder=encoder, views=job.views(config.views)).to(job.device)


def peak_lr(optim: dict[str, Any], batch_size: int) -> float:
    """Rate after warm-up: `optim.lr`, or that scaled by batch_size / `optim.lr_per_batch` where the latter is set."""
    reference = optim.get("lr_per_batch")
    return float(optim["lr"]) * (batch_size / reference if reference else 1.0)


def drop(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """The options without those that the caller has used up."""
    return {key: value for key, value in options.items() if key not in names}


class FeatureWatch:
    """Embedding std and effective rank on fixed training clips: a collapsing encoder shows here first."""

    def __init__(self, job: Job, encoder: Encoder, engine: Any, *, num_clips: int) -> None:
        self.job, self.encoder, self.engine = job, encoder, engine
        self.num_clips = num_clips
        self.last: dict[str, float] = {}

    def measure(self, step: int) -> None:
        """Measure, log, and warn when the embeddings have collapsed."""
        with self.engine.gathered_weights():
            embeddings = embed_clips(self.job, self.encoder, self.job.train.first(self.num_clips)).embedding
        rank, std = float(effective_rank(embeddings)), float(embedding_std(embeddings))
        self.last = {"embedding_std": std, "effective_rank": rank}
        self.job.log.log("pretrain", self.job.fold, step, dict(self.last))
        # Ranks of healthy encoders are a fair share of min(n, D); below 3 % of it, or 2, all clips lie on a line.
        limit = max(2.0, 0.03 * min(embeddings.shape))
        if rank < limit or std < 1e-3:
            text = (
                f"fold {self.job.fold}, step {step}: embeddings collapse (effective rank {rank:.1f}, std {std:.2g}); "
                "raise objective.variance_weight, lower optim.lr, or weaken the views"
            )
            log.warning(text)
            self.job.summary.warn(text)


@torch.no_grad()
def save_example_views(job: Job, objective: Any, stream: Stream, num_clips: int = 4) -> None:
    """Keep a few spectrograms, of pairs the first sound's, and their two views for the report."""
    wavs = stream.example(num_clips)
    views = objective.views.two(wavs, Draws(job.seed("pretrain"), 0, len(wavs), device=job.device))
    folder = job.run_dir / "views"
    folder.mkdir(exist_ok=True)
    tensors = {
        "original": job.fbank()(wavs if wavs.ndim == 2 else wavs[:, 0]),
        "view_a": views[0].contiguous(),
        "view_b": views[1].contiguous(),
    }
    save_file({name: value.float().cpu() for name, value in tensors.items()}, folder / f"fold_{job.fold}.safetensors")


def finish(job: Job, objective: Any, stage: Stage, watch: FeatureWatch) -> dict[str, Any]:
    """Export the encoder and collect the stage's numbers."""
    if not watch.last:
        watch.measure(stage.num_steps)
    with stage.engine.gathered_weights():
        if is_rank_zero():
            export(job.exported("pretrained"), encoder=objective.encoder, head=None, **export_options(job))
    return broadcast_object(results(job, stage, watch) if is_rank_zero() else {})


def results(job: Job, stage: Stage, watch: FeatureWatch) -> dict[str, Any]:
    """The stage's numbers, from what was logged."""
    last = job.log.last("pretrain", job.fold)
    kept = ("loss", "invariance", "variance", "covariance", "floor", "above_floor")
    return {
        "steps": stage.num_steps,
        **{key: last[key] for key in kept if key in last},
        **watch.last,
        **overall_speed(job.log.lines("pretrain", job.fold)),
        "peak_memory_bytes": peak_memory_bytes(job.device),
        "wall_s": stage.wall_s,
    }


def export_options(job: Job) -> dict[str, Any]:
    """What `vcrast.load` needs to rebuild a model, besides the weights."""
    config = job.config
    return {
        "features": job.fbank_options(),
        "labels": job.classes,
        "multilabel": job.multilabel,
        "sample_rate": config.data.sample_rate,
        "clip_duration_s": config.data.clip_duration_s,
        "pad": config.data.pad,
        "meta": {"recipe": config.recipe, "fold": job.fold, "seed": config.run.seed},
    }
