"""Pretraining: the source, the objective that `objective=...` names, the one loop."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import save

from vcrast.config.atomic import write_atomic
from vcrast.config.registry import OBJECTIVES
from vcrast.data.streams import Stream, open_stream
from vcrast.features.draws import Draws
from vcrast.models.export import UNFINISHED, export
from vcrast.objectives.base import Objective
from vcrast.runs.budget import seconds_a_step
from vcrast.runs.job import Job
from vcrast.runs.parts import build_engine, build_schedule
from vcrast.runs.stage import Stage, Watch, num_parameters, total_steps
from vcrast.runs.watch import CollapseWatch, build_watch
from vcrast.train import train
from vcrast.training.dist import broadcast_object, is_rank_zero, rank, world_size

log = logging.getLogger(__name__)


def pretrain(job: Job) -> dict[str, Any]:
    """Train the encoder on the fold's training clips or another source; returns the stage's numbers."""
    config, options = job.config, job.config.pretrain
    stream = open_stream(config.source, job.supply())
    if stream.same_for_all_folds and (done := pretrained_before(job)):
        return done
    objective = build_objective(job, stream)
    per_epoch = stream.clips_per_epoch // options.batch_size
    schedule = build_schedule(config.schedule, config.optim, options, per_epoch)
    engine = build_engine(job, objective, config.optim, options)
    watch = build_watch(job, objective, num_steps=total_steps(options.steps, options.epochs, per_epoch))
    stage = Stage(
        job, "pretrain", options, objective=objective, engine=engine, schedule=schedule, steps_per_epoch=per_epoch,
        watches=[Watch(max(1, round(options.watch_every_epochs * per_epoch)), watch.measure)], numbers=watch.numbers,
    )  # fmt: skip
    stage.begin(stream.clip_shape)
    log.info(
        "fold %s pretrain on %s: %d clips an epoch, %d steps of batch %d, %.1f M weights, %s", job.fold,
        config.source["name"], stream.clips_per_epoch, stage.num_steps, options.batch_size, num_parameters(objective) /
        1e6, job.precision,
    )  # fmt: skip
    if is_rank_zero():
        save_example_views(job, objective, stream)
    with stage.engine.gathered_weights():
        watch.begin(stage.first)
    train(stage, stream.batches(stage.first, stage.num_steps, rank=rank(), world_size=world_size()))
    return finish(job, stage, watch)


def time_of_a_step(job: Job) -> float:
    """Seconds that a step computes, measured on an objective that is thrown away."""
    stream = open_stream(job.config.source, job.supply())
    return seconds_a_step(job, build_objective(job, stream), stream.clip_shape)


def pretrained_before(job: Job) -> dict[str, Any] | None:
    """The numbers of a fold that has pretrained in this run already, its weights taken over; None if there is none."""
    for fold in job.summary.content["folds"]:
        if fold != job.fold and job.summary.done(fold, "pretrain") and job.summary.alike(fold, job.fold, "pretrain"):
            log.info("fold %s pretrain: nothing of it depends on the fold; taken from fold %s", job.fold, fold)
            if is_rank_zero():
                earlier = replace(job, fold=fold).exported("pretrained")
                job.exported("pretrained").mkdir(parents=True, exist_ok=True)
                for path in earlier.iterdir():
                    write_atomic(job.exported("pretrained") / path.name, path.read_bytes())
            return {**job.summary.result(fold, "pretrain"), "wall_s": 0.0}
    return None


def build_objective(job: Job, stream: Stream) -> Objective:
    """The objective with its encoder, weights from `model.checkpoint` if one is named.

    Raises:
        ValueError: an objective that needs labels, and a source without them.
    """
    config = job.config
    encoder = job.backbone(patch_stride=config.pretrain.patch_stride)
    job.load_checkpoint(encoder)
    torch.manual_seed(job.seed("projector"))
    objective: Objective = OBJECTIVES.build(
        config.objective, encoder=encoder, views=job.views(config.views), task=job.task()
    )
    if objective.needs_labels and not stream.labelled:
        source = config.source["name"]
        raise ValueError(
            f"objective={config.objective['name']}: needs labelled clips, which source={source} does not give; set "
            "source=clips, or another objective"
        )
    return objective.to(job.device)


@torch.no_grad()
def save_example_views(job: Job, objective: Objective, stream: Stream, num_clips: int = 4) -> None:
    """Keep a few spectrograms, of pairs the first sound's, and what the objective makes of them, for the report."""
    wavs = stream.example(num_clips)
    draws = Draws(job.seed("pretrain"), 0, len(wavs), device=job.device)
    original = job.fbank()(wavs if wavs.ndim == 2 else wavs[:, 0])
    tensors = {"original": original, **objective.examples(wavs, draws)}
    folder = job.run_dir / "views"
    folder.mkdir(exist_ok=True)
    contiguous = {name: value.float().cpu().contiguous() for name, value in tensors.items()}
    write_atomic(folder / f"fold_{job.fold}.safetensors", save(contiguous))


def finish(job: Job, stage: Stage, watch: CollapseWatch) -> dict[str, Any]:
    """Export the encoder and collect the stage's numbers."""
    with stage.engine.gathered_weights():
        if not watch.last:
            watch.measure(stage.num_steps)
        if is_rank_zero():
            shutil.rmtree(job.exported(UNFINISHED), ignore_errors=True)
            export(job.exported("pretrained"), encoder=stage.objective.encoder, head=None, **job.export_options())
    return broadcast_object({**stage.results(), **watch.results()} if is_rank_zero() else {})
