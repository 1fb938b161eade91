"""Mixup of waveforms and their labels."""

from __future__ import annotations

import torch
from torch import Tensor

from vcrast.features.draws import Draws

MIX_BY = ("clip", "batch")
PARTNER = "mixup/partner"  # the name of the draw; cutmix takes the same partners


def mixup(
    wavs: Tensor, labels: Tensor, draws: Draws, *, probability: float, alpha: float, mix_by: str = "clip"
) -> tuple[Tensor, Tensor]:
    """Replace clips, each with `probability`, by weight * clip + (1 - weight) * partner, and labels likewise.

    Args:
        wavs: (B, S); their means are removed first, so that an offset is not mixed in.
        labels: (B, C) multi-hot or probabilities.
        draws: of these B clips; the names `mixup/...` are read.
        probability: in [0, 1]; 0 returns the inputs as they are.
        alpha: weight ~ Beta(alpha, alpha), above 0; the AST uses 10, which mixes in nearly equal parts.
        mix_by: `clip`, each has its own choice and weight, or `batch`, one for all.

    Raises:
        ValueError: an option out of its range, or a batch of another size than `draws`.

    Source: Zhang et al. 2018, arXiv:1710.09412; between-class weights on mean-free waveforms as Gong et al. 2021,
        arXiv:2104.01778. There the partner is any clip of the dataset, here one of the batch (see `Draws.partners`).
    """
    check_mixup(probability=probability, alpha=alpha, mix_by=mix_by)
    if not len(wavs) == len(labels) == draws.size:
        raise ValueError(f"{len(wavs)} clips, {len(labels)} labels and draws for {draws.size}: they must agree")
    if probability == 0:
        return wavs, labels
    source = numbers(draws, mix_by)
    weight = torch.where(which(source, 0.0, probability), source.beta("mixup/weight", alpha, alpha), 1.0).unsqueeze(1)
    partner = draws.partners(PARTNER)
    wavs = wavs - wavs.mean(dim=1, keepdim=True)
    return torch.lerp(wavs[partner], wavs, weight), torch.lerp(labels[partner], labels, weight)


def numbers(draws: Draws, mix_by: str) -> Draws:
    """Where choices are read: each clip's own numbers, or those of the batch's first clip for all."""
    return draws if mix_by == "clip" else draws.first()


def which(draws: Draws, low: float, high: float) -> Tensor:
    """(b,) bool: one uniform number a clip decides how it is mixed, so that ways with ranges of their own exclude."""
    chance = draws.uniform("mixup/chosen")
    return (chance >= low) & (chance < high)


def check_mixup(*, probability: float, alpha: float, mix_by: str) -> None:
    """Refuse options out of their range; errors as in `mixup`."""
    if not 0 <= probability <= 1:
        raise ValueError(f"mixup_probability={probability}: must lie in [0, 1]; 0 switches mixup off")
    if not alpha > 0:
        raise ValueError(f"mixup_alpha={alpha}: must be above 0; to switch mixup off set mixup_probability=0")
    if mix_by not in MIX_BY:
        raise ValueError(f"mix_by={mix_by}: choose from {', '.join(MIX_BY)}")
