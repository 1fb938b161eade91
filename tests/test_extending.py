"""Run the code and YAML of docs/extending.md in whole runs."""

import io
import itertools
import json
import re
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from small_run import small, weights_hash

import extensions
import vcrast
import vcrast.config.compose
import vcrast.config.schema
from launch.arguments import parse
from vcrast.cli.main import main
from vcrast.config.resume import resolve
from vcrast.data import sources
from vcrast.data.open import open_corpus
from vcrast.objectives.ema import Teacher
from vcrast.run import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))
CODE = {path: body for path, body in BLOCKS.items() if path.endswith(".py")}
SHORT = ("pretrain.steps=2", "finetune.steps=2")


@pytest.fixture
def laid(tmp_path, monkeypatch):
    """The documented files in place: packages see their modules, Hydra their YAML; the repository stays as it is."""
    for path, body in BLOCKS.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(body)
    monkeypatch.setenv("VCRAST_CONFIGS", str(tmp_path / "configs"))
    monkeypatch.setattr(extensions, "__path__", [*extensions.__path__, str(tmp_path / "extensions")])
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "vcrast" / "data" / "sources")])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def run_here(folder, *words):
    overrides = small(folder / "run", *SHORT, *words)
    run(resolve(overrides), overrides)
    return vcrast.load(folder / "run")


def test_every_kind_of_part_is_shown():
    assert len(re.findall("```", TEXT)) == 2 * len(BLOCKS)
    shown = {"/".join(path.split("/")[:2]) for path in BLOCKS}
    code = {f"extensions/{name}" for name in ("latent", "conv", "centroid", "mean", "low_rank")}
    groups = ("data", "objective", "model", "evaluation", "attention", "linear")
    assert shown == {"vcrast/data", "launch/seeds.py", "vcrast_recipes/ours.yaml"} | code | {
        f"configs/{group}" for group in groups
    }


def test_the_recipe_is_found(laid, monkeypatch):
    monkeypatch.chdir(laid)
    monkeypatch.setenv("VCRAST_CONFIGS", "")
    config = resolve(parse(["ours"]).overrides)
    assert (config.recipe, config.data.name, config.model["embed_dim"], config.pretrain.epochs) == (
        "ours", "esc50", 384, 100,
    )  # fmt: skip


@pytest.mark.parametrize("path", CODE)
def test_code_is_short(path):
    assert len([line for line in CODE[path].splitlines() if line.strip()]) <= 45


class OneFile(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *args):
        pass


@contextmanager
def served(content):
    """The address of a zip on this machine."""
    with HTTPServer(("127.0.0.1", 0), OneFile) as server:
        server.content = content
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/named.zip"
        server.shutdown()


def zipped_sounds():
    """Ten half seconds of noise in each of two classes."""
    generator, packed = np.random.default_rng(0), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for number in range(10):
            for name in ("dog", "rain"):
                sound = io.BytesIO()
                soundfile.write(sound, 0.1 * generator.standard_normal(8000), 16000, format="WAV")
                file.writestr(f"{name}_{number}.wav", sound.getvalue())
    return packed.getvalue()


def test_the_dataset_and_its_download(laid, capsys):
    root = laid / "sounds"
    with served(zipped_sounds()) as url:
        assert main(["data", "download", "named", "--root", str(root), "--url", url]) == 0
    assert capsys.readouterr().out.strip() == str(root)
    words = ("data=named", f"data.root={root}", "data.clip_duration_s=0.5")
    config = vcrast.config.compose.compose(words)
    corpus = open_corpus(config.data)
    assert (len(corpus.clips), corpus.classes, corpus.folds) == (20, ("dog", "rain"), ("1", "2", "3", "4", "5"))
    assert {Path(clip.path).stem.split("_")[0] for clip in corpus.clips if clip.labels == (1,)} == {"rain"}
    named = [word for word in small(laid / "run", *SHORT) if not word.startswith(("data.options", "data.clip"))]
    overrides = [*named, *words, "pretrain.batch_size=8", "finetune.batch_size=8"]
    run(resolve(overrides), overrides)
    assert vcrast.load(laid / "run").labels == ("dog", "rain")


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def losses_of(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["stage"] == "pretrain" and "loss" in line]


