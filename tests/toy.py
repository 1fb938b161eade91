"""Define a small masked autoencoder that needs all of the objective's contract.

A decoder with a loss per token, cluster masks of unequal size, an EMA teacher, three losses of which one is of the
batch and two are of single clips weighted by their masked tokens, views of two lengths.
"""

import torch
from torch import nn

from vcrast.config.metric import Metric
from vcrast.models.backbone import upcast
from vcrast.objectives.base import WEIGHT, Objective
from vcrast.objectives.ema import Teacher


class ToyMAE(Objective):
    """Reconstructs hidden patches, predicts a teacher's vector, and keeps the batch's vectors apart."""

    parts = {  # noqa: RUF012
        "reconstruction": Metric("Reconstruction"),
        "distillation": Metric("Distillation"),
        "spread": Metric("Spread of the batch"),
    }
    gathered = ("vector",)

    def __init__(self, *, encoder, views, task, momentum=0.9):
        super().__init__(encoder=encoder, views=views, task=task)
        encoder.enable_mask_token()
        self.teacher, self.momentum = Teacher(encoder), momentum
        dim = encoder.embed_dim
        self.decoder = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 32))
        self.norm = nn.BatchNorm1d(dim)
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))

    def prepare(self, batch, draws):
        fbank = self.views.make(batch.wav, draws, "a")
        short = self.views.make(batch.wav[:, : batch.wav.shape[1] * 2 // 3], draws, "b")
        mask = clusters(draws, self.encoder.grid(fbank.shape[-2]))
        total = clusters(draws.whole(), self.encoder.grid(fbank.shape[-2])).sum()
        return {
            "a": fbank, "b": short, "mask": mask, "target": self.encoder.patches(fbank),
            "noise": draws.uniform("a/drop_path", self.encoder.num_drop_path_draws),
            WEIGHT: mask.sum(dim=1).double() / total,
        }  # fmt: skip

    def represent(self, inputs):
        tokens = self.encoder(inputs["a"], mask=inputs["mask"], drop_path_noise=inputs["noise"])
        seen = self.encoder.pool(self.teacher(inputs["b"]))
        return {
            "predicted": upcast(self.decoder(tokens.values)), "vector": self.encoder.pool(tokens), "teacher": seen,
            "mask": inputs["mask"], "target": inputs["target"],
        }  # fmt: skip

    def clip_losses(self, outputs):
        mask = outputs["mask"].to(outputs["predicted"].dtype)
        errors = (outputs["predicted"] - outputs["target"]).square().mean(dim=2)
        reconstruction = (errors * mask).sum(dim=1) / mask.sum(dim=1)
        distillation = (outputs["vector"] - outputs["teacher"]).square().mean(dim=1)
        return {
            "loss": reconstruction + 0.5 * distillation, "reconstruction": reconstruction, "distillation": distillation,
        }  # fmt: skip

    def batch_losses(self, outputs):
        spread = (1 - self.norm(outputs["vector"]).std(dim=0) * outputs["vector"].std(dim=0)).square().mean()
        return {"loss": 0.3 * spread, "spread": spread}

    def after_step(self, progress, skipped):
        self.teacher.follow(self.encoder, 1 - (1 - self.momentum) * progress, skipped)
        self.steps += (~skipped).to(self.steps)


def clusters(draws, grid):
    """(b, N) bool: a rectangle of 1 to 3 by 1 to 2 patches a clip, so that clips hide unequal numbers of tokens."""
    time, frequency = grid
    height = 1 + draws.integers("cluster/height", min(3, time))
    width = 1 + draws.integers("cluster/width", min(2, frequency))
    top = (draws.uniform("cluster/top") * (time - height + 1)).long()
    left = (draws.uniform("cluster/left") * (frequency - width + 1)).long()
    rows, columns = torch.arange(time), torch.arange(frequency)
    inside_time = (rows >= top[:, None]) & (rows < (top + height)[:, None])
    inside_frequency = (columns >= left[:, None]) & (columns < (left + width)[:, None])
    return (inside_time[:, :, None] & inside_frequency[:, None, :]).flatten(1)
