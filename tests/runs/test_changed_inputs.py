"""Change what a finished run was made from: nothing may be claimed that is not so."""

import json
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_run import metric_steps, small, weights_hash

from vcrast.cli.start import start

pytestmark = pytest.mark.slow

QUICK = ("pretrain.steps=4", "finetune.steps=3", "finetune.epochs=1", "evaluation.linear_probe.steps=2")

REFUSED = {
    "run.seed=1": r"run\.seed: 0 -> 1",
    "data.sample_rate=8000": r"data\.sample_rate: 16000 -> 8000",
    "data.mean=-5.0": r"data\.mean",
    "data.options.num_clips=70": r"data\.options\.num_clips: 60 -> 70",
    "features.num_mel_bins=64": r"features\.num_mel_bins: 128 -> 64",
    "source=synth": r"source\.name: clips -> synth",
    "objective.invariance_weight=1": r"objective\.invariance_weight",
    "optim.lr=0.1": r"optim\.lr",
    "views.roll=false": r"views\.roll: True -> False",
    "pretrain.batch_size=8": r"pretrain\.batch_size: 16 -> 8",
    "pretrain.steps=3": r"pretrain\.steps=3: fold 1 has done 4 steps",
    "precision=bf16": r"precision: fp32 -> bf16",
    "attention=softmax": r"attention\.name: memory_efficient -> softmax",
    "finetune.objective.class_weights=balanced": r"class_weights: None -> balanced.*model\.checkpoint=",
    "finetune.optim=lars": r"finetune\.optim\.name: adamw -> lars.*model\.checkpoint=",
    "data.clip_duration_s=0.5": r"data\.clip_duration_s",
}
AGAIN = {  # what is trained again, and what the log says
    "evaluation.knn.k=5": ([], r"evaluate is done again: evaluation\.knn\.k: 10 -> 5"),
    "evaluation=[knn]": ([], r"evaluate is done again: .*evaluation\.linear_probe\.\w+: \w+ -> None"),
    "evaluate.windows=centre": ([], r"evaluate is done again: evaluate\.windows: all -> centre"),
    "finetune.steps=5": (["finetune"], r"finetune: 3 -> 5 steps: goes on from step 3.*\n.*evaluate is done again"),
    "pretrain.steps=6": (["pretrain", "finetune"], r"pretrain: 4 -> 6 steps: goes on from step 4"),
}
FREE = ("checkpoint.keep=9", "engine=deepspeed", "launch.timeout_s=99", "data.num_workers=1", "stages=[evaluate]")
"""Which change no number of what is done."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("changed") / "run"
    assert start(small(folder, *QUICK)) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def go_on(folder, *words):
    """Resume; what it wrote to the log."""
    before = len((folder / "train.log").read_text())
    assert start([f"run.resume={folder}", *words]) == 0
    return (folder / "train.log").read_text()[before:]


@pytest.mark.parametrize("word", REFUSED)
def test_what_a_done_stage_was_made_from_is_not_changed_under_it(finished, word):
    before = weights_hash(finished), (finished / "config.yaml").read_text(), (finished / "summary.json").read_text()
    with pytest.raises(ValueError, match=REFUSED[word]) as caught:
        start([f"run.resume={finished}", word])
    assert "\n" not in str(caught.value)
    after = weights_hash(finished), (finished / "config.yaml").read_text(), (finished / "summary.json").read_text()
    assert after == before


@pytest.mark.parametrize("word", AGAIN)
def test_what_depends_on_the_change_is_done_again_and_it_is_said(run, finished, word):
    trained, said = AGAIN[word]
    log = go_on(run, word)
    assert re.search(said, log), log
    for stage, made in (("pretrain", "pretrained"), ("finetune", "finetuned")):
        now, before = (load_file(folder / f"exported/fold_1/{made}/weights.safetensors") for folder in (run, finished))
        assert all(torch.equal(value, before[name]) for name, value in now.items()) is (stage not in trained), stage
    assert len(metric_steps(run)) == len(set(metric_steps(run)))


@pytest.mark.parametrize("word", FREE)
def test_what_changes_no_number_leaves_all_as_it_was(run, finished, word):
    log = go_on(run, word)
    assert "done again" not in log
    assert "evaluate: done already" in log
    assert weights_hash(run) == weights_hash(finished)


def test_another_fold_is_added_and_the_mean_is_that_of_both(run):
    assert "fold 2 pretrain" in go_on(run, "data.folds=[1,2]")
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["folds"]) == ["1", "2"]


@pytest.fixture
def from_file(tmp_path, finished, monkeypatch):
    """A file of weights to start from."""
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)
    path = tmp_path / "weights.safetensors"
    shutil.copy(finished / "exported/fold_1/pretrained/weights.safetensors", path)
    return path


def test_other_weights_behind_the_same_path_are_noticed(tmp_path, from_file):
    words = (*QUICK[1:], f"model.checkpoint={from_file}")
    for stages in ("[evaluate]", "[finetune,evaluate]"):
        assert start(small(tmp_path / stages, *words, f"stages={stages}")) == 0
    assert "done again" not in go_on(tmp_path / "[evaluate]")
    save_file({name: value + 1 for name, value in load_file(from_file).items()}, from_file)
    log = go_on(tmp_path / "[evaluate]")
    assert "evaluate is done again: the weights behind model.checkpoint changed" in log
    with pytest.raises(
        ValueError, match=r"finetune was begun from other weights under this path \(sha256 \w+, now \w+"
    ):
        start([f"run.resume={tmp_path / '[finetune,evaluate]'}"])
    os.unlink(from_file)
    assert "done already" in go_on(tmp_path / "[evaluate]")
