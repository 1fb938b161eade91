"""Evaluation: accuracy of the finetuned model, linear probe and nearest neighbours on the frozen encoder."""

from __future__ import annotations

import logging
import time
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vcrast.evaluation.embedding import Embedded, embed_for_all_folds
from vcrast.evaluation.metrics import accuracy, auc, d_prime, mean_average_precision
from vcrast.evaluation.probes import knn_predict, linear_probe
from vcrast.finetune import build_classifier, load_pretrained, scores
from vcrast.models.ast import Encoder
from vcrast.models.export import load_head
from vcrast.models.pretrained import load_encoder
from vcrast.runs.job import Job
from vcrast.training.dist import is_rank_zero

log = logging.getLogger(__name__)


def evaluate(job: Job) -> dict[str, Any]:
    """Measure the fold's models on its test clips; keeps scores and embeddings for the report."""
    started = time.perf_counter()
    encoder = job.encoder(patch_stride=job.config.pretrain.patch_stride)
    untrained, _ = probe(job, encoder, prefix="untrained_")
    origin = load_pretrained(job, encoder)
    log.info("fold %s evaluate: frozen features from %s", job.fold, origin)
    frozen, test = probe(job, encoder, prefix="")
    kept = {"embeddings": test.embedding, "labels": test.label, "index": test.index}
    result = {**finetuned(job, kept), **frozen, **untrained, "num_test_clips": len(job.test)}
    if is_rank_zero():
        folder = job.run_dir / "evaluation"
        folder.mkdir(exist_ok=True)
        save_file({name: value.contiguous() for name, value in kept.items()}, folder / f"fold_{job.fold}.safetensors")
    return {**result, "wall_s": time.perf_counter() - started}


def finetuned(job: Job, kept: dict[str, Tensor]) -> dict[str, float]:
    """Metrics of the finetuned classifier; none if the run has not finetuned. Adds its scores to `kept`."""
    if not job.summary.done(job.fold, "finetune"):
        return {}
    objective, _ = build_classifier(job)
    load_encoder(objective.encoder, job.exported("finetuned") / "weights.safetensors")
    load_head(objective.head, job.exported("finetuned"))
    score, label, _ = scores(job, objective, job.test)
    kept["scores"] = score
    return classification_metrics(score, label, multilabel=job.multilabel)


def classification_metrics(score: Tensor, label: Tensor, *, multilabel: bool) -> dict[str, float]:
    """Accuracy (single-label only), macro mAP, macro AUC and d-prime of scores (n, C) against labels (n, C)."""
    values = {
        "mAP": float(mean_average_precision(score, label)),
        "auc": float(auc(score, label)),
        "d_prime": float(d_prime(score, label)),
    }
    if not multilabel:
        values = {"accuracy": float(accuracy(score, label.argmax(dim=1))), **values}
    return values


def probe(job: Job, encoder: Encoder, *, prefix: str) -> tuple[dict[str, float], Embedded]:
    """Nearest neighbours and a linear probe on frozen embeddings; also the test clips' embeddings."""
    options = job.config.evaluate
    train, test = (embed_for_all_folds(job, encoder, clips) for clips in (job.train, job.test))
    votes = knn_predict(
        train.embedding, train.label, test.embedding, k=min(options.knn_k, len(job.train)),
        temperature=options.knn_temperature,
    )  # fmt: skip
    logits = linear_probe(
        train.embedding, train.label, test.embedding, multilabel=job.multilabel, steps=options.probe_steps,
        weight_decay=options.probe_weight_decay,
    )  # fmt: skip
    values: dict[str, float] = {}
    for name, score in (("knn", votes), ("probe", logits)):
        values |= frozen_metrics(f"{prefix}{name}", score, test.label, multilabel=job.multilabel)
    return values, test


def frozen_metrics(name: str, score: Tensor, label: Tensor, *, multilabel: bool) -> dict[str, float]:
    """Accuracy, or mAP when a clip may have several labels, under the probe's name."""
    if multilabel:
        return {f"{name}_mAP": float(mean_average_precision(score, label))}
    return {f"{name}_accuracy": float(accuracy(score, label.argmax(dim=1)))}
