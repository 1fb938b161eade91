import math

import pytest
import torch

from vcrast.features.draws import Draws
from vcrast.features.mixup import mixup


def batch(num_clips: int) -> tuple[torch.Tensor, torch.Tensor]:
    wavs = torch.randn(num_clips, 50, generator=torch.Generator().manual_seed(0))
    return wavs, torch.eye(num_clips)


def test_by_hand():
    wavs = torch.tensor([[1.0, -1.0], [5.0, 1.0]])  # without their means: +-1 and +-2
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    draws = Draws(0, 0, 2)
    mixed, targets = mixup(wavs, labels, draws, probability=1.0, alpha=10.0)
    a, b = draws.beta("mixup/weight", 10.0, 10.0).tolist()
    torch.testing.assert_close(mixed[:, 0], torch.tensor([a * 1 + (1 - a) * 2, b * 2 + (1 - b) * 1]))
    torch.testing.assert_close(mixed[:, 1], -mixed[:, 0])
    torch.testing.assert_close(targets, torch.tensor([[a, 1 - a], [1 - b, b]]))
    assert a != b


def test_probability_zero_returns_the_inputs():
    wavs, labels = batch(4)
    mixed, targets = mixup(wavs, labels, Draws(0, 0, 4), probability=0.0, alpha=10.0)
    assert mixed is wavs
    assert targets is labels


def test_the_wanted_share_is_mixed_and_labels_follow():
    num_clips = 2000
    wavs, labels = batch(num_clips)
    mixed, targets = mixup(wavs, labels, Draws(0, 0, num_clips), probability=0.3, alpha=10.0)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(num_clips))
    is_mixed = (targets > 0).sum(dim=1) == 2
    assert abs(is_mixed.float().mean() - 0.3) < 5 * math.sqrt(0.21 / num_clips)
    mean_free = wavs - wavs.mean(dim=1, keepdim=True)
    torch.testing.assert_close(mixed, targets @ mean_free, rtol=1e-5, atol=1e-5)  # same weights on sound and label
    own = targets.diagonal()[is_mixed]
    assert abs(own.mean() - 0.5) < 5 * math.sqrt(1 / 84 / len(own))  # Beta(10, 10) has variance 1 / 84


def test_micro_batches_of_whole_blocks_mix_as_the_whole():
    wavs, labels = batch(24)
    draws = Draws(0, 0, 24)
    whole = mixup(wavs, labels, draws, probability=0.8, alpha=1.0)
    parts = [
        mixup(wavs[a : a + 8], labels[a : a + 8], draws.slice(a, a + 8), probability=0.8, alpha=1.0) for a in (0, 8, 16)
    ]
    for position in range(2):
        torch.testing.assert_close(torch.cat([part[position] for part in parts]), whole[position], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.5, "alpha": 1.0}, r"mixup_probability=1\.5"),
        ({"probability": 0.5, "alpha": 0.0}, r"mixup_alpha=0\.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mixup(*batch(2), Draws(0, 0, 2), **options)


def test_batches_of_another_size_are_refused():
    with pytest.raises(ValueError, match="2 clips, 2 labels and draws for 3"):
        mixup(*batch(2), Draws(0, 0, 3), probability=0.5, alpha=1.0)