@pytest.mark.parametrize("words", [["attention=mean"], ["linear=low_rank", "linear.rank=4"]])
def test_the_part_goes_through_a_whole_run(laid, words):
    model = run_here(laid, *words)
    assert model.embed(np.zeros(16000, dtype=np.float32)).isfinite().all()
    kinds = {type(part).__name__ for part in model.encoder.modules()}
    assert ("MeanAttention" in kinds, "LowRank" in kinds) == ("attention=mean" in words, "linear=low_rank" in words)


def without_projector(folder, *words):
    return [word for word in small(folder, *SHORT, *words) if not word.startswith("objective.projector_dims")]


LATENT = ("objective=latent", "views.patch_drop=0", "stages=[pretrain,evaluate]")


def run_latent(folder, *words):
    overrides = without_projector(folder, *LATENT, *words)
    run(resolve(overrides), overrides)
    return folder


def test_the_objective_and_the_evaluation_are_shown_unasked(laid, capsys):
    folder = run_latent(laid / "run", "evaluation=[linear_probe,knn,centroid]")
    fold = summary_of(folder)["folds"]["1"]
    assert fold["pretrain"]["hidden_error"] > 0
    assert 0 <= fold["evaluate"]["centroid_accuracy"] <= 1
    report = (folder / "report.html").read_text()
    assert "Error of hidden patches" in report
    assert "Accuracy, nearest class mean" in report
    assert main(["compare", str(folder)]) == 0
    assert "centroid" in capsys.readouterr().out
    cut = run_latent(laid / "cut", "pretrain.micro_batch_size=5", "stages=[pretrain]")
    assert losses_of(cut) == pytest.approx(losses_of(folder), rel=1e-4)


def fail_at_the_third():
    """An update of the teacher that ends the run in its third step."""
    calls = itertools.count(1)

    follow = Teacher.follow

    def stumble(*args):
        if next(calls) == 3:
            raise InterruptedError
        follow(*args)

    return stumble


def test_the_objective_resumes(laid, monkeypatch):
    words = ("stages=[pretrain]", "pretrain.steps=4", "checkpoint.every_steps=1")
    whole = run_latent(laid / "whole", *words)
    with monkeypatch.context() as stopping:
        stopping.setattr(Teacher, "follow", fail_at_the_third())
        with pytest.raises(InterruptedError):
            run_latent(laid / "stopped", *words)
    assert len(losses_of(laid / "stopped")) < 4
    run_latent(laid / "stopped", *words)
    assert weights_hash(laid / "stopped") == weights_hash(whole)


def test_the_backbone_and_what_it_refuses(laid):
    words = [word for word in small(laid / "run", *SHORT, "model=conv") if "num_heads" not in word]
    with pytest.raises(ValueError, match=r"^views\.patch_drop=0\.5: ConvEncoder cannot leave tokens out") as caught:
        run(resolve(words), words)
    assert str(caught.value) in TEXT
    words += ["views.patch_drop=0", "finetune.optim.layer_decay=0.5", f"run.dir={laid / 'conv'}"]
    run(resolve(words), words)
    model = vcrast.load(laid / "conv")
    assert type(model.encoder).__name__ == "ConvEncoder"
    assert model.embed(np.zeros(16000, dtype=np.float32)).isfinite().all()


def test_an_option_of_another_type_is_refused(laid):
    with pytest.raises(ValueError, match=r"linear\.rank='four': linear=low_rank expects int"):
        run_here(laid, "linear=low_rank", "linear.rank=four")


def test_the_launcher_calls_the_entry_point(laid):
    program = (laid / "launch" / "seeds.py").read_text()
    (laid / "seeds.py").write_text(program.replace("Path(__file__).resolve().parent.parent", f"Path({str(ROOT)!r})"))
    words = [sys.executable, "seeds.py", "demo", "--cfg", "job"]
    done = subprocess.run(words, cwd=laid, capture_output=True, text=True, check=True)
    shown = [yaml.safe_load(text) for text in done.stdout.split("recipe: demo\n")[1:]]
    assert [each["run"]["seed"] for each in shown] == [0, 1, 2]
    wrong = subprocess.run([*words[:2], "demmo"], cwd=laid, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "did you mean demo?" in wrong.stderr
