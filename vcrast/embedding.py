"""Clips -> one embedding each: deterministic crops, no views, mean of the patch tokens, fp32."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vcrast.data.dataset import ClipDataset
from vcrast.job import Job
from vcrast.models.encoder import Encoder
from vcrast.training.dist import gather_rows, share_of


class Embedded(NamedTuple):
    """Embeddings (n, D), labels (n, C) and clip indices (n,), on CPU."""

    embedding: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody calls on it


@torch.no_grad()
def embed_clips(job: Job, encoder: Encoder, clips: ClipDataset) -> Embedded:
    """Embed every clip, each process a part of them; all get all.

    The encoder is left in the mode (training or not) it came in.
    """
    fbank, was_training = job.fbank(), encoder.training
    encoder.eval()
    # A process may have no clip; nothing has the shapes of something.
    rows = [(torch.empty(0, encoder.embed_dim), torch.empty(0, clips.num_classes), torch.empty(0, dtype=torch.int64))]
    rows += [
        (encoder(fbank(batch.wav)).float().mean(dim=1).cpu(), batch.label.cpu(), batch.index.cpu())
        for batch in job.batches(clips, share_of(len(clips)))
    ]
    encoder.train(was_training)
    return Embedded(*(gather_rows(torch.cat(part)) for part in zip(*rows, strict=True)))
