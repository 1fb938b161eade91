"""Run the recipes of masked patches as a toy: all stages, stopped and gone on."""

import json

import pytest
import torch
from small_run import small, whole_and_stopped

import vcrast
from vcrast.config.compose import compose
from vcrast.config.resume import resolve
from vcrast.features.fbank import build_fbank
from vcrast.models.backbone import build_backbone
from vcrast.objectives.masked import build_masks
from vcrast.run import run
from vcrast.runs.parts import build_schedule, peak_lr

# Of its 1024 frames: the grid of patches, and how many are hidden.
RECIPES = {
    "ssast": ((64, 8), 400), "ssast_frame": ((512, 1), 400), "mae_ast": ((64, 8), 384), "audiomae": ((64, 8), 410),
}  # fmt: skip
TOY = (
    "data=synthetic", "data.mean=null", "data.std=null", "stages=[pretrain,finetune,evaluate]", "pretrain.steps=4",
    "pretrain.watch_every_epochs=1", "finetune.steps=2", "checkpoint.every_steps=1", "model.class_tokens=1",
    "model.positions=sincos", "objective.masks.count=0.7", "evaluation=[classifier,knn]",
)  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_asks_for_what_the_paper_states(recipe):
    config = compose([f"recipe={recipe}"])
    fbank = build_fbank(config.features, sample_rate=config.data.sample_rate)
    num_samples = round(config.data.clip_duration_s * config.data.sample_rate)
    num_frames = fbank.num_frames(num_samples)
    assert num_frames == 1024
    with torch.device("meta"):
        encoder = build_backbone(
            config.model, attention=config.attention, linear=config.linear, num_mel_bins=128, num_frames=num_frames,
            num_channels=1, patch_stride=None,
        )  # fmt: skip
    grid = encoder.grid(num_frames)
    assert (grid, build_masks(config.objective["masks"]).num_hidden(grid)) == RECIPES[recipe]
    assert config.views["patch_drop"] == 0


@pytest.mark.parametrize(
    ("recipe", "rates"),
    [
        # Step and rate: half of the warm-up, its end, and where the decay is half over.
        ("mae_ast", {16_000: 5e-5, 32_000: 1e-4, 291_000: 5e-5, 550_000: 0.0}),
        ("audiomae", {6000: 2e-4, 12_000: 4e-4, 72_000: 2e-4}),
        ("ssast", {500: 5e-5, 1000: 1e-4}),
    ],
)
def test_rates_are_the_papers(recipe, rates):
    config = compose([f"recipe={recipe}"])
    num_clips = 4000 * 512 if recipe == "audiomae" else 2_180_000
    per_epoch = num_clips // config.pretrain.batch_size
    schedule = build_schedule(config.schedule, config.optim, config.pretrain, per_epoch)
    for step, rate in rates.items():
        assert schedule.lr(step) == pytest.approx(rate, rel=0.02, abs=1e-8)
    assert peak_lr(config.optim, config.pretrain.batch_size) == max(rates.values())


def toy(recipe, folder):
    words = [word for word in small(folder) if not word.startswith(("recipe=", "objective.", "evaluation."))]
    words = [f"recipe={recipe}", *words, *TOY]
    run(resolve(words), words)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_toy_of_it_stops_goes_on_finetunes_and_is_scored(recipe, tmp_path, monkeypatch):
    whole = whole_and_stopped(lambda folder: toy(recipe, folder), tmp_path, monkeypatch)
    fold = json.loads((whole / "summary.json").read_text())["folds"]["1"]
    assert set(fold) == {"pretrain", "finetune", "evaluate"}
    assert 0 <= fold["evaluate"]["accuracy"] <= 1
    assert vcrast.load(whole).embed(torch.randn(16000) * 0.1, 16000).isfinite().all()
    assert "hidden" in (whole / "report.html").read_text()
