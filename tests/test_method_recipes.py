"""Run the recipes of ASiT and AST as toys: all stages, stopped and gone on."""

import json

import pytest
import torch
from small_run import small, weights_hash

import vcrast
import vcrast.train
from vcrast.config.compose import compose
from vcrast.config.resume import resolve
from vcrast.run import run

OWN = {
    "asit": (
        "data.sample_rate=16000", "pretrain.steps=4", "objective.head_dims=[16,8]", "objective.num_prototypes=12",
        "objective.num_token_prototypes=6", "stages=[pretrain,finetune,evaluate]",
    ),
    "ast_esc50": ("model.positions=learned",),
    "ast_speechcommands": ("finetune.validation.clips=0.3",),
    "ast_audioset": ("finetune.keep_epochs=null", "~data.options.train"),
}  # fmt: skip
TOY = ("data=synthetic", "data.mean=null", "data.std=null", "finetune.steps=4", "checkpoint.every_steps=1",
       "evaluation=[classifier]")  # fmt: skip


def toy(recipe, folder):
    left = ("recipe=", "objective.", "evaluation.", *(() if recipe == "asit" else ("pretrain.",)))
    words = [f"recipe={recipe}", *(word for word in small(folder) if not word.startswith(left)), *TOY, *OWN[recipe]]
    run(resolve(words), words)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OWN)
def test_a_toy_of_it_stops_goes_on_and_is_scored(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)
    whole = toy(recipe, tmp_path / "whole")
    fold = json.loads((whole / "summary.json").read_text())["folds"]["1"]
    assert 0 <= fold["evaluate"]["accuracy"] <= 1
    assert vcrast.load(whole).embed(torch.randn(16000) * 0.1, 16000).isfinite().all()
    steps, step = [], vcrast.train.exact_backward

    def stumble(*arguments):
        steps.append(arguments)
        if len(steps) == 3:
            raise InterruptedError
        return step(*arguments)

    with monkeypatch.context() as stopping:
        stopping.setattr(vcrast.train, "exact_backward", stumble)
        with pytest.raises(InterruptedError):
            toy(recipe, tmp_path / "stopped")
    toy(recipe, tmp_path / "stopped")
    assert weights_hash(tmp_path / "stopped") == weights_hash(whole)


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
