"""Check `vcrast evaluate` of several models against torchmetrics."""

import csv
import json

import numpy as np
import pytest
import soundfile as sf
import torch
from exported import RATE, make_small, write_model
from parts import make_ast
from shipped import shipped
from torch import nn
from torchmetrics.functional import accuracy as oracle_accuracy
from torchmetrics.functional.classification import multilabel_auroc, multilabel_average_precision

from vcrast.cli.main import main
from vcrast.inference import load

LABELS = ("dog", "rain", "sea")


def make_head():
    head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3))
    nn.init.normal_(head[1].weight)
    return head


@pytest.fixture(scope="module", params=[False, True], ids=["one label a clip", "several labels"])
def models(request, tmp_path_factory):
    """Three models: another normalisation and order of classes; another rate, length, filterbank and padding."""
    place = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    longer = make_ast(depth=2, patch_size=[16, 16], num_mel_bins=48, num_frames=48)
    own = {"features": shipped("features/fbank", num_mel_bins=48, mean=-5.0, std=2.0)}
    for name, encoder, changes in (
        ("a", make_small(), {"labels": LABELS}),
        (
            "b",
            make_small(),
            {"labels": LABELS[::-1], "features": shipped("features/fbank", num_mel_bins=32, mean=-9.0, std=4.0)},
        ),
        ("c", longer, {**own, "sample_rate": 16000, "clip_duration_s": 0.5, "pad": "repeat", "labels": LABELS}),
    ):
        meta = {"fold": "2" if name == "c" else "1"}
        write_model(place / name, encoder=encoder, head=make_head(), multilabel=request.param, meta=meta, **changes)
    return [place / name for name in "abc"]


@pytest.fixture
def table(tmp_path, models):
    """Twelve clips and one that cannot be read."""
    several = load(models[0]).multilabel
    lines = ["path,labels" if several else "path,label"]
    for number in range(12):
        wav = 0.1 * np.random.default_rng(number).standard_normal(RATE + 900 * number)
        sf.write(tmp_path / f"{number}.wav", wav, RATE)
        lines.append(
            f"{number}.wav,{LABELS[number % 3]}" + (f";{LABELS[number % 2]}" if several and number > 3 else "")
        )
    sf.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    (tmp_path / "clips.csv").write_text("\n".join([*lines, "silent.wav,dog"]) + "\n")
    return tmp_path / "clips.csv"


def evaluate(models, table, *more):
    out = table.parent / "out"
    words = ["evaluate", *map(str, models), "data=manifest", f"data.path={table}", "--out", str(out)]
    assert main([*words, "data.max_bad_fraction=0.1", *more]) == 0
    with (out / "predictions.csv").open(encoding="utf-8") as file:
        return json.loads((out / "metrics.json").read_text()), list(csv.DictReader(file))


def scores_of(rows):
    return torch.tensor([[float(row[f"score_{name}"]) for name in LABELS] for row in rows])


def assert_is_the_oracles(metrics, score, rows):
    label = torch.tensor([[int(name in row["label"].split(";")) for name in LABELS] for row in rows])
    expected = {
        "mAP": multilabel_average_precision(score, label, num_labels=3),
        "auc": multilabel_auroc(score, label, num_labels=3),
    }
    if (label.sum(dim=1) == 1).all():
        truth = label.argmax(dim=1)
        for name, average in (("accuracy", "micro"), ("balanced_accuracy", "macro")):
            expected[name] = oracle_accuracy(score, truth, task="multiclass", num_classes=3, average=average)
    assert metrics.keys() == {*expected, "d_prime"}
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(float(value), abs=1e-6), name


