"""EVALUATIONS: `attentive_probe`, learned attention over the frozen tokens, then a line."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcrast.config.registry import EVALUATIONS
from vcrast.evaluation.base import Evaluation, Features, probe_metrics, probe_values

CHUNK = 256


@EVALUATIONS.register("attentive_probe")
class AttentiveProbe(Evaluation):
    """Accuracy (mAP where clips have several labels) of a classifier that chooses which frozen tokens to look at.

    A mean over the tokens judges encoders of masked patches too low: what tells the class may lie in a few of them. Of
    clips longer than the model's, the middle window is read.

    Args:
        num_heads: H, places that a clip is looked at.
        epochs: passes over the training clips.
        batch_size: clips of a step.
        lr: peak rate of AdamW; it falls along a half cosine.
        weight_decay: of AdamW.
        seed: of the first weights and the order of the clips.

    Source: Chen et al. 2022, arXiv:2202.03026 (CAE), Sec. 4: one block of cross-attention with a learned query.
    """

    needs = Features
    form = "tokens"
    baseline = True
    metrics = probe_metrics("attentive", "attentive probe", short="attentive")

    def __init__(
        self, *, num_heads: int, epochs: int, batch_size: int, lr: float, weight_decay: float, seed: int
    ) -> None:
        for name, value in (("num_heads", num_heads), ("epochs", epochs), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"evaluation.attentive_probe.{name}={value}: must be 1 or more")
        if not lr > 0:
            raise ValueError(f"evaluation.attentive_probe.lr={lr}: must be above 0")
        if weight_decay < 0:
            raise ValueError(f"evaluation.attentive_probe.weight_decay={weight_decay}: must not be negative")
        self.num_heads, self.epochs, self.batch_size = num_heads, epochs, batch_size
        self.lr, self.weight_decay, self.seed = lr, weight_decay, seed

    def measure(self, given: Features) -> dict[str, float]:
        """See `Evaluation`."""
        train, test, multilabel = given
        probe = self.fit(train.embedding, train.label, multilabel=multilabel)
        with torch.no_grad():
            logits = torch.cat([probe(tokens.float()) for tokens in test.embedding.split(CHUNK)])
        if not logits.isfinite().all():
            raise ValueError("the attentive probe's scores are not finite; lower evaluation.attentive_probe.lr")
        self.score = logits
        return probe_values("attentive", logits, test.label, multilabel=multilabel)

    def fit(self, tokens: Tensor, label: Tensor, *, multilabel: bool) -> AttentiveClassifier:
        """Train the probe; the same weights for the same tokens.

        Args:
            tokens: (n, N, D) in any precision.
            label: (n, C) multi-hot.
            multilabel: a sigmoid for each class instead of one softmax.
        """
        generator = torch.Generator().manual_seed(self.seed)
        mean, std = token_statistics(tokens)
        probe = AttentiveClassifier(mean, std, num_heads=self.num_heads, num_classes=label.shape[1], draws=generator)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        per_epoch = -(-len(tokens) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * per_epoch)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for rows in torch.randperm(len(tokens), generator=generator).split(self.batch_size):
                    logits, target = probe(tokens[rows].float()), label[rows].float()
                    loss = (
                        F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=1).mean()
                        if multilabel
                        else F.cross_entropy(logits, target)
                    )
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        return probe.requires_grad_(False)


class AttentiveClassifier(nn.Module):
    """(B, N, D) tokens -> (B, C) logits: H learned queries attend to the tokens, whose values are then classified.

    Keys need no weights of their own: of a query and a key matrix only the product matters. The values' matrix is
    applied to the H attended means, which equals applying it to all tokens.

    Args:
        mean: (D,) of the training tokens, by which they are standardised.
        std: (D,) likewise.
        num_heads: H; D need not be a multiple of it.
        num_classes: C.
        draws: of the first weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Tensor, std: Tensor, *, num_heads: int, num_classes: int, draws: torch.Generator | None = None
    ) -> None:
        super().__init__()
        dim, width = len(mean), -(-len(mean) // num_heads)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=mean.dtype).normal_(std=0.02, generator=draws))

        self.query, self.value = drawn(num_heads, dim), drawn(num_heads, width, dim)
        self.norm = nn.LayerNorm(num_heads * width, dtype=mean.dtype)
        self.weight = drawn(num_classes, num_heads * width)
        self.bias = nn.Parameter(torch.zeros(num_classes, dtype=mean.dtype))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, C)."""
        # The mean adds the same to all scores of a head, and attention sums to 1: what is standardised are H vectors.
        attention = (tokens @ (self.query / self.std).T).softmax(dim=1)  # (B, N, H)
        attended = (attention.mT @ tokens - self.mean) / self.std
        values = torch.einsum("bhd,hkd->bhk", attended, self.value)
        return F.linear(self.norm(values.flatten(1)), self.weight, self.bias)


def token_statistics(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(n, N, D) -> mean and std (D,) of all tokens, fp32, in pieces: a copy of them in fp32 may not fit."""
    count = tokens.shape[0] * tokens.shape[1]
    mean = torch.stack([part.double().sum(dim=(0, 1)) for part in tokens.split(CHUNK)]).sum(dim=0) / count
    square = torch.stack([(part.double() - mean).square().sum(dim=(0, 1)) for part in tokens.split(CHUNK)]).sum(dim=0)
    return mean.float(), (square / count).sqrt().float().clamp_min(1e-6)
