"""Run the recipes of ASiT, AST and HTS-AT as toys: all stages, stopped and gone on."""

import json

import pytest
import torch
from small_run import small, whole_and_stopped

import vcrast
from vcrast.config.compose import compose
from vcrast.config.resume import resolve
from vcrast.features.fbank import build_fbank
from vcrast.models.backbone import build_backbone
from vcrast.run import run
from vcrast.runs.parts import build_schedule

OWN = {
    "asit": (
        "data.sample_rate=16000", "pretrain.steps=4", "objective.head_dims=[16,8]", "objective.num_prototypes=12",
        "objective.num_token_prototypes=6", "stages=[pretrain,finetune,evaluate]",
    ),
    "ast_esc50": ("model.positions=learned",),
    "ast_speechcommands": ("finetune.validation.clips=0.3",),
    "ast_audioset": ("finetune.keep_epochs=null", "~data.options.train"),
    "htsat": (
        "pretrain.steps=4", "model.embed_dim=8", "model.depths=[1,2]", "model.num_heads=[1,2]", "model.window_size=4",
        "objective.projector_dims=[16,16,16]", "stages=[pretrain,finetune,evaluate]",
    ),
}  # fmt: skip
TOY = ("data=synthetic", "data.mean=null", "data.std=null", "finetune.steps=4", "checkpoint.every_steps=1",
       "evaluation=[classifier]")  # fmt: skip


def toy(recipe, folder):
    left = ["recipe=", "objective.", "evaluation.", *(["model."] if recipe == "htsat" else [])]
    left += [] if recipe in ("asit", "htsat") else ["pretrain."]
    words = [
        f"recipe={recipe}",
        *(word for word in small(folder) if not word.startswith(tuple(left))),
        *TOY,
        *OWN[recipe],
    ]
    run(resolve(words), words)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OWN)
def test_a_toy_of_it_stops_goes_on_and_is_scored(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)
    whole = whole_and_stopped(lambda folder: toy(recipe, folder), tmp_path, monkeypatch)
    fold = json.loads((whole / "summary.json").read_text())["folds"]["1"]
    assert 0 <= fold["evaluate"]["accuracy"] <= 1
    assert vcrast.load(whole).embed(torch.randn(16000) * 0.1, 16000).isfinite().all()


def test_asit_asks_for_what_the_paper_states():
    config = compose(["recipe=asit"])
    assert (config.data.sample_rate, config.data.clip_duration_s, config.views["crop"]) == (32000, 10, 0.6)
    assert config.pretrain.batch_size * config.optim["lr"] / config.optim["lr_per_batch"] == 2.5e-4
    assert (config.objective["momentum"], config.objective["reconstruction_weight"]) == (0.996, 2.0)


def test_ast_asks_for_what_the_paper_states():
    expected = {
        "ast_esc50": (1e-4, 48, 25, 0.85, 5, 1, 24, 96, 0.0),
        "ast_speechcommands": (2.5e-4, 128, 30, 0.85, 5, 1, 48, 48, 0.6),
        "ast_audioset": (5e-5, 12, 25, 0.5, 10, 5, 48, 192, 0.5),
    }
    for recipe, wanted in expected.items():
        own = compose([f"recipe={recipe}"]).finetune
        found = (
            own.optim["lr"], own.batch_size, own.epochs, own.schedule["factor"], own.schedule["first_epoch"],
            own.schedule["every_epochs"], own.views["freq_mask_bins"], own.views["time_mask_frames"],
            own.objective["mixup_probability"],
        )  # fmt: skip
        assert found == wanted
        assert (own.patch_stride, own.optim["betas"], own.optim["layer_decay"]) == ([10, 10], [0.95, 0.999], 1.0)


def test_htsat_asks_for_what_the_paper_states():
    config = compose(["recipe=htsat"])
    fbank = build_fbank(config.features, sample_rate=config.data.sample_rate)
    num_frames = fbank.num_frames(round(config.data.clip_duration_s * config.data.sample_rate))
    assert (fbank.window_samples, fbank.n_fft, fbank.shift_samples, fbank.num_mel_bins) == (1024, 1024, 320, 64)
    with torch.device("meta"):
        encoder = build_backbone(
            config.model, num_mel_bins=64, num_frames=num_frames, num_channels=1, patch_stride=None
        )
    assert encoder.patch_embed.grid_size == (64, 64)
    assert (encoder.embed_dim, encoder.grid(num_frames), config.views["patch_drop"]) == (768, (32, 2), 0)
    own = config.finetune
    assert (own.batch_size, own.optim["weight_decay"], own.clip_grad_norm, own.drop_path) == (128, 0.05, 1.0, 0.1)
    assert (own.objective["mixup_probability"], own.objective["mixup_alpha"], own.sampling) == (1.0, 0.5, "balanced")
    schedule = build_schedule(own.schedule, own.optim, own, 1000)
    rates = [schedule.lr(1000 * epoch + 999) / 1e-3 for epoch in (2, 9, 19, 29)]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.025], rel=1e-3)
