"""Start the classifier from random weights or from a linear probe of the encoder."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vcrast.config.schema import FinetuneConfig
from vcrast.config.words import suggest
from vcrast.data.dataset import ClipDataset
from vcrast.data.loader import Batch
from vcrast.evaluation.linear_probe import fit_linear
from vcrast.evaluation.metrics import accuracy
from vcrast.objectives.base import encode_views
from vcrast.objectives.supervised import VIEW, Supervised
from vcrast.runs.checkpoint import find_latest
from vcrast.runs.job import Job
from vcrast.training.dist import broadcast_object, gather_rows, is_rank_zero
from vcrast.training.exact import clips_of, micro_batches

log = logging.getLogger(__name__)

HEADS = ("random", "linear_probe", "auto")
MOST_ITERATIONS = 1000  # of L-BFGS, which ends where nothing changes any more


def check_head(options: FinetuneConfig, objective: Supervised) -> None:
    """Refuse a start of the classifier that there is not.

    Raises:
        ValueError: names the setting.
    """
    if options.head not in HEADS:
        raise ValueError(f"finetune.head={options.head}: {suggest(options.head, HEADS)}")
    if not 0 <= options.head_weight_decay < math.inf:
        raise ValueError(f"finetune.head_weight_decay={options.head_weight_decay}: must be a number of 0 or more")
    if options.head_views < 0:
        raise ValueError(f"finetune.head_views={options.head_views}: must be 0 or more")
    if options.head == "linear_probe" and linear_layers(objective) is None:
        raise ValueError(
            "finetune.head=linear_probe: this model brings a classifier of its own, which a probe of clip vectors does "
            "not fit; set finetune.head=auto or random"
        )


def linear_layers(objective: Supervised) -> tuple[nn.Module, nn.Linear] | None:
    """The norm and the linear map of a classifier; None where the backbone brings another one."""
    head = objective.head
    if isinstance(head, nn.Sequential) and len(head) == 2 and isinstance(head[1], nn.Linear):
        return head[0], head[1]
    return None


@torch.no_grad()
def start_head(job: Job, objective: Supervised, clips: ClipDataset, batches: Callable[[int], Iterable[Batch]]) -> None:
    """Give the classifier the weights of a linear probe of the encoder, if `finetune.head` asks for it (LP-FT).

    A random classifier changes the encoder while it is still wrong. This one begins where the frozen features end: of
    the clips as finetuning will see them, for a probe of clean clips is too sure of itself under augmentation, and its
    large loss there changes the encoder as well. A finetuning that goes on from a checkpoint has its classifier there.

    Args:
        job: of the fold.
        objective: encoder with its weights, and classifier, on the device; no engine holds them yet.
        clips: with labels, those that finetuning learns from.
        batches: the first so many training batches of finetuning, this process's part.

    Source: Kumar et al. 2022, arXiv:2202.10054.
    """
    options, layers = job.config.finetune, linear_layers(objective)
    if options.head == "random" or layers is None:
        return
    if broadcast_object(is_rank_zero() and find_latest(job.checkpoints("finetune")) is not None):
        return
    norm, last = layers
    if options.head_views:
        per_epoch = max(1, len(clips) // options.batch_size)
        embedding, label = seen(job, objective, batches(options.head_views * per_epoch))
    else:
        embedding, label, _ = job.embedder()(objective.encoder, clips)  # each process a part, all get all
    fitted: Any = None
    if is_rank_zero():
        features = norm(embedding.to(last.weight)).double().cpu()
        decay = options.head_weight_decay
        probe = fit_linear(features, label, multilabel=job.multilabel, steps=MOST_ITERATIONS, weight_decay=decay)
        right = "" if job.multilabel else f", {accuracy(probe(features), label.argmax(dim=1)):.1%} of them rightly"
        what = "views of clips" if options.head_views else "clips"
        log.info("fold %s finetune: the classifier starts as a probe of %d %s%s", job.fold, len(label), what, right)
        fitted = probe.weight, probe.bias
    weight, bias = broadcast_object(fitted)
    last.weight.copy_(weight)
    last.bias.copy_(bias)


def seen(job: Job, objective: Supervised, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Read-outs (n, R) of training batches as finetuning makes its views of them, and targets (n, C), on the CPU.

    Random numbers are of (seed, number of the batch), so no cut of a batch over processes changes them; without drop
    path.
    """
    batch_size, encoder, rows = job.config.finetune.batch_size, objective.encoder, []
    objective.eval()
    for number, batch in enumerate(batches):
        inputs = objective.prepare(batch, job.draws("first head", number, batch_size))
        for clips in micro_batches(len(batch.wav), job.config.evaluate.batch_size):  # what fits without a gradient
            vectors = encoder.read_out(encode_views(encoder, clips_of(inputs, clips), [VIEW]))
            rows.append((vectors.cpu(), inputs["target"][clips].cpu()))
    objective.train()
    vectors, targets = (gather_rows(torch.cat(part)) for part in zip(*rows, strict=True))
    return vectors, targets
