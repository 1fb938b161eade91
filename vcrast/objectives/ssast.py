"""SSAST: replace most patches by a learned token, tell which was where and what it held."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vcrast.config.metric import Metric
from vcrast.config.registry import OBJECTIVES
from vcrast.models.backbone import Backbone, require, upcast
from vcrast.objectives.base import Clips, Losses, Task
from vcrast.objectives.masked import Masked, at, matching, pixel_error

PASSES = {"one": ("masked",), "two": ("match", "reconstruct")}
MATCHING_PARTS = {
    "infonce": Metric("InfoNCE of hidden patches", better="lower"),
    "matched": Metric("Hidden patches matched", "percent", "higher"),
    "reconstruction": Metric("Error of reconstructed patches", better="lower"),
}
MATCHING_NOTE = (
    "Guessing among M hidden patches has an InfoNCE of log M (5.99 for 400) and matches one in M. The error of "
    "reconstructed patches begins near 0.25, the variance of a normalised filterbank."
)


@OBJECTIVES.register("ssast")
class SSAST(Masked):
    """Joint discriminative and generative masked spectrogram patch modelling, on patches or frames.

    All tokens run through the encoder, hidden ones as its mask token. Of what comes out there, one head's output is
    matched with the clip's hidden patches (`matching`), another's is the patch itself.

    Args:
        encoder: with a mask token.
        views: as in `Objective`.
        task: as in `Objective`.
        masks: options of `vcrast.features.masks.Masks`.
        forwards: `one` mask and forward for both losses, at half the cost, or `two`, each with its own, as released.
        softmax_over: of the InfoNCE: `predictions`, as released, or `targets`, as Eq. 1 of the paper.
        infonce_weight: of the InfoNCE; 0 is the paper's generative-only ablation.
        reconstruction_weight: of the squared error, the paper's lambda; 0 is its discriminative-only ablation.

    Raises:
        ValueError: as `Masked`, or a negative weight.

    Source: Gong et al. 2022, arXiv:2110.09784. Ours: bf16 or fp16, heads on the hidden tokens only, the mean over
        patches and clips; class tokens only if the model has some (`model.class_tokens=2` as in the paper).
    """

    parts: ClassVar[dict[str, Metric]] = MATCHING_PARTS
    note: ClassVar[str] = MATCHING_NOTE
    least: ClassVar[int] = 2

    def __init__(
        self,
        *,
        encoder: Backbone,
        views: Any,
        task: Task,
        masks: dict[str, Any],
        forwards: Literal["one", "two"],
        softmax_over: Literal["predictions", "targets"],
        infonce_weight: float,
        reconstruction_weight: float,
    ) -> None:
        super().__init__(encoder=encoder, views=views, task=task, masks=masks)
        require(encoder, mask=True, by="objective=ssast")
        encoder.enable_mask_token()
        self.passes, self.softmax_over = PASSES[forwards], softmax_over
        self.weights = checked_weights(infonce_weight, reconstruction_weight)
        self.match, self.reconstruct = (two_layers(encoder.embed_dim, self.num_pixels) for _ in range(2))

    def represent(self, inputs: Clips) -> Clips:
        """Predict the hidden patches of some clips.

        Returns:
            `matched` and `reconstructed` predictions, and the patches of each under `NAME/target`: (b, M, pixels) each,
            at least fp32.
        """
        seen = [self.encode(inputs, name) for name in self.passes]
        targets = [self.targets(inputs, name) for name in self.passes]
        return {
            "matched": upcast(self.match(seen[0])), "matched/target": upcast(targets[0]),
            "reconstructed": upcast(self.reconstruct(seen[-1])), "reconstructed/target": upcast(targets[-1]),
        }  # fmt: skip

    def encode(self, inputs: Clips, name: str) -> Tensor:
        """(b, M, D): the encoder's output where patches are hidden in one pass."""
        fbank, hidden = inputs["fbank"], inputs[f"{name}/hidden"]
        mask = torch.zeros(
            len(fbank), self.encoder.num_tokens(fbank.shape[-2]), dtype=torch.bool, device=fbank.device
        )  # fmt: skip
        mask = mask.scatter_(1, hidden, True)
        tokens = self.encoder(fbank, mask=mask, drop_path_noise=inputs.get(f"{name}/noise"))
        return at(tokens.values, hidden)

    def clip_losses(self, outputs: Clips) -> Losses:
        """(b,) each: the weighted sum, and the unweighted InfoNCE, share of patches matched and squared error."""
        return matching_losses(outputs, self.weights, self.softmax_over)


def matching_losses(outputs: Clips, weights: tuple[float, float], softmax_over: str) -> Losses:
    """(b,) each, of the outputs that `SSAST.represent` describes; also MAE-AST's."""
    infonce, matched = matching(outputs["matched"], outputs["matched/target"], softmax_over=softmax_over)
    error = pixel_error(outputs["reconstructed"], outputs["reconstructed/target"])
    loss = weights[0] * infonce + weights[1] * error
    return {"loss": loss, "infonce": infonce, "matched": matched, "reconstruction": error}


def checked_weights(infonce: float, reconstruction: float) -> tuple[float, float]:
    """Both weights.

    Raises:
        ValueError: a negative one, or both 0.
    """
    for name, value in (("infonce", infonce), ("reconstruction", reconstruction)):
        if value < 0:
            raise ValueError(f"objective.{name}_weight={value}: must not be negative; 0 switches it off")
    if not infonce and not reconstruction:
        raise ValueError("objective.infonce_weight=0, objective.reconstruction_weight=0: nothing is learnt; raise one")
    return float(infonce), float(reconstruction)


def two_layers(dim: int, num_pixels: int) -> nn.Sequential:
    """D -> D -> pixels with a ReLU, initialised as PyTorch does."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, num_pixels))
