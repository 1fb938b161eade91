"""Clips -> one embedding each: deterministic crops, no views, mean of the patch tokens, fp32."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from vcrast.data.dataset import ClipDataset
from vcrast.models.ast import Encoder
from vcrast.runs.job import Job
from vcrast.training.dist import gather_rows, rank_slice


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
        for batch in job.batches(clips, rank_slice(len(clips)))
    ]
    encoder.train(was_training)
    return Embedded(*(gather_rows(torch.cat(part)) for part in zip(*rows, strict=True)))


def embed_for_all_folds(job: Job, encoder: Encoder, clips: ClipDataset) -> Embedded:
    """`embed_clips`, without computing again what another fold of the run has computed with the same encoder.

    Folds cut the same clips in other ways, and an untrained encoder, or one that pretrained without recordings, is the
    same in all of them. The last two encoders' embeddings are kept. Without other folds this is `embed_clips`.
    """
    if job.embedded is None:
        return embed_clips(job, encoder, clips)
    name = fingerprint(job, encoder)
    known = job.embedded.pop(name, {})
    job.embedded[name] = known  # the last one now
    while len(job.embedded) > 2:
        del job.embedded[next(iter(job.embedded))]
    segments = [clip.segment for clip in clips.clips]
    if any(segment not in known for segment in segments):
        fresh = embed_clips(job, encoder, clips)
        known.update(zip(segments, zip(fresh.embedding, fresh.label, strict=True), strict=True))
    embedding, label = (torch.stack(rows) for rows in zip(*(known[segment] for segment in segments), strict=True))
    return Embedded(embedding, label, torch.arange(len(segments)))


def fingerprint(job: Job, encoder: Encoder) -> str:
    """What an embedding depends on besides the clip: every weight, and the front end's settings."""
    digest = hashlib.sha256(repr(sorted(job.fbank_options().items())).encode())
    for name, value in encoder.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
