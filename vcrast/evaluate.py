"""Evaluation: run what `evaluation=[...]` names, on frozen features or predictions."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any, get_args

from safetensors.torch import save
from torch import Tensor

from vcrast.config.atomic import write_atomic
from vcrast.config.metric import Metric
from vcrast.evaluation.base import (
    NOTHING,
    RIGHT,
    Evaluation,
    Features,
    Measured,
    Predictions,
    ViewedFeatures,
    build_evaluations,
    measured,
    undefined_lines,
)
from vcrast.evaluation.embedding import ONE_WINDOW, Form
from vcrast.evaluation.predictions import write_predictions
from vcrast.finetune import build_classifier, scores
from vcrast.models.backbone import Backbone
from vcrast.models.export import export, load_head
from vcrast.models.pretrained import load_encoder
from vcrast.runs.job import Job
from vcrast.runs.viewed import embed_views
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
    """Measure the fold's models on its test clips; keeps scores, predictions and embeddings, and exports the probe."""
    started = time.perf_counter()
    evaluations = build_evaluations(job.config.evaluation)
    described = {name: metric for each in evaluations.values() for name, metric in each.described().items()}
    job.summary.describe("evaluate", {**described, **NUMBERS})
    chosen, kept = list(evaluations.values()), Kept()
    encoder = job.backbone(patch_stride=job.config.pretrain.patch_stride)
    untrained = on_features(job, encoder, [each for each in chosen if each.baseline], Kept())
    origin = job.load_pretrained(encoder)
    log.info("fold %s evaluate: frozen features from %s", job.fold, origin)
    if is_rank_zero():
        (job.run_dir / "evaluation").mkdir(exist_ok=True)
    found = on_predictions(job, chosen, kept).joined(on_features(job, encoder, chosen, kept))
    if origin != "scratch":
        export_heads(job, encoder, chosen)
    found = found.joined(untrained.of_untrained())
    for line in undefined_lines(found.undefined):
        log.warning("fold %s evaluate: %s", job.fold, line)
        job.summary.warn(f"fold {job.fold} evaluate: {line}")
    kept |= {f"{RIGHT}{name}": values for name, values in found.right.items()}
    if is_rank_zero():
        path = job.run_dir / "evaluation" / f"fold_{job.fold}.safetensors"
        write_atomic(path, save({name: value.contiguous() for name, value in kept.items()}))
    aside = {**found.by_class, **({"undefined": found.undefined} if found.undefined else {})}
    about = {"num_test_clips": len(kept["index"]), "long_clips": protocol(job)}
    return {**found.values, **aside, **about, "wall_s": time.perf_counter() - started}


def protocol(job: Job) -> str:
    """How a clip longer than the model's is judged, in words."""
    seconds = f"{job.config.data.clip_duration_s:g} s"
    return f"windows of {seconds}, averaged" if job.config.evaluate.windows == "all" else f"middle {seconds}"


def on_features(job: Job, encoder: Backbone, evaluations: list[Evaluation], kept: Kept) -> Measured:
    """Numbers of those that need frozen features; the test clips' embeddings are added to `kept`."""
    found = NOTHING
    asking = [each for each in evaluations if each.needs in (Features, ViewedFeatures)]
    for form in get_args(Form):
        chosen = [each for each in asking if each.form == form]
        if not chosen and form != "vectors":
            continue
        embed = job.embedder("centre" if form in ONE_WINDOW else None)
        train, test = (embed(encoder, clips, form=form) for clips in (job.train, job.test))
        given = Features(train, test, job.multilabel)
        viewed = ViewedFeatures(*given, partial(embed_views, job, encoder))
        for each in chosen:
            found = found.joined(measured(each, given if each.needs is Features else viewed, job.classes))
        if form == "vectors":
            kept |= {"embeddings": test.embedding, "labels": test.label, "index": test.index}
    return found


def on_predictions(job: Job, evaluations: list[Evaluation], kept: Kept) -> Measured:
    """Numbers of those that need the finetuned model, none if the run has not finetuned.

    Adds `scores` to `kept` and writes `evaluation/predictions_fold_<fold>.csv`.
    """
    asking = [each for each in evaluations if each.needs is Predictions]
    if not job.summary.done(job.fold, "finetune"):
        return NOTHING
    objective, _ = build_classifier(job)
    load_encoder(objective.encoder, job.exported("finetuned") / "weights.safetensors")
    load_head(objective.head, job.exported("finetuned"))
    score, label, index = scores(job, objective, job.test)
    kept["scores"] = score
    if is_rank_zero():
        clips = [job.test.clips[place] for place in index.tolist()]
        path = job.run_dir / "evaluation" / f"predictions_fold_{job.fold}.csv"
        write_predictions(path, clips, score, label, job.classes, multilabel=job.multilabel)
    found = NOTHING
    for each in asking:
        found = found.joined(measured(each, Predictions(score, label, job.multilabel), job.classes))
    return found


def export_heads(job: Job, encoder: Backbone, evaluations: list[Evaluation]) -> None:
    """Export the frozen encoder with each classifier that an evaluation has fitted on it; the first process does."""
    for each in evaluations:
        for stage, head in each.heads().items():
            if is_rank_zero():
                export(job.exported(stage), encoder=encoder, head=head, **job.export_options())
