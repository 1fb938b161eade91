"""Cross-entropy of a classifier, the backbone's or a linear one, in either stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcrast.config.registry import OBJECTIVES
from vcrast.config.words import suggest
from vcrast.features.cutmix import CutMix
from vcrast.features.draws import Draws
from vcrast.features.mixup import check_mixup, mixup
from vcrast.models.backbone import Backbone, Tokens
from vcrast.models.classifier import classify
from vcrast.objectives.base import Batch, Clips, Losses, Objective, Task, encode_views, prepare_views
from vcrast.objectives.class_weights import class_weights as make_weights

VIEW = "a"
LOSSES = ("auto", "cross_entropy", "binary")


@OBJECTIVES.register("supervised")
class Supervised(Objective):
    """Cross-entropy of a classifier, or binary cross-entropies where a clip may have several labels.

    The classifier is the backbone's own (`Backbone.build_head`), or else a linear one on a clip's vector.

    Args:
        encoder: as in `Objective`.
        views: makes one view of each waveform.
        task: tells the number of classes, and whether a clip may have several labels, or none.
        loss: `cross_entropy` of one softmax; `binary`, the mean of a cross-entropy for each class, as AST trains Speech
            Commands; `auto` takes binary where a clip may have several labels.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        class_weights: None, `balanced`, or weights by the names of classes: see `vcrast.objectives.class_weights`.
        mixup_probability: of mixing a clip's waveform with another's, see `vcrast.features.mixup`.
        mixup_alpha: its weight ~ Beta(alpha, alpha).
        cutmix_probability: of taking a box of the filterbank from another clip's, see `vcrast.features.cutmix`.
        cutmix_alpha: the share that stays ~ Beta(alpha, alpha).
        mix_by: `clip`, each its own choice, weight and box, or `batch`, one for all.

    The loss of a batch is the plain mean over its clips of each clip's own loss, the weights of classes inside it: w l,
    not the sum(w l) / sum(w) of PyTorch's `F.cross_entropy(weight=...)`, which depends on what else is in a batch and
    could not be cut into micro-batches.

    Raises:
        ValueError: an option out of its range, or no classes.

    Source: Gong et al. 2022, arXiv:2110.09784, Sec. 3.3 (mean of patch tokens, LayerNorm, linear).
    """

    positive: Tensor | None
    negative: Tensor | None
    needs_labels: ClassVar[bool] = True
    note: ClassVar[str] = "It should fall and flatten. With mixup and label smoothing it does not reach 0."

    def __init__(
        self,
        *,
        encoder: Backbone,
        views: Any,
        task: Task,
        loss: str,
        label_smoothing: float,
        class_weights: str | dict[str, float] | None,
        mixup_probability: float,
        mixup_alpha: float,
        cutmix_probability: float,
        cutmix_alpha: float,
        mix_by: str,
    ) -> None:
        super().__init__(encoder=encoder, views=views, task=task)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: must lie in [0, 1)")
        if loss not in LOSSES:
            raise ValueError(f"loss={loss}: {suggest(loss, LOSSES)}")
        if loss == "cross_entropy" and task.multilabel:
            raise ValueError("loss=cross_entropy: clips of this dataset may have several labels; set loss=binary")
        if task.num_classes < 1:
            raise ValueError("the dataset names no classes; objective=supervised and finetuning need labels")
        self.label_smoothing = label_smoothing
        self.binary = loss == "binary" or (loss == "auto" and task.multilabel)
        self.mixup_options: dict[str, Any] = {"probability": mixup_probability, "alpha": mixup_alpha, "mix_by": mix_by}
        check_mixup(**self.mixup_options)
        self.cutmix = CutMix(
            probability=cutmix_probability, mixup_probability=mixup_probability, alpha=cutmix_alpha, mix_by=mix_by,
            num_frames=task.num_frames, num_mel_bins=task.num_mel_bins,
        )  # fmt: skip
        weights = make_weights(class_weights, replace(task, multilabel=self.binary))
        # Not saved: a run that goes on counts its training clips again.
        self.register_buffer("positive", None if weights is None else weights[0], persistent=False)
        self.register_buffer("negative", None if weights is None else weights[1], persistent=False)
        self.frozen = False
        own = encoder.build_head(task.num_classes)
        self.head = linear_head(encoder.readout_dim, task.num_classes) if own is None else own

    def freeze_encoder(self) -> None:
        """Train the classifier alone, from now on; before the optimiser is made.

        The encoder stays as it is, to the bit: its weights take no gradient, and it is in evaluation mode (no drop
        path, no running statistics) even while the objective trains.
        """
        self.frozen = True
        self.encoder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As usual; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def prepare(self, batch: Batch, draws: Draws) -> Clips:
        """Mix some clips, make one view of each: `a...` as in `prepare_views`, and `target` (b, C)."""
        wavs, labels = mixup(batch.wav, batch.label, draws, **self.mixup_options)
        inputs = prepare_views(self.encoder, self.views, wavs, draws, VIEW)
        inputs[VIEW] = self.cutmix.fbank(inputs[VIEW], draws)
        return {**inputs, "target": self.cutmix.labels(labels, draws)}

    def represent(self, inputs: Clips) -> Clips:
        """Classify some clips: `logits` (b, C), at least fp32, and their `target`."""
        # Without a gradient a frozen encoder keeps no activations, and its blocks run once.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens = encode_views(self.encoder, inputs, [VIEW])
        return {"logits": self.logits(tokens), "target": inputs["target"]}

    def logits(self, tokens: Tokens) -> Tensor:
        """(b, C) logits of clips that were encoded to these tokens, at least fp32."""
        return classify(self.encoder, self.head, tokens)

    def clip_losses(self, outputs: Clips) -> Losses:
        """(b,) cross-entropy, or the mean over the classes of binary ones, each label times its class's weight.

        Args:
            outputs: `logits` (b, C) and `target` (b, C) in [0, 1]: multi-hot, or mixed by mixup and cutmix; rows sum to
                1 unless a clip may have several labels.
        """
        logits = outputs["logits"]
        target = outputs["target"].to(logits.dtype)
        positive, negative = (
            None if weights is None else weights.to(logits.dtype) for weights in (self.positive, self.negative)
        )
        if not self.binary:
            smoothing = self.label_smoothing
            loss = F.cross_entropy(logits, target, weight=positive, label_smoothing=smoothing, reduction="none")
            return {"loss": loss}
        smooth = target * (1 - self.label_smoothing) + self.label_smoothing / self.task.num_classes
        ratio = None if positive is None or negative is None else positive / negative
        loss = F.binary_cross_entropy_with_logits(logits, smooth, weight=negative, pos_weight=ratio, reduction="none")
        return {"loss": loss.mean(dim=1)}


def linear_head(dim: int, num_classes: int) -> nn.Sequential:
    """(b, D) -> (b, C): a norm and a linear map, which begins near 0."""
    last = nn.Linear(dim, num_classes)
    nn.init.trunc_normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(dim), last)
