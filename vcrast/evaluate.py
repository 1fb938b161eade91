"""Evaluation: run what `evaluation=[...]` names, on frozen features or predictions."""

from __future__ import annotations

import logging
import time
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vcrast.config.metric import Metric
from vcrast.evaluation.base import Evaluation, Features, Predictions, build_evaluations
from vcrast.finetune import build_classifier, scores
from vcrast.models.backbone import Backbone
from vcrast.models.export import load_head
from vcrast.models.pretrained import load_encoder
from vcrast.runs.job import Job
from vcrast.training.dist import is_rank_zero

log = logging.getLogger(__name__)

Kept = dict[str, Tensor]
"""What the report reads of a fold: scores, embeddings, labels and indices of the test clips."""
NUMBERS = {
    "num_test_clips": Metric("Test clips", "count"),
    "long_clips": Metric("Clips longer than the model's"),
    "wall_s": Metric("Wall time", "duration", "lower"),
}


def evaluate(job: Job) -> dict[str, Any]:
    """Measure the fold's models on its test clips; keeps scores and embeddings for the report."""
    started = time.perf_counter()
    evaluations = build_evaluations(job.config.evaluation)
    described = {name: metric for each in evaluations.values() for name, metric in each.described().items()}
    job.summary.describe("evaluate", {**described, **NUMBERS})
    chosen, kept = list(evaluations.values()), Kept()
    encoder = job.backbone(patch_stride=job.config.pretrain.patch_stride)
    untrained = on_features(job, encoder, [each for each in chosen if each.baseline], Kept())
    origin = job.load_pretrained(encoder)
    log.info("fold %s evaluate: frozen features from %s", job.fold, origin)
    result = {
        **on_predictions(job, chosen, kept),
        **on_features(job, encoder, chosen, kept),
        **{f"untrained_{name}": value for name, value in untrained.items()},
        "num_test_clips": len(job.test),
        "long_clips": protocol(job),
    }
    if is_rank_zero():
        folder = job.run_dir / "evaluation"
        folder.mkdir(exist_ok=True)
        save_file({name: value.contiguous() for name, value in kept.items()}, folder / f"fold_{job.fold}.safetensors")
    return {**result, "wall_s": time.perf_counter() - started}


def protocol(job: Job) -> str:
    """How a clip longer than the model's is judged, in words."""
    seconds = f"{job.config.data.clip_duration_s:g} s"
    return f"windows of {seconds}, averaged" if job.config.evaluate.windows == "all" else f"middle {seconds}"


def on_features(job: Job, encoder: Backbone, evaluations: list[Evaluation], kept: Kept) -> dict[str, float]:
    """Numbers of those that need frozen features; the test clips' embeddings are added to `kept`."""
    found: dict[str, float] = {}
    embed = job.embedder()
    asking = [each for each in evaluations if each.needs is Features]
    for all_layers in sorted({False, *(each.all_layers for each in asking)}):
        train, test = (embed(encoder, clips, all_layers=all_layers) for clips in (job.train, job.test))
        for each in asking:
            if each.all_layers == all_layers:
                found |= each.measure(Features(train, test, job.multilabel))
        if not all_layers:
            kept |= {"embeddings": test.embedding, "labels": test.label, "index": test.index}
    return found


def on_predictions(job: Job, evaluations: list[Evaluation], kept: Kept) -> dict[str, float]:
    """Numbers of those that need the finetuned model, none if the run has not finetuned; adds `scores` to `kept`."""
    asking = [each for each in evaluations if each.needs is Predictions]
    if not job.summary.done(job.fold, "finetune"):
        return {}
    objective, _ = build_classifier(job)
    load_encoder(objective.encoder, job.exported("finetuned") / "weights.safetensors")
    load_head(objective.head, job.exported("finetuned"))
    score, label, _ = scores(job, objective, job.test)
    kept["scores"] = score
    found: dict[str, float] = {}
    for each in asking:
        found |= each.measure(Predictions(score, label, job.multilabel))
    return found
