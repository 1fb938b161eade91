from __future__ import annotations

import shutil

import pytest
import torch
from parts import make_ast
from shipped import shipped
from torch import nn

from vcrast.cli.main import main
from vcrast.inference import load
from vcrast.models.export import export


def contents(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def run(tmp_path):
    """A run folder with two folds."""
    run = tmp_path / "run"
    common = {
        "features": shipped("features/fbank", num_mel_bins=16), "labels": ("a", "b"), "multilabel": False,
        "sample_rate": 8000, "clip_duration_s": 1.0, "pad": "silence",
    }  # fmt: skip
    for fold in ("1", "2"):
        torch.manual_seed(int(fold))
        meta = {"recipe": "demo", "fold": fold, "seed": 0}
        folder = run / "exported" / f"fold_{fold}"
        export(folder / "finetuned", encoder=make_ast(), head=nn.Linear(16, 2), meta=meta, **common)
        export(folder / "pretrained", encoder=make_ast(), head=None, meta=meta, **common)
    (run / "config.yaml").write_text("data: {name: demo}\n")
    return run


@pytest.mark.parametrize("settings", [True, False], ids=["run", "models without the run's settings"])
@pytest.mark.parametrize("out", ["", "exported", "exported/mine", "exported/fold_1/pretrained", "mine/deep"])
def test_an_export_never_becomes_part_of_its_run(run, out, settings, capsys):
    if not settings:
        (run / "config.yaml").unlink()
    before = contents(run)
    assert main(["export", str(run), "--out", str(run / out)]) == 2
    error = capsys.readouterr().err
    assert f"lies in the run {run}, whose own models must stay; choose a folder outside" in error
    assert error.count("\n") == 1
    assert contents(run) == before
    assert main(["export", str(run), "--out", str(run.parent / "out")]) == 0
    torch.testing.assert_close(
        load(run.parent / "out").encoder.state_dict(), load(run, fold=1, stage="finetuned").encoder.state_dict()
    )


def test_an_export_never_becomes_part_of_another_run(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "other")
    assert main(["export", str(run), "--out", str(tmp_path / "other" / "exported" / "fold_2" / "finetuned")]) == 2
    assert "lies in the run" in capsys.readouterr().err
    assert contents(tmp_path / "other").keys() == {
        name.replace(str(run), str(tmp_path / "other")) for name in contents(run)
    }


def test_another_model_is_not_replaced_and_the_same_may_be_written_again(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(run), "--fold", "2", "--out", str(out)]) == 0
    before = contents(out)
    assert main(["export", str(run), "--fold", "2", "--out", str(out)]) == 0
    assert contents(out) == before
    capsys.readouterr()
    assert main(["export", str(run), "--fold", "1", "--out", str(out)]) == 2
    assert "holds another model (recipe demo, fold 2); delete it or choose a new folder" in capsys.readouterr().err
    assert contents(out) == before
    (out / "model.json").unlink()
    assert main(["export", str(run), "--fold", "2", "--out", str(out)]) == 2
    assert "holds weights.safetensors of unknown origin" in capsys.readouterr().err


def test_a_folder_with_other_files_may_hold_an_export_and_a_file_may_not(run, tmp_path, capsys):
    out = tmp_path / "notes"
    out.mkdir()
    (out / "README.md").write_text("mine")
    assert main(["export", str(run), "--out", str(out)]) == 0
    assert (out / "README.md").read_text() == "mine"
    assert main(["export", str(run), "--out", str(out / "README.md")]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fold", "3"], "no exported fold 3; choose from 1, 2"),
        (["--stage", "banana"], "fold 1 has no stage banana; choose from finetuned, pretrained"),
    ],
)
def test_wrong_folds_and_stages_list_the_right_ones(run, tmp_path, words, message, capsys):
    assert main(["export", str(run), "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_weights_file_of_a_model_stands_for_its_folder(run, tmp_path):
    weights = run / "exported" / "fold_2" / "finetuned" / "weights.safetensors"
    assert main(["export", str(weights), "--out", str(tmp_path / "out")]) == 0
    assert load(tmp_path / "out").meta["fold"] == "2"


def test_a_folder_of_runs_lists_them(run, tmp_path, capsys):
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"is a folder of runs; name one of its runs: {run}\n" in capsys.readouterr().err
