"""Cutmix against timm's and torchvision's boxes and labels, by hand, and cut into parts."""

import math

import numpy as np
import pytest
import timm.data.mixup
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.transforms import v2

from vcrast.features.cutmix import CutMix, edges
from vcrast.features.draws import Draws
from vcrast.features.mixup import mixup

T, BINS, CLASSES = 41, 23, 5


def make(**options):
    defaults = {"probability": 1.0, "mixup_probability": 0.0, "alpha": 1.0, "mix_by": "clip"}
    return CutMix(**{**defaults, **options}, num_frames=T, num_mel_bins=BINS)


def batch(num_clips):
    """Filterbanks that say whose each value is, and one-hot labels."""
    rest = torch.rand(num_clips, T, BINS, dtype=torch.float64)
    return torch.arange(num_clips).view(-1, 1, 1) + 0.9 * rest, torch.eye(CLASSES)[torch.arange(num_clips) % CLASSES]


@given(st.floats(0, 1), st.integers(0, T - 1), st.integers(0, BINS - 1))
def test_boxes_are_those_of_timm(stays, frame, bin_):
    centres = iter((frame, bin_))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "randint", lambda low, high, size=None: next(centres))
        box, share = timm.data.mixup.cutmix_bbox_and_lam((1, T, BINS), stays)
    weight = torch.tensor([stays], dtype=torch.float64)
    first, last = edges(weight, torch.tensor([frame]), T)
    low, high = edges(weight, torch.tensor([bin_]), BINS)
    assert (int(first), int(last), int(low), int(high)) == tuple(map(int, box))
    assert 1 - int(last - first) * int(high - low) / (T * BINS) == pytest.approx(float(share))


@pytest.mark.parametrize("mix_by", ["clip", "batch"])
def test_filterbanks_and_labels_are_those_of_torchvision(mix_by):
    fbank, labels = batch(2)  # of two clips, torchvision's partner is ours
    oracle = v2.CutMix(num_classes=CLASSES)
    for step in range(20):
        draws, cutmix = Draws(0, step, 2), make(mix_by=mix_by)
        found, targets = cutmix.fbank(fbank, draws), cutmix.labels(labels, draws)
        for clip, (first, last, low, high) in enumerate(torch.stack(cutmix.boxes(draws), dim=1).tolist()):
            share = 1 - (last - first) * (high - low) / (T * BINS)
            params = {"box": (low, first, high, last), "lam_adjusted": share, "labels": labels, "batch_size": 2}
            wanted = oracle.transform(fbank.unsqueeze(1), params)[clip, 0]
            torch.testing.assert_close(found[clip], wanted, rtol=0, atol=0)
            torch.testing.assert_close(targets[clip], oracle.transform(labels, params)[clip])


@pytest.mark.parametrize("channels", [0, 3])
def test_labels_have_the_share_that_was_replaced(channels):
    fbank, labels = batch(12)
    draws = Draws(1, 2, 12)
    cutmix = make()
    given_ = fbank.unsqueeze(1).expand(-1, channels, -1, -1) if channels else fbank
    found = cutmix.fbank(given_, draws)
    owner = found.floor().long()  # whose each value is
    partner = draws.partners("mixup/partner")
    targets = cutmix.labels(labels, draws)
    for clip in range(12):
        assert set(owner[clip].unique().tolist()) <= {clip, int(partner[clip])}
        share = (owner[clip] == partner[clip]).double().mean()
        torch.testing.assert_close(targets[clip], labels[clip].lerp(labels[partner[clip]], share.float()))


def test_what_is_pasted_is_one_rectangle_of_the_same_place():
    fbank, _ = batch(8)
    draws = Draws(4, 0, 8)
    found = make().fbank(fbank, draws)
    changed = found != fbank
    assert changed.any()
    rows, columns = changed.any(dim=2), changed.any(dim=1)
    assert torch.equal(changed, rows.unsqueeze(2) & columns.unsqueeze(1))
    for axis in (rows, columns):
        assert (axis.int().diff(dim=1).clamp_min(0).sum(dim=1) + axis[:, 0].int() <= 1).all()
    assert torch.equal(found[changed], fbank[draws.partners("mixup/partner")][changed])


def test_the_share_that_stays_is_uniform_but_for_the_edges():
    stays = Draws(0, 0, 20_000).beta("cutmix/weight", 1.0, 1.0)
    first, last = edges(stays, torch.full((20_000,), 2000), 4000)  # of a box in the middle, which is never cut
    area = ((last - first) / 4000).square()
    assert area.mean() == pytest.approx(0.5, abs=0.01)
    assert area.quantile(0.25) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(("mix_by", "size", "steps"), [("clip", 4000, 1), ("batch", 2, 1000)])
