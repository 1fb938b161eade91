"""Variance-Invariance-Covariance: two views of a clip, one encoder, an expander, no negatives.

Source: Bardes, Ponce, LeCun 2022, arXiv:2105.04906; the authors' code where the two differ (see `terms.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vcrast.config.registry import OBJECTIVES
from vcrast.models.ast import Encoder
from vcrast.models.projector import Projector
from vcrast.objectives.terms import (
    covariance_term,
    invariance_term,
    reachable_covariance_weight,
    std_of,
    upcast,
    variance_term,
    vcr_floor,
)


class Inputs(NamedTuple):
    """What the encoder is given, for all clips of this process; V views, stacked."""

    fbank: Tensor  # (V, B, T, F), or (V, B, C, T, F)
    keep: Tensor | None  # (V, B, Nkeep) tokens that stay
    chances: Tensor | None  # (V, B, num_chances) for drop path

    def part(self, clips: slice) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Some clips, views and clips in one axis: (V * b, ...) each."""
        fbank, keep, chances = (None if x is None else x[:, clips].flatten(0, 1) for x in self)
        assert fbank is not None
        return fbank, keep, chances


def draw_inputs(encoder: Encoder, views: Any, fbank: Tensor, draws: Any, names: str) -> Inputs:
    """Add to the views `names`, (V, B, [C,] T, F), the random numbers the encoder needs, by position in the batch."""
    num_tokens = encoder.num_tokens(fbank.shape[-2])
    keep = [views.keep(draws, name, num_tokens) for name in names]
    chances = None
    if encoder.num_chances and encoder.training:
        chances = torch.stack([draws.uniform(f"{name}/drop_path", encoder.num_chances) for name in names])
    return Inputs(fbank, None if keep[0] is None else torch.stack(keep), chances)


@OBJECTIVES.register("vcr")
class VCR(nn.Module):
    """The VCR loss of a batch.

    Args:
        encoder: (B, T, F) -> (B, N, D).
        views: makes two views of each waveform, and chooses the tokens that stay.
        invariance_weight: of the mean squared difference of the views.
        variance_weight: of the hinge that keeps every dimension's std at 1.
        covariance_weight: of the squared correlations of dimensions. `auto` lowers it, if need be, to where std 1
            stays reachable: a small batch in many dimensions cannot be uncorrelated, and at weight 1 the loss's own
            minimum has std 0.2 at 12 clips in 4096.
        projector_dims: widths of the expander; the last is P.

    Raises:
        ValueError: a covariance weight that is neither a number nor `auto`, or a negative weight.
    """

    couples_clips = True  # statistics of the batch: micro-batches must not be scored one by one

    def __init__(
        self,
        *,
        encoder: Encoder,
        views: Any,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float | str = 1.0,
        projector_dims: list[int],
    ) -> None:
        super().__init__()
        if isinstance(covariance_weight, str) and covariance_weight != "auto":
            raise ValueError(f"objective.covariance_weight={covariance_weight!r}: give a number, or auto")
        numbers = {"invariance": invariance_weight, "variance": variance_weight, "covariance": covariance_weight}
        for name, value in numbers.items():
            if not isinstance(value, str) and value < 0:
                raise ValueError(f"objective.{name}_weight={value}: must not be negative")
        self.encoder, self.views = encoder, views
        self.invariance_weight, self.variance_weight = float(invariance_weight), float(variance_weight)
        self.covariance_weight = covariance_weight
        self.projector = Projector(encoder.embed_dim, projector_dims)
        self.masked = views.patch_drop_mode
        if self.masked == "mask" and views.patch_drop > 0:
            encoder.enable_mask_token()

    @torch.no_grad()
    def prepare(self, wavs: Tensor, draws: Any) -> Inputs:
        """(B, S) waveforms, or (B, 2, S) pairs -> two views and their random numbers, for the whole batch at once."""
        return draw_inputs(self.encoder, self.views, self.views.two(wavs, draws), draws, "ab")

    def represent(self, inputs: Inputs, clips: slice) -> Tensor:
        """Some clips' vectors, (V, b, D), at least fp32; may run in micro-batches."""
        fbank, keep, chances = inputs.part(clips)
        tokens = self.encoder(fbank, keep, self.masked, chances)
        return upcast(tokens).mean(dim=1).unflatten(0, (len(inputs.fbank), -1))

    def loss(
        self,
        vectors: Tensor,
        labels: Tensor | None = None,  # noqa: ARG002 - every objective is handed them
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Score the whole batch, in fp32: in fp16 the covariance overflows.

        Args:
            vectors: (2, B, D) of all clips of the global batch.
            labels: ignored.

        Returns:
            The loss, and its parts: the unweighted terms, the mean `std` of the projections, the `floor` of this batch
            size and width, and how far the loss is `above_floor`.

        Raises:
            ValueError: fewer than two clips.
        """
        if vectors.shape[1] < 2:
            raise ValueError(
                f"a batch of {vectors.shape[1]} clip has no variance; set pretrain.batch_size to 2 or more"
            )
        with torch.autocast(vectors.device.type, enabled=False):
            # One view at a time: BatchNorm sees B clips, not 2 B, as in the authors' code.
            za, zb = (self.projector(view) for view in upcast(vectors))
            terms = {
                "invariance": invariance_term(za, zb),
                "variance": (variance_term(za) + variance_term(zb)) / 2,
                "covariance": covariance_term(za) + covariance_term(zb),
            }
            num_clips, dims = za.shape
            weights = self.weights(num_clips, dims)
            loss = sum((weights[name] * term for name, term in terms.items()), start=za.new_zeros(()))
            floor = loss.new_full((), vcr_floor(num_clips, dims, weights))
            std = (std_of(za.detach()).mean() + std_of(zb.detach()).mean()) / 2
        parts = {**terms, "std": std, "floor": floor, "above_floor": loss - floor}
        return loss, {name: part.detach() for name, part in parts.items()}

    def weights(self, num_clips: int, dims: int) -> dict[str, float]:
        """The terms' weights for this batch size and width."""
        covariance = self.covariance_weight
        if isinstance(covariance, str):
            covariance = reachable_covariance_weight(num_clips, dims, self.variance_weight)
        return {"invariance": self.invariance_weight, "variance": self.variance_weight, "covariance": covariance}
