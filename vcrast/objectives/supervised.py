"""Classification with labels: what finetuning minimises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcrast.config.registry import OBJECTIVES
from vcrast.features.cutmix import CutMix
from vcrast.models.ast import Encoder
from vcrast.objectives.terms import upcast
from vcrast.objectives.vcr import Inputs, draw_inputs


@OBJECTIVES.register("supervised")
class Supervised(nn.Module):
    """A linear classifier on the mean of the tokens.

    Args:
        encoder: (B, T, F) -> (B, N, D).
        views: makes one view of each waveform.
        num_classes: C.
        multilabel: a clip may have several labels, or none: binary cross-entropy per class instead of softmax.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        cutmix: of the views, after everything else; `targets` gives the labels that go with it.

    Raises:
        ValueError: smoothing out of range, or no classes.

    Source: Gong et al. 2022, arXiv:2110.09784, Sec. 3.3 (mean of patch tokens, LayerNorm, linear).
    """

    couples_clips = False  # the loss is a mean over clips: micro-batches may be scored one by one

    def __init__(
        self,
        *,
        encoder: Encoder,
        views: Any,
        num_classes: int,
        multilabel: bool,
        label_smoothing: float = 0.0,
        cutmix: CutMix | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: must lie in [0, 1)")
        if num_classes < 1:
            raise ValueError("the dataset names no classes; finetuning needs labels")
        self.encoder, self.views, self.cutmix = encoder, views, cutmix
        self.num_classes, self.multilabel, self.label_smoothing = num_classes, multilabel, label_smoothing
        last = nn.Linear(encoder.embed_dim, num_classes)
        nn.init.trunc_normal_(last.weight, std=0.02)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.LayerNorm(encoder.embed_dim), last)
        self.masked = views.patch_drop_mode
        if self.masked == "mask" and views.patch_drop > 0:
            encoder.enable_mask_token()

    @torch.no_grad()
    def prepare(self, wavs: Tensor, draws: Any) -> Inputs:
        """(B, S) waveforms -> one view and its random numbers, for the whole batch at once."""
        fbank = self.views.make(wavs, draws, "a")
        if self.cutmix is not None:
            fbank = self.cutmix.fbank(fbank, draws)
        return draw_inputs(self.encoder, self.views, fbank.unsqueeze(0), draws, "a")

    def targets(self, labels: Tensor, draws: Any) -> Tensor:
        """(B, C) labels of clips -> (B, C) of the views that `prepare` makes of them with the same draws."""
        return labels if self.cutmix is None else self.cutmix.labels(labels, draws)

    def represent(self, inputs: Inputs, clips: slice) -> Tensor:
        """Some clips' vectors, (1, b, D), at least fp32; may run in micro-batches."""
        fbank, keep, chances = inputs.part(clips)
        return upcast(self.encoder(fbank, keep, self.masked, chances)).mean(dim=1).unsqueeze(0)

    def logits(self, vectors: Tensor) -> Tensor:
        """(..., D) vectors -> (..., C), at least fp32."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.head(upcast(vectors))

    def loss(self, vectors: Tensor, labels: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of clips.

        Args:
            vectors: (1, b, D).
            labels: (b, C) in [0, 1]: multi-hot, or mixed by mixup and cutmix; rows sum to 1 unless multilabel.

        Raises:
            ValueError: no labels.
        """
        if labels is None:
            raise ValueError("objective=supervised needs labelled clips")
        logits = self.logits(vectors[0])
        labels = labels.to(logits.dtype)
        if self.multilabel:
            smooth = labels * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
            loss = F.binary_cross_entropy_with_logits(logits, smooth)
        else:
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return loss, {"cross_entropy": loss.detach()}
