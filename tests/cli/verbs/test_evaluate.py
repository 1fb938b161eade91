"""Check `vcrast evaluate`: scores, matched labels, files, and mistakes of one line."""

import csv
import json

import numpy as np
import pytest
import soundfile as sf
import torch
from exported import RATE, make_small, write_model
from torch import nn
from torchmetrics.functional import accuracy as oracle_accuracy

from vcrast.cli.main import main
from vcrast.inference import load

LABELS = ("dog", "rain", "sea waves")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run folder: fold 1 finetuned, fold 2 pretrained with a probe, fold 3 pretrained alone."""
    run = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    common = {"encoder": make_small(), "labels": LABELS, "pad": "repeat", "meta": {"fold": "1"}}
    head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3))
    nn.init.normal_(head[1].weight)
    write_model(run / "exported" / "fold_1" / "finetuned", head=head, **common)
    for fold in (2, 3):
        write_model(run / "exported" / f"fold_{fold}" / "pretrained", **common)
    write_model(run / "exported" / "fold_2" / "probe", head=nn.Linear(16, 3), **common)
    return run


def noise(seed, seconds, rate=RATE):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))


@pytest.fixture
def folder(tmp_path):
    """Nine clips in class folders named a little otherwise, one of another rate, one long, one short."""
    for number in range(9):
        path = tmp_path / "other" / ("Dog", "rain", "sea_waves")[number % 3] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        rate = 16000 if number == 4 else RATE
        sf.write(path, noise(number, {2: 2.7, 5: 0.4}.get(number, 1.0), rate), rate)
    return tmp_path / "other"


def read(folder):
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        return json.loads((folder / "metrics.json").read_text()), list(csv.DictReader(file))


def test_a_folder_is_scored_as_predict_would_and_labels_are_matched_by_name(model, folder, tmp_path, capsys):
    assert main(["evaluate", str(model), "data=folder", f"data.root={folder}", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "label 'Dog' is taken for the model's 'dog'" in said.err
    assert "label 'sea_waves' is taken for the model's 'sea waves'" in said.err
    assert "Balanced accuracy" in said.out
    found, rows = read(tmp_path / "out")
    assert found["num_clips"] == len(rows) == 9
    assert found["renamed_labels"] == {"Dog": "dog", "sea_waves": "sea waves"}
    chances = torch.zeros(9, 3)
    for row, each in zip(rows, chances, strict=True):
        expected = load(model).predict(row["path"])
        each[:] = torch.tensor([float(row[f"score_{name}"]) for name in LABELS])
        assert dict(zip(LABELS, each.tolist(), strict=True)) == pytest.approx(expected, abs=1e-6)
    truth = torch.tensor([LABELS.index(row["label"]) for row in rows])
    for name, average in (("accuracy", "micro"), ("balanced_accuracy", "macro")):
        theirs = oracle_accuracy(chances, truth, task="multiclass", num_classes=3, average=average)
        assert found["metrics"][name] == pytest.approx(theirs.item())
    assert found["class_clips"] == dict.fromkeys(LABELS, 3)


def test_unknown_labels_are_refused_or_left_out_and_a_fold_is_chosen(model, tmp_path, capsys):
    rows = ["path,label,fold", *(f"{number}.wav,{('rain', 'siren')[number % 2]},{number // 4}" for number in range(8))]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    for number in range(8):
        sf.write(tmp_path / f"{number}.wav", noise(number, 1.0), RATE)
    words = ["evaluate", str(model), "data=manifest", f"data.path={tmp_path / 'm.csv'}", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "labels that the model does not have: siren (4); it has dog, rain, sea waves" in error
    assert sum(line.startswith("vcrast: error: ") for line in error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert main([*words, "--ignore-unknown", "data.folds=[1]"]) == 0
    found, lines = read(tmp_path / "out")
    assert [line["path"].rpartition("/")[2] for line in lines] == ["4.wav", "6.wav"]
    assert found["metrics"]["auc"] is None
    assert found["undefined"]["auc"] == "all 2 test clips are of class rain"
    assert (found["left_out"]["of_unknown_labels"], found["unknown_labels"]) == (2, {"siren": 2})
    assert "–" in capsys.readouterr().out  # noqa: RUF001 - the mark of an empty cell


def test_a_stretch_of_a_file_several_labels_and_an_unreadable_clip(model, tmp_path, capsys):
    long = noise(0, 3.0)
    sf.write(tmp_path / "long.wav", long, RATE, subtype="FLOAT")
    sf.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    lines = [
        {"path": "long.wav", "labels": ["dog", "rain"], "start": 1.0, "duration": 1.0},
        {"path": "long.wav", "labels": ["rain"], "start": 2.0},
        {"path": "silent.wav", "labels": ["dog"]},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ["evaluate", str(model), "data=manifest", f"data.path={tmp_path / 'm.jsonl'}"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "left out: line 3: " in capsys.readouterr().err
    found, rows = read(tmp_path / "out")
    assert "accuracy" not in found["metrics"]
    assert found["class_AP"]["dog"] is not None
    assert found["left_out"]["unreadable"][0].count("silent.wav: silent: every sample is 0")
    expected = load(model).predict(torch.from_numpy(long[RATE : 2 * RATE]).float(), RATE)
    assert {name: float(rows[0][f"score_{name}"]) for name in LABELS} == pytest.approx(expected, abs=1e-6)
    assert rows[0]["label"] == "dog;rain"
    assert main([*words, "--out", str(tmp_path / "out"), "data.max_bad_fraction=0"]) == 2
    assert main([*words, "--out", str(tmp_path / "kept"), "data.max_bad_fraction=0", "data.keep_silent=true"]) == 0
    assert len(read(tmp_path / "kept")[1]) == 3


def test_the_probe_is_scored_where_nothing_was_finetuned(model, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(model), "data=folder", f"data.root={folder}", "--fold", "2"]) == 0
    assert "its linear probe is scored" in capsys.readouterr().err
    found, _ = read(tmp_path / f"evaluation-{model.name}-other")
    assert found["stage"] == "probe"


def test_mistakes_are_one_line(model, folder, tmp_path, capsys):
    data = ["data=folder", f"data.root={folder}"]
    bare = tmp_path / "bare"
    bare.mkdir()
    sf.write(bare / "a.wav", noise(0, 1.0), RATE)
    for words, said in (
        ([str(model)], "name the set to score on: data=folder data.root=DIR"),
        ([str(model), *data, "model=tiny"], "model=tiny: evaluate takes data=NAME and data.key=value"),
        ([str(model), *data, "data.sample_rate=16000"], "the model has its own sample_rate; leave it out"),
        ([str(model), *data, "--batch-size", "0"], "--batch-size 0: must be at least 1"),
        ([str(tmp_path / "absent"), *data], "no such folder"),
        ([str(model), "data=folder", f"data.root={tmp_path / 'absent'}"], "absent: no such folder"),
        ([str(model), "data=folder", f"data.root={bare}"], "no labels to score against"),
        ([str(model), *data, "--fold", "3"], "has no classifier"),
        ([str(model), *data, "--stage", "best"], "has no stage best; choose from finetuned"),
        ([str(model), *data, "data.folds=[9]"], "has no fold '9'"),
    ):
        assert main(["evaluate", *words]) == 2, words
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("vcrast: error: "), error
        assert said in error
