"""Check `vcrast import`: what other verbs make of the model, mistakes in one line."""

import json
import shlex

import numpy as np
import pytest
import soundfile as sf
import torch
from foreign_weights import drawn, vit_tensors
from small_run import small

from vcrast.cli.import_ import LAYOUTS
from vcrast.cli.main import main
from vcrast.config.compose import compose
from vcrast.inference import load
from vcrast.models.layouts import KINDS
from vcrast.run import run

NAMES = ("dog", "rain", "sea")


@pytest.fixture
def ast(tmp_path):
    """An AST of three classes on clips of 128 frames."""
    vit = vit_tensors(144, (1, 16, 16), width=32, hidden=128)
    head = {"mlp_head.0.weight": (32,), "mlp_head.0.bias": (32,), "mlp_head.1.weight": (3, 32), "mlp_head.1.bias": (3,)}
    tensors = {f"module.v.{name}": value for name, value in vit.items()}
    torch.save(tensors | {f"module.{name}": value for name, value in drawn(head).items()}, tmp_path / "ast.pth")
    return tmp_path / "ast.pth"


def bring(source, *words):
    return main(["import", str(source), "--out", str(source.parent / "out"), "--heads", "2", *words])


@pytest.fixture
def sounds(tmp_path):
    rng = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / "sounds" / name).mkdir(parents=True)
        for number in range(2):
            wav = 0.1 * rng.standard_normal(16000 + 4000 * number)
            sf.write(tmp_path / "sounds" / name / f"{number}.wav", wav, 16000)
    return tmp_path / "sounds"


def test_every_verb_takes_the_model(ast, sounds, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    assert bring(ast, "--labels", str(tmp_path / "labels.txt")) == 0
    out = tmp_path / "out"
    assert capsys.readouterr().out == f"{out / 'weights.safetensors'}\n{out / 'model.json'}\n"
    model = load(out)
    assert (model.labels, model.meta["imported"], model.meta["kind"]) == (NAMES, str(ast), "ast")
    assert model.pad == "zeros"
    assert main(["predict", str(out), str(sounds)]) == 0
    assert main(["predict", str(out), str(sounds), "--pad", "repeat"]) == 0
    assert main(["embed", str(out), str(sounds), "--out", str(tmp_path / "x.npz")]) == 0
    data = ["data=folder", f"data.root={sounds}", "--out", str(tmp_path / "scores")]
    assert main(["evaluate", str(out), *data]) == 0
    assert main(["export", str(out), "--out", str(tmp_path / "copy")]) == 0
    assert main(["export", str(out), "--format", "hf", "--out", str(tmp_path / "hf")]) == 0
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "again")]) == 0
    wav = torch.randn(16000)
    torch.testing.assert_close(load(tmp_path / "again").embed(wav, 16000), model.embed(wav, 16000), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_the_settings_that_are_logged_make_a_run_take_it(ast, tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert bring(ast) == 0
    (said,) = [line for line in caplog.messages if "a run takes it by " in line]
    words = shlex.split(said.partition("a run takes it by ")[2])
    caplog.clear()
    words = small(tmp_path / "run", "stages=[finetune,evaluate]", "finetune.steps=2", *words)
    run(compose(words), words)
    taken = [line for line in caplog.messages if line.startswith(f"encoder weights from {tmp_path / 'out'}")]
    assert taken
    assert all("38 of 38 tensors; left out: head (3 classes)" in line for line in taken)
    assert not [line for line in caplog.messages if "it was made with" in line or "not used" in line]
    words = ["export", str(tmp_path / "run"), "--stage", "finetuned"]
    assert main([*words, "--out", str(tmp_path / "model")]) == 0
    assert main([*words, "--format", "hf", "--out", str(tmp_path / "hf")]) == 0  # and back to transformers
    finetuned, wav = load(tmp_path / "model"), torch.randn(16000)
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "again")]) == 0
    again = load(tmp_path / "again").embed(wav, 16000)
    torch.testing.assert_close(again, finetuned.embed(wav, 16000), atol=1e-4, rtol=0)
    assert load(tmp_path / "again").labels == finetuned.labels