def test_the_mean_of_scores_is_measured_beside_its_members(models, table, capsys):
    found, rows = evaluate(models, table)
    said = capsys.readouterr()
    several = load(models[0]).multilabel
    kind = "mean of sigmoid scores" if several else "mean of softmax probabilities"
    assert found["model"] == f"{kind} of 3 models"
    assert said.out.startswith(f"{kind} of 3 models on {table}: 12 clips".replace("\n", ""))
    assert "models of folds 1, 2: score them on clips that none of them was trained on" in said.err
    assert [member["model"] for member in found["members"]] == [str(model) for model in models]
    assert len(found["left_out"]["unreadable"]) == 1
    every = []
    for model, member in zip(models, found["members"], strict=True):
        one = load(model)
        named = [one.predict(row["path"]) for row in rows]
        every.append(torch.tensor([[each[name] for name in LABELS] for each in named]))
        alone, own = evaluate([model], table)
        torch.testing.assert_close(scores_of(own), every[-1])
        assert_is_the_oracles(alone["metrics"], scores_of(own), own)
        assert "members" not in alone
        assert member["metrics"] == pytest.approx(alone["metrics"])
    torch.testing.assert_close(scores_of(rows), torch.stack(every).mean(dim=0), rtol=1e-5, atol=1e-6)
    assert_is_the_oracles(found["metrics"], scores_of(rows), rows)


def test_a_clip_that_one_member_cannot_read_is_left_out_of_all(models, table, monkeypatch):
    from vcrast.cli import members
    from vcrast.data.audio import AudioFault

    def faulty(model, clips, faults, **options):
        for some, wavs in plain(model, clips, faults, **options):
            if model.sample_rate == 16000:
                bad = next((number for number, clip in enumerate(some) if clip.path.endswith("/5.wav")), None)
                if bad is not None:
                    faults.append(str(AudioFault("5.wav", "gone")))
                    some, wavs = ([*each[:bad], *each[bad + 1 :]] for each in (some, wavs))
            yield some, wavs

    plain = members.batches
    whole, rows = evaluate(models, table, "data.max_bad_fraction=0.2")
    monkeypatch.setattr(members, "batches", faulty)
    found, fewer = evaluate(models, table, "data.max_bad_fraction=0.2")
    assert (whole["num_clips"], found["num_clips"]) == (12, 11)
    kept = [row for row in rows if not row["path"].endswith("/5.wav")]
    assert [row["path"] for row in fewer] == [row["path"] for row in kept]
    torch.testing.assert_close(scores_of(fewer), scores_of(kept))


def test_models_that_cannot_be_averaged_are_refused_in_one_line(models, table, tmp_path, capsys):
    torch.manual_seed(1)
    several = load(models[0]).multilabel
    write_model(tmp_path / "cats", encoder=make_small(), head=make_head(), labels=("cat", "dog", "rain"))
    write_model(tmp_path / "other", encoder=make_small(), head=make_head(), multilabel=not several)
    write_model(tmp_path / "bare", encoder=make_small())
    data = ["data=manifest", f"data.path={table}", "--out", str(tmp_path / "none")]
    kinds = ["any number of labels a clip", "one label a clip"]
    own, theirs = kinds if several else kinds[::-1]
    capsys.readouterr()
    for words, said in (
        ([models[0], tmp_path / "cats"], f"it has other classes (has cat; lacks sea) than {models[0]}"),
        ([models[0], tmp_path / "other"], f"was trained for {theirs}, {models[0]} for {own}"),
        ([models[0], models[1], models[0]], "is given twice; each model counts once"),
        ([models[0], tmp_path / "bare"], "has no classifier"),
        ([models[0], tmp_path / "gone"], "no such folder"),
        ([], "name a model to score"),
    ):
        assert main(["evaluate", *map(str, words), *data]) == 2
        error = capsys.readouterr().err
        assert error.startswith("vcrast: error: ")
        assert error.count("\n") == 1
        assert said in error
    (tmp_path / "other" / "weights.safetensors").write_bytes(b"x")
    (tmp_path / "other" / "model.json").write_text((models[1] / "model.json").read_text())
    assert main(["evaluate", str(models[0]), str(tmp_path / "other"), *data]) == 2
    error = capsys.readouterr().err
    assert "damaged or replaced" in error
    assert "scoring" not in error
    assert not (tmp_path / "none").exists()


def test_folders_named_like_settings_and_the_usual_place(models, table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "optim.lr=0.1").symlink_to(models[0])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lr=1").symlink_to(models[1])
    words = ["data=manifest", f"data.path={table}", "data.max_bad_fraction=0.1"]
    assert main(["evaluate", *words, "optim.lr=0.1", "data/lr=1"]) == 0
    place = tmp_path / f"evaluation-{models[0].name}+1-clips"
    assert json.loads((place / "metrics.json").read_text())["members"][1]["model"] == "data/lr=1"
    assert "data/lr=1" in capsys.readouterr().out
