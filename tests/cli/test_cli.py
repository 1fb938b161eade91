from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf
import torch
from exported import RATE, make_small, write_model
from torch import nn

from vcrast.cli import doctor
from vcrast.cli.errors import PEER_LOST, exit_code
from vcrast.cli.main import LAUNCHERS, VERBS, main, parser
from vcrast.inference import load


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run folder with one finetuned model of 3 labels."""
    run = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    encoder, head = make_small(), nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3))
    write_model(run / "exported" / "fold_1" / "finetuned", encoder=encoder, head=head)
    write_model(run / "exported" / "fold_1" / "pretrained", encoder=encoder)
    return run


@pytest.fixture
def sounds(tmp_path):
    """Three good files, one of them in a subfolder, and one that is no sound."""
    folder = tmp_path / "sounds"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(["a.wav", "b.FLAC", "deep/c.ogg"]):
        wav = 0.3 * np.random.default_rng(number).normal(size=RATE + 3000 * number).clip(-3, 3)
        sf.write(folder / name, wav, RATE, format=name.rpartition(".")[2].upper())
    (folder / "bad.wav").write_bytes(b"RIFF not a sound")
    (folder / "notes.txt").write_text("no sound")
    return folder


def good(folder):
    return [str(folder / name) for name in ("a.wav", "b.FLAC", "deep/c.ogg")]


def test_help_does_not_wait_for_torch():
    code = "import sys\nfrom vcrast.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("False\n")
    assert "embed" in done.stdout


def test_every_verb_has_help(capsys):
    for verb in sorted(VERBS.keys() - LAUNCHERS.keys()):
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help"])
        assert stopped.value.code == 0
    assert "usage: vcrast report" in capsys.readouterr().out


def test_mistakes_are_one_line_and_exit_2(capsys, tmp_path):
    for words, said in (
        (["docter"], "did you mean doctor?"),
        (["list", "modles"], "did you mean model?"),
        (["report", str(tmp_path)], "not a run folder"),
        (["embed", str(tmp_path), str(tmp_path)], "no sound files"),
        (["embed", str(tmp_path), "absent.wav"], "absent.wav: no such file"),
        (["embed", str(tmp_path), str(tmp_path), "--out", "x.parquet"], ".npz or .csv"),
        (["embed", str(tmp_path), str(tmp_path), "--out", "no/such/x.npz"], "does not exist"),
        (["embed", str(tmp_path), str(tmp_path), "--batch-size", "0"], "at least 1"),
        (["predict", str(tmp_path), "x.wav", "--top", "-1"], "at least 1"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("vcrast: error: ")
        assert said in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("verb", ["run", "submit"])
def test_the_launchers_are_verbs_that_name_themselves(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert f"usage: vcrast {verb} RECIPE" in capsys.readouterr().out
    assert main([verb, "demo", "attention=softmx", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"vcrast {verb}: error: ")
    assert "did you mean softmax?" in error
    assert main([verb, "demo", "model=tiny", "--cfg", "job"]) == 0
    assert "recipe: demo" in capsys.readouterr().out


def test_a_lost_connection_may_work_later(capsys):
    def lost():
        raise ConnectionResetError("peer is gone")

    assert exit_code("vcrast", lost) == PEER_LOST
    assert capsys.readouterr().err == "vcrast: error: peer is gone\n"


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.setenv("VCRAST_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["report", str(tmp_path)])


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m vcrast.cli.main list | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_list_shows_the_comment_of_each_file(capsys):
    assert main(["list", "attention"]) == 0
    shown = capsys.readouterr().out
    assert "softmax           Softmax attention written out" in shown
    assert main(["list", "recipes"]) == 0
    assert "demo" in capsys.readouterr().out
    assert main(["list"]) == 0
    everything = capsys.readouterr().out
    assert "attention=NAME" in everything
    assert "optim=NAME" in everything


def test_embed_writes_npz_and_names_bad_files(model, sounds, tmp_path, capsys):
    out = tmp_path / "vectors.npz"
    assert main(["embed", str(model), str(sounds), "--out", str(out), "--batch-size", "2"]) == 0
    shown = capsys.readouterr()
    assert "bad.wav" in shown.err
    assert "1 of 4 files left out" in shown.err
    found = np.load(out)
    assert found["paths"].tolist() == good(sounds)
    np.testing.assert_allclose(found["embeddings"], load(model).embed(good(sounds)), rtol=1e-4, atol=1e-5)


def test_embed_writes_csv_that_reads_back_exactly(model, sounds, tmp_path):
    paths = good(sounds)[:2]
    assert main(["embed", str(model), *paths, "--out", str(tmp_path / "v.csv")]) == 0
    assert main(["embed", str(model), *paths, "--out", str(tmp_path / "v.npz")]) == 0
    with (tmp_path / "v.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["path", *(f"d{number}" for number in range(16))]
    assert [row[0] for row in rows] == paths
    values = np.array([[np.float32(value) for value in row[1:]] for row in rows])
    assert (values == np.load(tmp_path / "v.npz")["embeddings"]).all()


def test_embed_fails_when_every_file_is_bad(model, sounds, tmp_path):
    out = tmp_path / "vectors.npz"
    assert main(["embed", str(model), str(sounds / "bad.wav"), "--out", str(out)]) == 1
    assert not out.exists()


def test_predict_prints_labels_per_file(model, sounds, capsys):
    assert main(["predict", str(model), str(sounds / "a.wav"), "--top", "2"]) == 0
    line = capsys.readouterr().out
    expected = load(model).predict(sounds / "a.wav", top=2)
    assert line == f"{sounds / 'a.wav'}  " + "   ".join(f"{k} {100 * v:.1f} %" for k, v in expected.items()) + "\n"


def test_predict_as_json(model, sounds, capsys):
    assert main(["predict", str(model), str(sounds), "--json", "--top", "3"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == good(sounds)
    assert lines[0]["scores"] == pytest.approx(load(model).predict(sounds / "a.wav"))


def test_predict_needs_a_classifier(model, sounds, capsys):
    pretrained = model / "exported" / "fold_1" / "pretrained"
    assert main(["predict", str(pretrained), str(sounds / "a.wav")]) == 2
    assert "finetune it" in capsys.readouterr().err


def test_export_copies_a_model_that_loads(model, sounds, tmp_path):
    assert main(["export", str(model), "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "weights.safetensors"]
    wav = sounds / "a.wav"
    torch.testing.assert_close(load(tmp_path / "out").embed(wav), load(model).embed(wav))
    assert main(["export", str(model), "--out", str(tmp_path / "pre"), "--stage", "pretrained"]) == 0
    assert load(tmp_path / "pre").head is None


def test_export_refuses_a_damaged_model_and_its_own_folder(model, tmp_path, capsys):
    assert main(["export", str(model), "--out", str(tmp_path)]) == 0
    assert main(["export", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "is the model itself" in capsys.readouterr().err
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()


def test_onnx_names_the_extra(model, tmp_path, capsys, monkeypatch):
    for package in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert main(["export", str(model), "--out", str(tmp_path / "o"), "--format", "onnx"]) == 2
    assert "pip install 'vcrast[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["pool", "statistics"])
def test_onnx_gives_the_same_numbers_at_any_batch(tmp_path, readout):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    encoder = make_small(readout=readout)
    head = nn.Sequential(nn.LayerNorm(encoder.readout_dim), nn.Linear(encoder.readout_dim, 3))
    write_model(tmp_path / "model", encoder=encoder, head=head)
    assert main(["export", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--format", "onnx"]) == 0
    session = runtime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    own = load(tmp_path / "model")
    for batch in (1, 2, 5):
        fbank = torch.randn(batch, own.features.num_frames(RATE), 32)
        tokens, logits = session.run(["tokens", "logits"], {"fbank": fbank.numpy()})
        with torch.no_grad():
            expected = own.encoder(fbank).values
            np.testing.assert_allclose(tokens, expected, atol=1e-5)
            rows = expected.unflatten(1, own.encoder.grid(fbank.shape[1]))
            vector = torch.stack([rows.mean(dim=1), rows.std(dim=1, correction=0)], dim=2).flatten(1)
            vector = expected.mean(dim=1) if readout == "pool" else vector
            np.testing.assert_allclose(logits, own.require_head()(vector), atol=1e-5)


def test_doctor_describes_this_machine(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for text in (torch.__version__, "precision=auto is", "softmax", "memory_efficient", "wav, flac, ogg", "\nready\n"):
        assert text in shown


def test_doctor_asks_a_backend_with_several_kernels_which_one_it_takes(monkeypatch):
    backend = importlib.import_module("extensions.rfa.attention").RandomFeatureAttention
    assert doctor.try_attention("rfa", "cpu") == ("PyTorch operations", "")
    kernels = ("PyTorch scaled_dot_product", "written out")  # by what the processor multiplies fast
    assert doctor.try_attention("memory_efficient", "cpu") in [(kernel, "") for kernel in kernels]
    monkeypatch.setattr(backend, "kernel_name", lambda self, q: f"{q.shape[-1]} wide, {self.gate}")
    assert doctor.try_attention("rfa", "cpu") == ("64 wide, none", "")


def test_doctor_fails_when_a_required_package_is_missing(monkeypatch, capsys):
    def installed(name):
        return None if name == "soxr" else "0.0.1" if name == "timm" else "999" if name == "wandb" else real(name)

    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", installed)
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "problem: soxr missing; pip install 'soxr" in shown
    assert "problem: timm 0.0.1, needs " in shown
    assert "wandb                  999, needs <1,>=0.25 (optional: pip install 'vcrast[wandb]')" in shown
    assert shown.endswith("not ready\n")


def test_doctor_reads_the_requirements_of_a_bare_clone(monkeypatch):
    listed = list(doctor.requirements())

    def absent(name):
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "requires", absent)
    bare = list(doctor.requirements())
    names = [(name, extra) for name, _, extra in bare]
    assert ("torch", None) in names
    assert ("submitit", "submitit") in names
    assert not any(extra == "dev" for _, extra in names)
    assert {name for name, _, extra in listed if extra is None} == {name for name, extra in names if extra is None}


def test_doctor_notes_what_is_wrong_with_the_disk(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("VCRAST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "x").write_bytes(bytes(2**20 * 11))
    findings = doctor.Findings()
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=2**29))
    doctor.check_disk(findings)
    assert "(0.01 GiB" in capsys.readouterr().out
    assert "only 0.5 GiB free for the cache" in findings.notes[0]


def test_report_writes_the_page(tmp_path, capsys):
    lines = [{"stage": "pretrain", "fold": "1", "step": step, "loss": 5.0 - step} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert os.path.getsize(tmp_path / "report.html") > 5000


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["compare", "A", "--metric", "x", "B", "--format", "csv", "C"], "runs", ["A", "B", "C"]),
        (["predict", "RUN", "--fold", "2", "a.wav", "--json", "b.wav"], "paths", ["a.wav", "b.wav"]),
        (["embed", "--out", "x.npz", "RUN", "a.wav"], "paths", ["a.wav"]),
        (["data", "preview", "synth", "--out", "x.html", "source.distance=0.3"], "overrides", ["source.distance=0.3"]),
        (["data", "stats", "--help-is-no-word=1"], None, None),
        (["compare", "--format", "csv"], None, None),
        (["list", "models", "more"], None, None),
    ],
)
def test_words_and_options_come_in_any_order(words, name, value):
    if name is None:
        with pytest.raises(SystemExit) as stopped:
            parser().parse_args(words)
        assert stopped.value.code == 2
    else:
        assert getattr(parser().parse_args(words), name) == value