def test_labels_are_audiosets_table_or_lines(ast, tmp_path, capsys, caplog):
    table = tmp_path / "class_labels_indices.csv"
    table.write_text('index,mid,display_name\n0,/m/1,"Dog, barking"\n1,/m/2,Rain\n2,/m/3,Sea\n')
    assert bring(ast, "--labels", str(table)) == 0
    assert load(tmp_path / "out").labels == ("Dog, barking", "Rain", "Sea")
    with caplog.at_level("INFO"):
        assert bring(ast) == 0  # the same checkpoint again
    assert load(tmp_path / "out").labels == ("class 0", "class 1", "class 2")
    assert "the file does not name them: --labels FILE" in caplog.text
    for text, message in (
        ("a\nb\n", "3 classes, but --labels names 2"), ("a\nb\na\n", "has 'a' twice"), ("\n", "no names"),
        ("index,mid,display_name\n1,/m/1,Dog\n0,/m/2,Rain\n", "its index does not count up from 0; sort it"),
    ):  # fmt: skip
        table.write_text(text)
        capsys.readouterr()
        assert bring(ast, "--labels", str(table)) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    table.write_bytes(b"\xff\xfe")
    assert bring(ast, "--labels", str(table)) == 2
    assert "not text in UTF-8" in capsys.readouterr().err


MISTAKES = {
    "--labels absent.txt": "--labels absent.txt: no such file",
    "--frames 0": "--frames 0: must be at least 1",
    "--mel-bins -3": "--mel-bins -3: must be at least 1",
    "--mean 1": "--mean 1.0 --std None: give both, or neither",
    "--mean 1 --std 0": "must be above 0",
    "--patch-stride ten": "--patch-stride ten: give two positive whole numbers",
    "--patch-stride 0,10": "--patch-stride 0,10: give two positive whole numbers",
    "--patch-size 16,16": "its weights tell the size of a patch; leave --patch-size out",
    "--kind mae_ast": "has the names of the AST of its authors; leave --kind mae_ast out",
    "--heads 5": "32 wide, no multiple of --heads 5",
    "--frames 400": "144 positions of patches of [16, 16] fit no grid on 400 frames of 128 mel bins",
    "--patch-stride 16,16": "fit no grid on 1024 or 512 or 128 frames",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_one_line(ast, capsys, words):
    assert bring(ast, *words.split()) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vcrast: error: ")]
    assert len(errors) == 1
    assert MISTAKES[words] in errors[0]
    assert not (ast.parent / "out").exists()


def test_files_that_are_none_are_one_line(tmp_path, capsys):
    (tmp_path / "x.pth").write_text("no checkpoint")
    for source, message in (
        (tmp_path / "absent.pth", "absent.pth: no such file or folder"), (tmp_path, "holds no model.safetensors"),
        (tmp_path / "x.pth", "x.pth: not a "),
    ):  # fmt: skip
        assert bring(source) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_labels_of_a_model_without_classifier_are_refused(tmp_path, capsys):
    tensors = {f"v.{name}": value for name, value in vit_tensors(144, (1, 16, 16), width=32).items()}
    torch.save(tensors, tmp_path / "ast.pth")
    assert bring(tmp_path / "ast.pth", "--multilabel") == 2
    assert "has no classifier; leave --labels and --multilabel out" in capsys.readouterr().err
    assert bring(tmp_path / "ast.pth") == 0
    assert load(tmp_path / "out").head is None


def test_short_sounds_may_be_filled_otherwise(ast, tmp_path):
    assert bring(ast, "--pad", "repeat") == 0
    assert load(tmp_path / "out").pad == "repeat"


def test_the_help_names_every_layout():
    assert set(LAYOUTS) == set(KINDS)


def test_another_model_in_the_folder_stays(ast, tmp_path, capsys):
    assert bring(ast) == 0
    other = tmp_path / "other.pth"
    tensors = torch.load(ast, weights_only=True)
    torch.save({**tensors, "module.mlp_head.1.bias": torch.ones(3)}, other)
    before = json.loads((tmp_path / "out" / "model.json").read_text())
    capsys.readouterr()
    assert bring(other) == 2
    assert "holds another model; delete it or choose a new folder" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "model.json").read_text()) == before
