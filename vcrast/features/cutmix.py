"""Cutmix: replace a box of a filterbank by another clip's, mix labels by area."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vcrast.features.draws import Draws
from vcrast.features.mixup import MIX_BY, PARTNER, numbers, which


class Boxes(NamedTuple):
    """(b,) int64 each: frames from `first` up to `last`, bins from `low` up to `high`, the ends not included."""

    first: Tensor
    last: Tensor
    low: Tensor
    high: Tensor


class CutMix:
    """Chooses clips and boxes; what `mixup` has chosen in the same step is left alone.

    Args:
        probability: of a clip, in [0, 1]; 0 switches cutmix off.
        mixup_probability: `mixup`'s. A clip is mixed in one way at most, so both together must not exceed 1.
        alpha: the share that stays ~ Beta(alpha, alpha), above 0; 1 makes all sizes of the box equally likely.
        mix_by: `clip`, each has its own choice and box, or `batch`, one for all.
        num_frames: T of the filterbanks.
        num_mel_bins: F.

    Raises:
        ValueError: an option out of its range.

    Source: Yun et al. 2019, arXiv:1905.04899: a box of the filterbank's proportions around a uniformly random centre,
        cut at the edges. The labels follow the area that was cut, as in timm, not the one that was drawn. One mixing
        method a clip or batch, chosen at random, is timm's, too (`Mixup`, its `mode` and `switch_prob`).
    """

    def __init__(
        self,
        *,
        probability: float,
        mixup_probability: float,
        alpha: float,
        mix_by: str,
        num_frames: int,
        num_mel_bins: int,
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"cutmix_probability={probability}: must lie in [0, 1]; 0 switches cutmix off")
        if probability + mixup_probability > 1 + 1e-9:
            raise ValueError(
                f"cutmix_probability={probability}, mixup_probability={mixup_probability}: a clip is "
                "mixed in one way at most; lower one, so that together they do not exceed 1"
            )
        if not alpha > 0:
            raise ValueError(f"cutmix_alpha={alpha}: must be above 0; to switch cutmix off set cutmix_probability=0")
        if mix_by not in MIX_BY:
            raise ValueError(f"mix_by={mix_by}: choose from {', '.join(MIX_BY)}")
        self.probability, self.mixup_probability, self.alpha = probability, mixup_probability, alpha
        self.mix_by, self.num_frames, self.num_mel_bins = mix_by, num_frames, num_mel_bins

    def boxes(self, draws: Draws) -> Boxes:
        """The boxes of the clips of `draws`, empty where nothing is cut; the names `cutmix/...` are read."""
        source = numbers(draws, self.mix_by)
        chosen = which(source, self.mixup_probability, self.mixup_probability + self.probability)
        stays = torch.where(chosen, source.beta("cutmix/weight", self.alpha, self.alpha), 1.0)
        centre = source.integers("cutmix/frame", self.num_frames), source.integers("cutmix/bin", self.num_mel_bins)
        first, last = edges(stays, centre[0], self.num_frames)
        low, high = edges(stays, centre[1], self.num_mel_bins)
        return Boxes(*(edge.expand(draws.size) for edge in (first, last, low, high)))

    def labels(self, labels: Tensor, draws: Draws) -> Tensor:
        """(b, C) multi-hot or probabilities -> the clip's and its partner's, by the area of each."""
        if self.probability == 0:
            return labels
        box = self.boxes(draws)
        area = ((box.last - box.first) * (box.high - box.low)).to(labels.dtype)
        partner = labels[draws.partners(PARTNER)]
        return torch.lerp(labels, partner, (area / (self.num_frames * self.num_mel_bins)).unsqueeze(1))

    def fbank(self, fbank: Tensor, draws: Draws) -> Tensor:
        """(b, [C,] T, F) filterbanks -> the same with a box of the partner's; all channels of it.

        Raises:
            ValueError: filterbanks of another size than the boxes are drawn for.
        """
        if self.probability == 0:
            return fbank
        if fbank.shape[-2:] != (self.num_frames, self.num_mel_bins) or len(fbank) != draws.size:
            raise ValueError(
                f"{len(fbank)} filterbanks of {tuple(fbank.shape[-2:])}; cutmix draws boxes for {draws.size} of "
                f"{(self.num_frames, self.num_mel_bins)}"
            )
        box = self.boxes(draws)
        rows = within(box.first, box.last, self.num_frames).unsqueeze(2)
        inside = rows & within(box.low, box.high, self.num_mel_bins).unsqueeze(1)
        return torch.where(inside if fbank.ndim == 3 else inside.unsqueeze(1), fbank[draws.partners(PARTNER)], fbank)


def edges(stays: Tensor, centre: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Where a box begins and ends on one axis: floor(length sqrt(1 - stays)) wide around its centre, cut at both ends.

    Args:
        stays: (b,) share of the area outside the box, were it not cut.
        centre: (b,) int64 in [0, length).
        length: of the axis.
    """
    width = (length * (1 - stays).sqrt()).long()
    before = torch.div(width, 2, rounding_mode="floor")
    return (centre - before).clamp(0, length), (centre + width - before).clamp(0, length)


def within(first: Tensor, last: Tensor, length: int) -> Tensor:
    """(b,) edges -> (b, length) bool, true from the first up to, not including, the last."""
    position = torch.arange(length, device=first.device)
    return (position >= first.unsqueeze(1)) & (position < last.unsqueeze(1))
