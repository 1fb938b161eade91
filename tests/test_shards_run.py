"""Train from shards: over HTTP, killed and resumed; other shards; a store that fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from small_run import metric_steps, small, weights_hash
from stores import NGINX, nginx

from vcrast.cli.main import main
from vcrast.config.resume import resolve
from vcrast.run import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """Two sets of shards: sounds in folds, and sounds with fixed splits, as LibriSpeech has."""
    folder = tmp_path_factory.mktemp("web")
    kinds = "data.options.classes=[siren,rain,dog_bark]"
    shard = ["--clips-per-shard", "8", "--workers", "0"]
    words = ["synthetic", "data.clip_duration_s=1.0", "data.options.num_clips=60", kinds]
    assert main(["data", "shard", *words, "--out", str(folder / "folds"), *shard]) == 0
    talk = tmp_path_factory.mktemp("talk")
    for split, count in (("train", 24), ("test", 6)):
        for number in range(count):
            place = talk / split / "ab"[number % 2] / f"{split}{number}.wav"
            place.parent.mkdir(parents=True, exist_ok=True)
            write_tone(place, (150 if split == "train" else 157) + 10 * number, 0.7 + 0.05 * (number % 10))
    assert main(["data", "shard", "folder", f"data.root={talk}", "--out", str(folder / "splits"), *shard]) == 0
    return folder


def write_tone(path, hz, seconds):
    time_s = np.arange(round(16000 * seconds)) / 16000
    sf.write(path, 0.4 * np.sin(2 * np.pi * hz * time_s + 3 * np.sin(2 * np.pi * 5 * time_s)), 16000)


def of_shards(folder, root, *more):
    """Overrides of a small run on shards."""
    words = [word for word in small(folder, *more) if not word.startswith("data.options.")]
    return ["data=shards", f"data.root={root}", "data.mixed_shards=3", "data.mean=-6", "data.std=4", *words]


def run_here(overrides):
    return run(resolve(overrides), overrides)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(line["stage"], line["step"]): line["loss"] for line in lines if "loss" in line}


def test_a_whole_run_from_shards_and_other_shards_are_refused(web, tmp_path):
    shutil.copytree(web / "folds", tmp_path / "shards")
    run_here(of_shards(tmp_path / "run", tmp_path / "shards", "data.num_workers=2"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["folds"]["1"]["evaluate"]["accuracy"] >= 0
    # The same clips from another place, read by one process: the same weights.
    run_here(of_shards(tmp_path / "again", web / "folds"))
    assert weights_hash(tmp_path / "again") == weights_hash(tmp_path / "run")

    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    manifest["shards"][2]["sha256"] = "0" * 64
    (tmp_path / "shards" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"other shards \(other bytes in: clips-000002.tar\)"):
        run_here(of_shards(tmp_path / "run", tmp_path / "shards"))
    more = ["data=synthetic", "data.options.num_clips=72", "data.options.classes=[siren,rain,dog_bark]"]
    out = ["--out", str(tmp_path / "more"), "--clips-per-shard", "8", "--workers", "0"]
    assert main(["data", "shard", "synthetic", "data.clip_duration_s=1.0", *more[1:], *out]) == 0
    with pytest.raises(ValueError, match=r"other shards \(new: clips-000008.tar; other bytes in: .*clips-000000.tar"):
        run_here(of_shards(tmp_path / "run", tmp_path / "more"))


def of_mixture(folder, url, *more, copies_gb=1.0):
    """Overrides of a pretraining on both sets; fewer gigabytes than a shard has keep one copy at a time."""
    words = [word for word in small(folder, "stages=[pretrain]", *more) if not word.startswith("data.options.")]
    words += [
        f"data.sources.{name}.{key}" for name in ("folds", "splits") for key in ("name=shards", f"root={url}/{name}")
    ]
    words += [f"data.copies_gb={copies_gb}", "data.fetch_attempts=2"]
    every = ["data.mixed_shards=3", "data.clip_duration_s=1.0", "data.mean=-6", "data.std=4", "pretrain.steps=60"]
    return [*words, "data=[folds,splits]", "data.weights=[2,1]", *every]


@pytest.fixture(scope="module")
def undisturbed(web, tmp_path_factory):
    """The run on the mixture, one copy at a time."""
    if NGINX is None:
        pytest.skip("needs nginx")
    folder = tmp_path_factory.mktemp("undisturbed")
    with nginx(web, folder / "nginx") as (url, log):
        run_here(of_mixture(folder / "run", url, copies_gb=1e-6))
        assert log.read_text().count("GET /folds/clips-") > 16, "copies that gave way are fetched again"
    return folder / "run"


def test_a_mixture_over_http_killed_twice_on_two_processes_ends_on_one_as_if_nothing_had_been(
    web, undisturbed, tmp_path
):
    killed = tmp_path / "killed"
    with nginx(web, tmp_path / "nginx") as (url, _):
        words = of_mixture(killed, url, "checkpoint.every_steps=4", "checkpoint.min_interval_s=0")
        for seen in (10, 30):
            program = [sys.executable, "launch/local.py", *words, "launch.num_processes=2", "data.num_workers=1"]
            job = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
            while not (killed / "metrics.jsonl").exists() or len(metric_steps(killed)) < seen:
                assert job.poll() is None, "it ended before it was killed"
                time.sleep(0.05)
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
        run_here(words)
    assert metric_steps(killed) == metric_steps(undisturbed)
    assert losses(killed) == pytest.approx(losses(undisturbed), rel=1e-5), "a loss depends on all clips of its batch"


def test_a_store_that_fails_stops_the_run_with_a_checkpoint_and_loses_nothing(web, undisturbed, tmp_path):
    folder = tmp_path / "run"
    with nginx(web, tmp_path / "nginx") as (url, _):
        port = int(url.rsplit(":", 1)[1])
        words = of_mixture(folder, url, copies_gb=1e-6)
        program = [sys.executable, "launch/local.py", *words]
        job = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while not (folder / "metrics.jsonl").exists() or len(metric_steps(folder)) < 3:
            assert job.poll() is None
            time.sleep(0.02)
    _, said = job.communicate(timeout=120)
    assert job.returncode
    assert "gave up after 2 attempts" in said
    assert "Traceback" not in said
    done = len(metric_steps(folder))
    assert 3 <= done < 60
    assert f"step {done}" in said or list(folder.rglob(f"*{done}*")), "the last step is saved"
    with nginx(web, tmp_path / "nginx", port=port):
        run_here(words)
    assert weights_hash(folder) == weights_hash(undisturbed)
