"""Run every loss of views from the command line: stopped, gone on with, and judged."""

import json

import pytest
from small_run import small, whole_and_stopped

from vcrast.config.compose import compose
from vcrast.config.resume import resolve
from vcrast.run import run
from vcrast.runs.check import check_parts

OWN = {
    "vcr": ("views.drop=time_frequency", "views.patch_drop=[0.6,0.4]", "objective.teacher=ema"),
    "barlow": ("views.drop=time",),
    "ntxent": ("views.drop=frequency", "views.num=3"),
    "sigreg": ("views.local={num: 6, crop: 0.4, crop_frequency: 0.5, patch_drop: 0}", "objective.teacher=ema"),
    "visreg": ("views.drop=time_frequency", "views.local={num: 1, drop: random}"),
    "mmcr": ("views.patch_drop_mode=mask", "views.drop=time"),
}  # fmt: skip


def toy(name, folder):
    words = [word for word in small(folder, *OWN[name]) if not word.startswith("evaluation.")]
    at = words.index("recipe=demo") + 1
    words = [*words[:at], f"objective={name}", *words[at:]]
    words += ["pretrain.steps=3", "stages=[pretrain,evaluate]", "evaluation=[knn]", "checkpoint.every_steps=1"]
    run(resolve(words), words)


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_a_toy_of_it_stops_goes_on_and_is_scored(name, tmp_path, monkeypatch):
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)
    whole = whole_and_stopped(lambda folder: toy(name, folder), tmp_path, monkeypatch, at=2)
    summary = json.loads((whole / "summary.json").read_text())
    assert 0 <= summary["folds"]["1"]["evaluate"]["knn_accuracy"] <= 1
    assert summary["folds"]["1"]["pretrain"]["steps"] == 3


def test_views_that_are_not_compared_are_refused_in_one_line():
    for words, message in (
        (["objective=mae", "views.num=3"], r"views\.num=3: this objective does not compare views"),
        (["finetune.views.num=3"], r"finetune\.views\.num=3: this objective does not compare views"),
        (["views.num=1"], r"views\.num=1: this objective compares views"),
        (["views.drop=rows"], r"views\.drop=rows: choose from random, time"),
        (["objective.teacher=momentum"], r"objective\.teacher=momentum: choose from none, ema"),
        (["views.patch_drop=[0.5,250]"], "a clip has only .* tokens and one must stay"),
        (["views.local={num: 2, crop: 0.01}"], "patch"),
    ):
        with pytest.raises(ValueError, match=message):
            check_parts(compose(["recipe=demo", *words]))
