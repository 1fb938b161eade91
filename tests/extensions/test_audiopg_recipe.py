"""Run a reduced recipe `audiopg`: the same numbers however the batch is cut."""

import json

import pytest
from small_run import small
from test_run import run_here

from vcrast.cli.main import main
from vcrast.cli.start import start
from vcrast.config.compose import compose

pytestmark = pytest.mark.slow

MIXED = (
    "stages=[finetune]", "finetune.objective.mixup_probability=0.5", "finetune.objective.mixup_alpha=0.8",
    "finetune.objective.cutmix_probability=0.5", "finetune.objective.label_smoothing=0.1", "finetune.drop_path=0.1",
)  # fmt: skip


def losses(folder, stage):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["stage"] == stage and "loss" in line]


def test_it_asks_for_what_the_paper_states():
    config = compose(["recipe=audiopg"])
    assert (config.source["program"], config.source["duration_s"]) == ("audiopg", 10.24)
    finetune = config.finetune
    mixing = finetune.objective
    assert (finetune.optim["lr"], finetune.epochs, finetune.drop_path) == (2e-4, 100, 0.1)
    assert (mixing["mixup_alpha"], mixing["cutmix_alpha"], mixing["mix_by"]) == (0.8, 1.0, "batch")
    assert (mixing["label_smoothing"], mixing["mixup_probability"] + mixing["cutmix_probability"]) == (0.1, 1)


def test_it_runs_on_the_generated_classes_without_any_file(tmp_path):
    kept = [word for word in small(tmp_path / "run") if not word.startswith(("recipe=", "data.clip_duration_s"))]
    shrunk = ["source.duration_s=0.6", "source.pairs_per_epoch=64", "data.clip_duration_s=1.0", "pretrain.steps=2"]
    assert start(["recipe=audiopg", *kept, *shrunk]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["folds"]["1"]) == {"pretrain", "finetune", "evaluate"}
    assert len(losses(tmp_path / "run", "pretrain")) == 2
    assert len(losses(tmp_path / "run", "finetune")) == 9


def test_the_loss_on_its_pairs_falls(tmp_path):
    words = ("source=audiopg", "views=masks", "source.pairs_per_epoch=64", "stages=[pretrain]")
    folder = run_here(tmp_path / "falls", *words, "pretrain.steps=24", "optim.lr=2e-3")
    found = losses(folder, "pretrain")
    assert sum(found[-4:]) < sum(found[:4])


@pytest.mark.parametrize("mix_by", ["clip", "batch"])
def test_micro_batches_do_not_matter_to_mixed_finetuning(mix_by, tmp_path):
    words = (*MIXED, f"finetune.objective.mix_by={mix_by}", "finetune.steps=4")
    whole = losses(run_here(tmp_path / "whole", *words), "finetune")
    parts = losses(run_here(tmp_path / "parts", *words, "finetune.micro_batch_size=5"), "finetune")
    assert parts == pytest.approx(whole, rel=1e-4)
    plain = losses(run_here(tmp_path / "plain", *words, "finetune.objective.cutmix_probability=0.0"), "finetune")
    assert plain != pytest.approx(whole, rel=1e-4)


def test_too_much_mixing_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"cutmix_probability=0\.6, mixup_probability=0\.5: a clip is mixed in one way"
    ):
        run_here(tmp_path / "run", *MIXED, "finetune.objective.cutmix_probability=0.6")


BUZZ = """
import torch
import vcrast.data.streams
from vcrast.config.registry import PROGRAMS
from vcrast.data.synth.program import Layers

@PROGRAMS.register("buzz")
class Buzz(Layers):
    def render(self, units, material):
        return super().render(units, material).sign() / 2

    def caption(self, values, row):
        return "a buzz"
"""


def test_a_program_of_ones_own_is_named_with_its_module(tmp_path, monkeypatch):
    (tmp_path / "own_buzz.py").write_text(BUZZ)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("source.program=buzz", "source.module=own_buzz")
    page = tmp_path / "page.html"
    preview = ["data", "preview", "synth", "source.duration_s=0.5", *words, "--pairs", "2", "--out", str(page)]
    assert main(preview) == 0
    assert page.read_text().count("a buzz") == 2
    run_here(tmp_path / "run", "source=synth", *words, "stages=[pretrain]", "pretrain.steps=1")
    assert len(losses(tmp_path / "run", "pretrain")) == 1
