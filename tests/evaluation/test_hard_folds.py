"""Run own sounds of which one fold is of one class: nothing is lost, all is told."""

import csv
import json

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file
from small_run import small

import vcrast
from vcrast.cli.main import main
from vcrast.config.resume import resolve
from vcrast.run import run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("hard folds")]  # one run serves all

LABELS = ("low", "high", "noise")


def sound(label, number):
    chance = np.random.default_rng([LABELS.index(label), number])
    hiss = 0.05 * chance.standard_normal(16000)
    tones = {"low": 200 + 20 * number, "high": 3000 + 100 * number}
    return hiss + (0.3 * np.sin(2 * np.pi * tones[label] * np.arange(16000) / 16000) if label in tones else 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """30 sounds; fold 2 is one class, of which fold 1 has clips to train on."""
    folder = tmp_path_factory.mktemp("hard")
    lines = ["path,label,fold"]
    for label in LABELS:
        for number in range(10):
            sf.write(folder / f"{label}{number}.wav", sound(label, number), 16000)
            lines.append(f"{label}{number}.wav,{label},{2 if label == 'high' and number < 4 else 1 + 2 * (number % 2)}")
    (folder / "clips.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def done(place):
    options = (
        "data.folds=[1,2]", "pretrain.steps=2", "pretrain.batch_size=8", "finetune.batch_size=8", "finetune.steps=120",
        "finetune.epochs=40", "finetune.evaluate_every_epochs=40", "finetune.views=none",
        "finetune.freeze_encoder=true",
        "finetune.sampling=balanced", "finetune.optim.lr=0.05",
        "finetune.objective.class_weights=balanced", "finetune.objective.mixup_probability=0.0",
        "evaluation.linear_probe.steps=50", "engine.checkpoint_blocks=true", "finetune.drop_path=0.2",
    )  # fmt: skip
    words = [word for word in small(place / "run", *options) if not word.startswith("data.options.")]
    words = [words[0], "data=manifest", f"data.path={place / 'clips.csv'}", *words[1:]]
    return run(resolve(words), words)


def rows(folder, fold):
    with (folder / "evaluation" / f"predictions_fold_{fold}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_one_class_does_not_define_is_null_with_the_reason(done):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    for line in (done / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    summary = json.loads((done / "summary.json").read_text(), parse_constant=refuse)
    found = summary["folds"]["2"]["evaluate"]
    reason = "all 4 test clips are of class high"
    assert (found["mAP"], found["auc"], found["d_prime"]) == (None, None, None)
    assert found["undefined"] == {"mAP": reason, "auc": reason, "d_prime": reason}
    assert found["class_clips"] == {"high": 4, "low": 0, "noise": 0}
    assert f"fold 2 evaluate: mAP, auc, d_prime undefined: {reason}" in summary["warnings"]
    assert summary["mean"]["evaluate"]["auc"] == summary["folds"]["1"]["evaluate"]["auc"]
    assert reason in (done / "report.html").read_text()


def test_every_test_clip_is_a_line_whose_scores_are_those_kept(done):
    for fold in ("1", "2"):
        kept = load_file(done / "evaluation" / f"fold_{fold}.safetensors")
        lines = rows(done, fold)
        names = vcrast.load(done).labels
        scores = torch.tensor([[float(line[f"score_{name}"]) for name in names] for line in lines])
        assert torch.equal(scores, kept["scores"])
        assert [names.index(line["label"]) for line in lines] == kept["labels"].argmax(dim=1).tolist()
        assert all(f"/{line['label']}" in line["path"] for line in lines)
        accuracy = json.loads((done / "summary.json").read_text())["folds"][fold]["evaluate"]["accuracy"]
        assert np.mean([int(line["correct"]) for line in lines]) == pytest.approx(accuracy)


def test_a_frozen_encoder_is_the_pretrained_one_and_its_head_has_learnt(done):
    for fold in ("1", "2"):
        before, after = (
            load_file(done / "exported" / f"fold_{fold}" / stage / "weights.safetensors")
            for stage in ("pretrained", "finetuned")
        )
        assert all(torch.equal(after[name], value) for name, value in before.items())
    lines = rows(done, "1")
    assert np.mean([int(line["correct"]) for line in lines]) > 0.6  # chance is 1 / 3


def test_the_probe_is_a_model_whose_answers_are_the_probes(done):
    model = vcrast.load(done, fold=1, stage="probe")
    lines = rows(done, "1")
    right = [next(iter(model.predict(line["path"]))) == line["label"] for line in lines]
    summary = json.loads((done / "summary.json").read_text())
    assert np.mean(right) == pytest.approx(summary["folds"]["1"]["evaluate"]["probe_accuracy"])
    assert vcrast.load(done, fold=1).head is not None
    assert "head.weight" in load_file(done / "exported" / "fold_1" / "probe" / "weights.safetensors")


def test_scoring_the_fold_again_from_outside_gives_the_same_scores(done, place, tmp_path):
    words = ["evaluate", str(done), "data=manifest", f"data.path={place / 'clips.csv'}", "data.folds=[1]"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8") as file:
        again = {line["path"]: line for line in csv.DictReader(file)}
    for line in rows(done, "1"):
        other = again.pop(line["path"])
        for name in LABELS:  # the run reads its 16-bit cache
            assert float(line[f"score_{name}"]) == pytest.approx(float(other[f"score_{name}"]), abs=1e-3)
    assert not again
