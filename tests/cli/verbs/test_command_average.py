"""Check `vcrast average`: epochs of a run, several runs, mistakes in one line."""

import numpy as np
import pytest
import soundfile as sf
import torch
from exported import RATE, make_small, write_model
from safetensors.torch import load_file
from torch import nn

from vcrast.cli.main import main
from vcrast.inference import load
from vcrast.models.pretrained import load_encoder


@pytest.fixture
def run(tmp_path):
    """A run that keeps epochs 2 to 5 of fold 1, and of fold 2 the first two, beside what it has finetuned."""
    run = tmp_path / "run"
    torch.manual_seed(0)
    encoder, head = make_small(), nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3))
    for fold, names in (("1", ("epoch_2", "epoch_3", "epoch_4", "epoch_5")), ("2", ("epoch_1", "epoch_2"))):
        for name in (*names, "finetuned"):
            with torch.no_grad():
                for weight in (*encoder.parameters(), *head.parameters()):
                    weight += 0.003 * torch.randn_like(weight)
            number = {"epoch": int(name[6:])} if name != "finetuned" else {}
            meta = {"recipe": "demo", "fold": fold, "seed": 0, **number}
            write_model(run / "exported" / f"fold_{fold}" / name, encoder=encoder, head=head, meta=meta)
    (run / "config.yaml").write_text("data: {name: demo}\n")
    return run


def weights(folder):
    return load_file(folder / "weights.safetensors")


def mean(folders):
    every = [weights(folder) for folder in folders]
    return {name: (sum(each[name].double() for each in every) / len(every)).float() for name in every[0]}


def assert_is(folder, expected):
    found = weights(folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_mean_of_epochs_is_a_model_like_any_other(run, tmp_path, capsys):
    out, fold = tmp_path / "mean", run / "exported" / "fold_1"
    assert main(["average", str(run), "--epochs", "3-5", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"mean of 3 models:\n  {fold / 'epoch_3'}\n")
    assert said.err == ""
    assert_is(out, mean([fold / f"epoch_{number}" for number in (3, 4, 5)]))
    assert [member["epoch"] for member in load(out).meta["averaged"]] == [3, 4, 5]
    wav = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    for name in ("dog", "rain"):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        sf.write(tmp_path / "sounds" / name / "a.wav", wav, RATE)
    assert main(["predict", str(out), str(tmp_path / "sounds")]) == 0
    assert main(["embed", str(out), str(tmp_path / "sounds"), "--out", str(tmp_path / "x.npz")]) == 0
    data = ["data=folder", f"data.root={tmp_path / 'sounds'}", "--out", str(tmp_path / "scores")]
    assert main(["evaluate", str(out), *data]) == 0
    assert main(["export", str(out), "--out", str(tmp_path / "copy")]) == 0
    encoder = make_small()
    assert load_encoder(encoder, out) == []
    assert torch.equal(encoder.state_dict()["norm.weight"], weights(out)["encoder.norm.weight"])
    assert main(["average", str(run), "--epochs", "all", "--fold", "2", "--out", str(tmp_path / "two")]) == 0
    assert_is(tmp_path / "two", mean([run / "exported" / "fold_2" / f"epoch_{number}" for number in (1, 2)]))


def test_models_are_averaged_by_run_stage_or_folder(run, tmp_path):
    fold = run / "exported" / "fold_1"
    assert main(["average", str(run), str(fold / "epoch_2"), "--out", str(tmp_path / "a")]) == 0
    assert_is(tmp_path / "a", mean([fold / "finetuned", fold / "epoch_2"]))
    before = (tmp_path / "a" / "model.json").stat().st_mtime_ns
    assert main(["average", str(run), str(fold / "epoch_2"), "--out", str(tmp_path / "a")]) == 0  # the same again
    assert (tmp_path / "a" / "model.json").stat().st_mtime_ns > before


def test_mistakes_are_one_line_and_write_nothing(run, tmp_path, capsys):
    out, fold = tmp_path / "out", run / "exported" / "fold_1"
    assert main(["export", str(run), "--out", str(tmp_path / "other")]) == 0
    capsys.readouterr()
    for words, said in (
        ([str(run)], "a mean needs two models or more; --epochs 2-5 takes those that it keeps"),
        ([str(fold / "epoch_2")], "a mean needs two models or more; a run keeps epochs by finetune.keep_epochs"),
        ([str(run), "--epochs", "2-6"], "epoch 6 of fold 1 was not kept; there are 2-5"),
        ([str(run), "--epochs", "2-999999999999"], "epoch 6 of fold 1 was not kept; there are 2-5"),
        ([str(run), "--epochs", "best"], "--epochs best: give epochs, counted from 1, as 6-25, [1,3,5] or all"),
        ([str(run), "--epochs", "2-3", "--stage", "finetuned"], "choose one; epochs are of finetuning"),
        ([str(run), "--epochs", "2-3", "--fold", "3"], "no exported fold 3; choose from 1, 2"),
        ([str(run), "--epochs", "2"], "a mean needs two models or more"),
        ([str(fold / "epoch_2"), "--epochs", "2"], "keeps no epochs; a run does with finetune.keep_epochs=6-25"),
        ([str(run), str(run)], "is given twice"),
        ([str(run), str(run / "exported" / "fold_2" / "finetuned")], "it was trained for fold 2, not 1"),
        ([str(run), "--epochs", "2-3", "--out", str(run / "mine")], "lies in the run"),
        ([str(run), "--epochs", "2-3", "--out", str(tmp_path / "other")], "holds another model (recipe demo, fold 1)"),
        ([str(tmp_path / "gone"), str(run)], "no such folder"),
    ):
        assert main(["average", *words, *([] if "--out" in words else ["--out", str(out)])]) == 2, words
        error = capsys.readouterr().err
        assert error.startswith("vcrast: error: "), words
        assert error.count("\n") == 1, words
        assert said in error, words
        assert not out.exists()
