"""Check the vectors of views that evaluations are given: a slow loop, processes, batches."""

from types import SimpleNamespace

import pytest
import torch
from parts import make_ast
from shipped import shipped, shipped_options

import vcrast.runs.viewed
from vcrast.data.loader import Batch
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import build_views
from vcrast.models.ast import AST
from vcrast.runs.viewed import embed_views

FBANK = shipped("features/fbank", sample_rate=16000, num_mel_bins=16, mean=-4.0, std=4.0)


def job(batch_size=4, **views):
    """A fold of seven clips of noise."""
    wavs = 0.1 * torch.randn(7, 3000, generator=torch.Generator().manual_seed(0))
    options = shipped_options("views/default", time_mask_frames=4, freq_mask_bins=4, patch_drop=0.5, **views)

    def batches(clips, part, windows):
        assert windows == "centre"
        for places in torch.arange(part.start, part.stop).split(batch_size):
            if len(places):
                yield Batch(clips[places], torch.zeros(len(places), 0), places)

    return SimpleNamespace(
        train=SimpleNamespace(sample=lambda count, _: wavs[:count]), seed=len, device=torch.device("cpu"),
        views=lambda own: build_views(own, fbank=Fbank(**FBANK)), config=SimpleNamespace(views=options),
        batches=batches, wavs=wavs,
    )  # fmt: skip


def encoder():
    torch.manual_seed(0)
    return make_ast()


@torch.no_grad()
def slow(own, num_clips, num_pairs):
    """Clip by clip and view by view, with the draws of the whole set."""
    views, model, rows = build_views(own.config.views, fbank=Fbank(**FBANK)), encoder().eval(), []
    for clip in range(num_clips):
        vectors = []
        for number in range(num_pairs):
            for name in "ab":
                draws = Draws(len("views"), number, num_clips, start=clip, stop=clip + 1)
                fbank = views.make(own.wavs[clip : clip + 1], draws, name)
                keep = views.keep(draws, name, model.grid(fbank.shape[1]))
                vectors.append(model(fbank, keep=keep).values.mean(dim=1)[0])
        rows.append(torch.stack(vectors))
    return torch.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 3, 9])
def test_views_are_those_of_pretraining_whatever_the_batch(batch_size):
    own, model = job(batch_size), encoder().train()
    found = embed_views(own, model, 5, 3)
    assert found.shape == (5, 6, 16)
    assert model.training
    torch.testing.assert_close(found, slow(own, 5, 3), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embed_views(own, model, 5, 1), found[:, :2])
    assert (found.std(dim=1).mean(dim=1) > 1e-3).all()


@pytest.mark.parametrize("parts", [(range(3), range(3, 7)), (range(7), range(7, 7))])
def test_processes_share_the_work(parts, monkeypatch):
    whole, shares = embed_views(job(), encoder(), 7, 2), []
    monkeypatch.setattr(vcrast.runs.viewed, "gather_rows", lambda rows: shares.append(rows) or rows)
    for part in parts:
        monkeypatch.setattr(vcrast.runs.viewed, "rank_slice", lambda _, part=part: part)
        embed_views(job(), encoder(), 7, 2)
    torch.testing.assert_close(torch.cat([share for share in shares if len(share)]), whole)


def test_views_that_an_encoder_cannot_see_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"views\.patch_drop_mode=mask: a frozen encoder has no mask token"):
        embed_views(job(patch_drop_mode="mask"), encoder(), 3, 1)
    monkeypatch.setattr(AST, "can_drop", False)
    with pytest.raises(ValueError, match=r"views\.patch_drop=0\.5: AST cannot leave tokens out"):
        embed_views(job(), encoder(), 3, 1)