def test_one_way_of_mixing_a_clip_and_each_as_often_as_asked(mix_by, size, steps):
    wavs, labels = torch.randn(size, 2), torch.eye(2).repeat(size // 2, 1)  # partners have different labels
    cutmix = make(mixup_probability=0.3, probability=0.5, mix_by=mix_by)
    ways = torch.zeros(2)
    for step in range(steps):
        draws = Draws(0, step, size)
        targets = mixup(wavs, labels, draws, probability=0.3, alpha=10.0, mix_by=mix_by)[1]
        blended, box = targets.amax(dim=1) < 1, cutmix.boxes(draws)
        cut = (box.last > box.first) & (box.high > box.low)
        assert not (blended & cut).any()
        if mix_by == "batch":
            assert len(blended.unique()) == 1
            assert len(torch.stack(box).unique(dim=1).T) == 1
        ways += torch.stack([blended, cut]).float().mean(dim=1) / steps
    spread = 5 * math.sqrt(0.25 / max(size, steps))
    assert ways[0] == pytest.approx(0.3, abs=spread)
    # A box narrower than a frame or a bin replaces nothing: sqrt(1 - stays) < 1 / 23, 0.2 % of all.
    assert ways[1] == pytest.approx(0.5, abs=spread + 0.002)


@pytest.mark.parametrize("mix_by", ["clip", "batch"])
@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_any_number_of_processes_cuts_as_one(mix_by, parts):
    fbank, labels = batch(24)
    cutmix = make(probability=0.6, mixup_probability=0.4, mix_by=mix_by)
    share = 24 // parts
    cuts = 0
    for step in range(6):
        draws = Draws(3, step, 24)
        whole, wanted = cutmix.fbank(fbank, draws), cutmix.labels(labels, draws)
        cuts += int((whole != fbank).any())
        pieces, targets = [], []
        for rank in range(parts):
            own = slice(rank * share, (rank + 1) * share)
            part = Draws(3, step, 24, start=own.start, stop=own.stop)  # as each process makes its own
            pieces.append(cutmix.fbank(fbank[own], part))
            targets.append(cutmix.labels(labels[own], part))
        assert torch.equal(torch.cat(pieces), whole)
        assert torch.equal(torch.cat(targets), wanted)
    assert cuts > 0


def test_mixup_by_batch_has_one_weight_whatever_the_part():
    wavs, labels = torch.randn(12, 50), torch.eye(12)
    options = {"probability": 1.0, "alpha": 0.8, "mix_by": "batch"}
    whole = mixup(wavs, labels, Draws(0, 0, 12), **options)
    weight = float(Draws(0, 0, 12).beta("mixup/weight", 0.8, 0.8)[0])
    assert whole[1].diagonal().tolist() == pytest.approx([weight] * 12)
    part = mixup(wavs[4:8], labels[4:8], Draws(0, 0, 12, start=4, stop=8), **options)
    assert torch.equal(part[0], whole[0][4:8])
    assert torch.equal(part[1], whole[1][4:8])


def test_smoothed_targets_are_those_of_timm():
    """What the loss does with mixed labels and smoothing is what timm does: smooth, then mix."""
    logits, classes, share, smoothing = torch.randn(2, CLASSES), torch.tensor([1, 3]), 0.37, 0.1
    theirs = timm.data.mixup.mixup_target(classes, CLASSES, lam=share, smoothing=smoothing)
    wanted = -(theirs * logits.log_softmax(dim=1)).sum(dim=1).mean()
    ours = torch.eye(CLASSES)[classes]
    found = F.cross_entropy(logits, torch.lerp(ours.flip(0), ours, share), label_smoothing=smoothing)
    torch.testing.assert_close(found, wanted)


def test_probability_zero_returns_the_inputs():
    fbank, labels = batch(4)
    cutmix, draws = make(probability=0.0), Draws(0, 0, 4)
    assert cutmix.fbank(fbank, draws) is fbank
    assert cutmix.labels(labels, draws) is labels


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"probability": 1.2}, r"cutmix_probability=1\.2: must lie in \[0, 1\]"),
        ({"probability": 0.6, "mixup_probability": 0.5}, r"cutmix_probability=0\.6, mixup_probability=0\.5"),
        ({"alpha": 0.0}, r"cutmix_alpha=0\.0"),
        ({"mix_by": "element"}, r"mix_by=element: choose from clip, batch"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        make(**options)


def test_sizes_and_ways_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"2 filterbanks of \(40, 23\); cutmix draws boxes for 2 of \(41, 23\)"):
        make().fbank(torch.zeros(2, 40, BINS), Draws(0, 0, 2))
    with pytest.raises(ValueError, match="mix_by=row: choose from clip, batch"):
        mixup(torch.zeros(2, 9), torch.eye(2), Draws(0, 0, 2), probability=0.5, alpha=1.0, mix_by="row")
