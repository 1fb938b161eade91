"""Embed random views of training clips, as pretraining makes them, with a frozen encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from vcrast.features.draws import Draws
from vcrast.models.backbone import Backbone, require
from vcrast.objectives.base import prepare_views, represent_views
from vcrast.runs.job import Job
from vcrast.training.dist import gather_rows, rank_slice

PAIR = ("a", "b")


@torch.no_grad()
def embed_views(job: Job, encoder: Backbone, num_clips: int, num_pairs: int) -> Tensor:
    """(n, 2 num_pairs, D) vectors in fp32, on the CPU; see `vcrast.evaluation.base.ViewedFeatures`.

    All processes embed a part of the clips and get all. Of clips longer than the model's, the middle window is viewed.

    Raises:
        ValueError: the encoder cannot leave out the tokens that the views take away, or they are masked, for which a
            frozen encoder has no token.
    """
    clips, seed = job.train.sample(num_clips, job.seed("viewed clips")), job.seed("views")
    views, part = job.views(job.config.views), rank_slice(len(clips))
    if views.drops_by and views.patch_drop_mode == "mask":
        raise ValueError("views.patch_drop_mode=mask: a frozen encoder has no mask token, so the views cannot be seen")
    require(encoder, drop=bool(views.drops_by), by=views.drops_by)
    was_training = encoder.training
    encoder.eval()
    rows, start = [], part.start
    for batch in job.batches(clips, part, windows="centre"):
        stop = start + len(batch.wav)
        found = []
        for number in range(num_pairs):
            draws = Draws(seed, number, len(clips), device=job.device, start=start, stop=stop)
            pair = represent_views(encoder, prepare_views(encoder, views, batch.wav, draws, PAIR), PAIR)
            found += [pair[name].float().cpu() for name in PAIR]
        rows.append(torch.stack(found, dim=1))
        start = stop
    encoder.train(was_training)
    return gather_rows(torch.cat(rows) if rows else torch.empty(0))
