"""Add channels to the log-mel energy: its differences in time, the frame's energy.

All are functions of the filterbank, so views need to change only that, and the data's mean and std stay those of the
log-mel energies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchaudio.functional import compute_deltas

NUM_CHANNELS = {"fbank": 1, "quaternion": 4}
# Differences of frames that are independent of each other are this much smaller than the frames: the root of the sum of
# squared weights, which are (-2, -1, 0, 1, 2) / 10 once and convolved with themselves.
FIRST_STD = math.sqrt(10) / 10
SECOND_STD = math.sqrt(198) / 100


def quaternion_channels(fbank: Tensor, scale: float) -> Tensor:
    """(B, T, F) normalised filterbanks -> (B, 4, T, F): themselves, first and second difference, energy.

    Differences are divided by what they would be for independent frames, so that they are not lost beside the energies;
    those of real sounds, whose frames resemble each other, stay smaller (ESC-10: std 0.50, 0.13, 0.12, 0.51).

    Args:
        fbank: (B, T, F), (log-mel - mean) / scale.
        scale: 2 std, or 1 if the filterbank is not normalised.

    Source: the grouping of mel energies with their derivatives is that of Parcollet et al. 2018, arXiv:1806.07789; the
    energy of the frame as fourth component, and the division, are ours.
    """
    first = differences(fbank)
    second = differences(first)
    loud = energy(fbank, scale).expand_as(fbank)
    return torch.stack([fbank, first / FIRST_STD, second / SECOND_STD, loud], dim=1)


def differences(fbank: Tensor) -> Tensor:
    """(B, T, F) -> (B, T, F): slope of the straight line through five frames, per frame; the ends are repeated."""
    with torch.autocast(fbank.device.type, enabled=False):  # torchaudio's is a convolution, which autocast would round
        return compute_deltas(fbank.transpose(1, 2)).transpose(1, 2)


def energy(fbank: Tensor, scale: float) -> Tensor:
    """(B, T, 1): log of a frame's mean mel energy, normalised by the mean and scale of the filterbank it comes from."""
    num_mel_bins = fbank.shape[2]
    return (torch.logsumexp(fbank * scale, dim=2, keepdim=True) - math.log(num_mel_bins)) / scale
