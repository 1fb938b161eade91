"""MAE-AST: encode visible patches, decode all, tell which hidden one was where."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from vcrast.config.metric import Metric
from vcrast.config.registry import OBJECTIVES
from vcrast.models.backbone import Backbone, require, upcast
from vcrast.models.decoder import Decoder, build_decoder
from vcrast.objectives.base import Clips, Losses, Task
from vcrast.objectives.masked import Masked
from vcrast.objectives.ssast import MATCHING_NOTE, MATCHING_PARTS, checked_weights, matching_losses


@OBJECTIVES.register("mae_ast")
class MAEAST(Masked):
    """SSAST's two losses, of a decoder's tokens; hidden patches never run through the encoder.

    Args:
        encoder: that can drop tokens.
        views: as in `Objective`.
        task: as in `Objective`.
        masks: options of `vcrast.features.masks.Masks`.
        decoder: options of `vcrast.models.decoder.Decoder`.
        softmax_over: of the InfoNCE: `targets`, as in the paper, or `predictions`.
        infonce_weight: of the InfoNCE.
        reconstruction_weight: of the squared error.

    Raises:
        ValueError: as `Masked`, or a negative weight.

    Source: Baade et al. 2022, arXiv:2203.16691. There blocks are post-norm and positions 1-D sinusoids, added before
        encoder and decoder; here both are this project's pre-norm blocks, positions are 2-D, and a linear layer leads
        into the decoder. Its batches are cropped to the shortest clip, ours have one length.
    """

    parts: ClassVar[dict[str, Metric]] = MATCHING_PARTS
    note: ClassVar[str] = MATCHING_NOTE
    compiled: ClassVar[tuple[str, ...]] = ("encoder", "decoder")
    least: ClassVar[int] = 2

    def __init__(
        self,
        *,
        encoder: Backbone,
        views: Any,
        task: Task,
        masks: dict[str, Any],
        decoder: dict[str, Any],
        softmax_over: Literal["predictions", "targets"],
        infonce_weight: float,
        reconstruction_weight: float,
    ) -> None:
        super().__init__(encoder=encoder, views=views, task=task, masks=masks)
        require(encoder, drop=True, by="objective=mae_ast")
        self.softmax_over = softmax_over
        self.weights = checked_weights(infonce_weight, reconstruction_weight)
        self.decoder = build_decoder(decoder, encoder)
        self.match, self.reconstruct = (nn.Linear(self.decoder.embed_dim, self.num_pixels) for _ in range(2))

    def represent(self, inputs: Clips) -> Clips:
        """Predict the hidden patches of some clips; as `SSAST.represent`."""
        decoded = decode(self.encoder, self.decoder, inputs, self.passes[0])
        target = upcast(self.targets(inputs, self.passes[0]))
        return {
            "matched": upcast(self.match(decoded)), "matched/target": target,
            "reconstructed": upcast(self.reconstruct(decoded)), "reconstructed/target": target,
        }  # fmt: skip

    def clip_losses(self, outputs: Clips) -> Losses:
        """(b,) each: the weighted sum, and the unweighted InfoNCE, share of patches matched and squared error."""
        return matching_losses(outputs, self.weights, self.softmax_over)


def decode(encoder: Backbone, decoder: Decoder, inputs: Clips, name: str) -> Tensor:
    """(b, M, width) at the hidden places of one pass, from the visible patches; also the masked autoencoder's."""
    visible = inputs[f"{name}/visible"]
    tokens = encoder(inputs["fbank"], keep=visible, drop_path_noise=inputs.get(f"{name}/noise"))
    return decoder(tokens.values, visible, inputs[f"{name}/hidden"], tokens.grid)
