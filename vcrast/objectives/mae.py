"""AudioMAE: encode visible patches of a spectrogram, reconstruct the others."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from vcrast.config.registry import OBJECTIVES
from vcrast.models.backbone import Backbone, require, upcast
from vcrast.models.decoder import build_decoder
from vcrast.objectives.base import Clips, Losses, Task
from vcrast.objectives.mae_ast import decode
from vcrast.objectives.masked import Masked, pixel_error

EPS = 1e-6  # of the variance, as in the MAE authors' code: a patch of digital silence has none


@OBJECTIVES.register("mae")
class MAE(Masked):
    """The squared error of hidden patches, each by itself brought to mean 0 and variance 1.

    Args:
        encoder: that can drop tokens.
        views: as in `Objective`.
        task: as in `Objective`.
        masks: options of `vcrast.features.masks.Masks`.
        decoder: options of `vcrast.models.decoder.Decoder`; `window` is AudioMAE's local attention.
        norm_patches: whether each target is normalised; without it, loud patches matter most.

    Raises:
        ValueError: as `Masked`.

    Source: He et al. 2022, arXiv:2111.06377; Huang et al. 2022, arXiv:2207.06405. Both give a class token to encoder
        and decoder; here there is one only if the model has it (`model.class_tokens=1`), and the decoder sees patches
        alone. Positions are those of the patches' own times and frequencies; AudioMAE's code builds its grid the other
        way round than its tokens lie.
    """

    note: ClassVar[str] = (
        "Each hidden patch has variance 1, so a model that says the patch's mean has a loss of 1. It falls slowly and "
        "for long; a low loss alone says little of frozen features."
    )
    compiled: ClassVar[tuple[str, ...]] = ("encoder", "decoder")

    def __init__(
        self,
        *,
        encoder: Backbone,
        views: Any,
        task: Task,
        masks: dict[str, Any],
        decoder: dict[str, Any],
        norm_patches: bool,
    ) -> None:
        super().__init__(encoder=encoder, views=views, task=task, masks=masks)
        require(encoder, drop=True, by="objective=mae")
        self.norm_patches = norm_patches
        self.decoder = build_decoder(decoder, encoder)
        self.reconstruct = nn.Linear(self.decoder.embed_dim, self.num_pixels)

    def represent(self, inputs: Clips) -> Clips:
        """Reconstruct the hidden patches of some clips: `reconstructed` and `target`, (b, M, pixels), at least fp32."""
        decoded = decode(self.encoder, self.decoder, inputs, self.passes[0])
        target = upcast(self.targets(inputs, self.passes[0]))
        return {
            "reconstructed": upcast(self.reconstruct(decoded)),
            "target": normalised(target) if self.norm_patches else target,
        }

    def clip_losses(self, outputs: Clips) -> Losses:
        """(b,): the mean squared error over a clip's hidden patches."""
        return {"loss": pixel_error(outputs["reconstructed"], outputs["target"])}


def normalised(patches: Tensor) -> Tensor:
    """(..., pixels) -> the same with mean 0 and, but for EPS, variance 1 in each patch."""
    variance, mean = patches.var(dim=-1, keepdim=True), patches.mean(dim=-1, keepdim=True)
    return (patches - mean) / (variance + EPS).sqrt()
