"""Clips -> one embedding each: deterministic crops, no views, mean of the patch tokens, fp32."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vcrast.data.dataset import ClipDataset
from vcrast.job import Job
from vcrast.models.encoder import Encoder


class Embedded(NamedTuple):
    """Embeddings (n, D), labels (n, C) and clip indices (n,), on CPU."""

    embedding: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody calls on it


@torch.no_grad()
def embed_clips(job: Job, encoder: Encoder, clips: ClipDataset) -> Embedded:
    """Embed every clip; the encoder is left in the mode (training or not) it came in."""
    fbank, was_training = job.fbank(), encoder.training
    encoder.eval()
    rows = [
        (encoder(fbank(batch.wav)).float().mean(dim=1).cpu(), batch.label.cpu(), batch.index.cpu())
        for batch in job.batches(clips)
    ]
    encoder.train(was_training)
    embedding, label, index = (torch.cat(part) for part in zip(*rows, strict=True))
    return Embedded(embedding, label, index)
