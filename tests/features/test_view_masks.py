"""Check the masks of views: widths, places, what they are filled with, tiny axes."""

import math

import pytest
import torch
from test_views import make_views, noise

from vcrast.features.draws import Draws
from vcrast.features.views import band


@pytest.mark.parametrize(("num_masks", "widest"), [(1, 64), (2, 32), (3, 21)])
def test_masks_stay_within_half_the_axis_and_never_blank(num_masks, widest):
    views = make_views(freq_mask_bins=200, time_mask_frames=200, num_masks=num_masks)
    ones = torch.ones(256, 128, 128)
    widths = []
    for step in range(40):
        masked = views._mask(ones, Draws(0, step, 256), "a")
        for axis in (1, 2):
            # A row is hidden by a time mask where it is zero in every bin that no frequency mask hides.
            hidden = (masked == 0).all(dim=3 - axis).sum(dim=1)
            assert hidden.max() <= 64
            widths.append(hidden)
        assert (masked.flatten(1).mean(dim=1) >= 0.25).all()
    widths = torch.cat(widths)
    assert widths.min() == 0
    if num_masks == 1:
        assert widths.max() == widest
        assert abs(widths.float().mean() - widest / 2) < 5 * widest / math.sqrt(12 * len(widths))


def test_masks_differ_between_clips_and_are_filled_with_zero():
    views = make_views(freq_mask_bins=48, time_mask_frames=20, num_masks=1)
    wavs = noise(8, 8000)
    view, plain = views.make(wavs, Draws(0, 0, 8), "a"), views.fbank(wavs)
    hidden = view == 0
    assert hidden.flatten(1).unique(dim=0).shape[0] == 8
    torch.testing.assert_close(view[~hidden], plain[~hidden], rtol=0, atol=0)


def test_band_by_hand():
    width, place = torch.tensor([0, 2, 2, 5]), torch.tensor([0.5, 0.0, 1 - 2**-24, 0.9])
    expected = [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
    assert band(width, place, 5).int().tolist() == expected


def test_band_starts_are_uniform():
    starts = band(torch.full((30_000,), 3), Draws(0, 0, 30_000).uniform("x"), 10).int().argmax(dim=1)
    counts = starts.bincount(minlength=8)
    assert len(counts) == 8
    assert ((counts - 3750) ** 2 / 3750).sum() < 30  # chi-squared of 7 degrees: 24.3 at p = 0.001


def test_tiny_axes_are_left_alone():
    view = make_views(freq_mask_bins=48, time_mask_frames=192, num_masks=1).make(noise(2, 400), Draws(0, 0, 2), "a")
    assert view.shape == (2, 1, 128)
    assert (view != 0).sum(dim=2).min() >= 64
