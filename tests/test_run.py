"""Run a whole job on synthetic sounds: files, stopping, resuming, refusals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_run import metric_steps, small, weights_hash

from vcrast.cli.start import start
from vcrast.config.resume import resolve
from vcrast.run import run
from vcrast.runs.compare import compare
from vcrast.training.schedule import Cosine

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


def run_here(folder, *more):
    overrides = small(folder, *more)
    return run(resolve(overrides), overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "finished"
    run_here(folder)
    return folder


def test_a_run_folder_answers_every_question(finished):
    files = ("config.yaml", "overrides.txt", "env.json", "train.log", "metrics.jsonl", "summary.json", "report.html")
    for name in files:
        assert (finished / name).stat().st_size > 0, name
    summary = json.loads((finished / "summary.json").read_text())
    fold = summary["folds"]["1"]
    for key in ("steps", "loss", "invariance", "variance", "covariance", "samples_per_s", "peak_memory_bytes",
                "embedding_std", "effective_rank", "wall_s"):  # fmt: skip
        assert fold["pretrain"][key] > 0, key
    for key in (
        "accuracy", "mAP", "auc", "d_prime", "knn_accuracy", "probe_accuracy",
        "untrained_knn_accuracy", "untrained_probe_accuracy",
    ):  # fmt: skip
        assert key in fold["evaluate"], key
    assert summary["mean"]["evaluate"]["accuracy"] == fold["evaluate"]["accuracy"]
    assert (finished / "figures").is_dir()
    assert len(list((finished / "figures").glob("*.png"))) >= 4
    assert "<h2>What attention looks at</h2>" in (finished / "report.html").read_text()


def test_every_step_is_logged_once_and_in_order(finished):
    expected = [("1", "pretrain", step) for step in range(1, 13)] + [("1", "finetune", step) for step in range(1, 10)]
    assert metric_steps(finished) == expected


def test_the_loss_is_the_weighted_sum_of_its_logged_terms(finished):
    for line in map(json.loads, (finished / "metrics.jsonl").read_text().splitlines()):
        if line["stage"] == "pretrain" and "loss" in line:
            parts = 25 * line["invariance"] + 25 * line["variance"] + line["covariance"]
            assert line["loss"] == pytest.approx(parts, rel=1e-4)


def test_a_finished_run_does_nothing_again(finished):
    before = weights_hash(finished)
    run_here(finished)
    assert weights_hash(finished) == before


def test_the_same_settings_give_the_same_weights_and_micro_batches_do_not_matter(finished, tmp_path):
    run_here(tmp_path / "again")
    assert weights_hash(tmp_path / "again") == weights_hash(finished)
    run_here(tmp_path / "micro", "pretrain.micro_batch_size=5", "stages=[pretrain]")
    assert pretrain_losses(tmp_path / "micro") == pytest.approx(pretrain_losses(finished), rel=1e-4)


def pretrain_losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "invariance" in line]


def test_another_seed_gives_other_weights(finished, tmp_path):
    run_here(tmp_path / "seed", "run.seed=1")
    assert weights_hash(tmp_path / "seed") != weights_hash(finished)


def test_from_scratch_is_one_override_away(tmp_path):
    words = [word for word in small(tmp_path / "scratch") if not word.startswith("objective.")]
    words.append("stages=[finetune,evaluate]")
    run(resolve(words), words)
    fold = json.loads((tmp_path / "scratch" / "summary.json").read_text())["folds"]["1"]
    assert set(fold) == {"finetune", "evaluate"}
    assert "from scratch" in (tmp_path / "scratch" / "train.log").read_text()


def test_folds_are_averaged_and_each_pretrains_without_its_test_clips(tmp_path):
    run_here(tmp_path / "folds", "data.folds=[1,2]", "pretrain.steps=2", "finetune.steps=2")
    summary = json.loads((tmp_path / "folds" / "summary.json").read_text())
    values = [summary["folds"][fold]["evaluate"]["knn_accuracy"] for fold in ("1", "2")]
    assert summary["mean"]["evaluate"]["knn_accuracy"] == pytest.approx(sum(values) / 2)
    assert summary["std"]["evaluate"]["knn_accuracy"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)


def test_what_only_pretraining_reads_is_refused_without_it(finished, tmp_path):
    words = ["recipe=demo", f"run.dir={tmp_path}/run", "stages=[finetune,evaluate]"]
    for word, said in (
        ("optim=lars", "finetuning has finetune.optim=lars"),
        ("optim.lr=0.1", "finetuning has finetune.optim.lr=0.1"),
        ("schedule=plateau", "finetuning has finetune.schedule=plateau"),
        ("views.roll=false", "finetuning has finetune.views.roll=false"),
        ("objective.projector_dims=[8,8]", "leave it out"),
        ("source=synth", "leave it out"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(word)}: only pretraining reads it.*{re.escape(said)}$"):
            resolve([*words, word])
        assert resolve(["recipe=demo", word])  # pretraining is on by default
    assert resolve([*words, "finetune.optim=lars", "finetune.views.roll=false"])
    assert (
        resolve(["recipe=synth", "stages=[evaluate]", "data=synthetic"]).source["name"] == "synth"
    )  # the recipe's own
    # A run that has pretrained goes on with its own words.
    again = [word for word in small(finished) if not word.startswith("stages")]
    assert resolve([*again, "stages=[finetune,evaluate]"])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_and_says_how_to_go_on(finished, tmp_path, name):
    folder = tmp_path / "stopped"
    program = [sys.executable, "launch/local.py", "demo", *small(folder)[1:]]
    process = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").is_file() or (folder / "metrics.jsonl").read_text().count("\n") < 3:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(getattr(signal, name))
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + getattr(signal, name), said
    assert f"run.resume={folder}" in said
    assert "Traceback" not in said
    again = [sys.executable, "launch/local.py", f"run.resume={folder}"]
    done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert weights_hash(folder) == weights_hash(finished)
    assert metric_steps(folder) == metric_steps(finished)


def test_a_second_run_in_the_same_folder_is_refused(finished, tmp_path):
    folder = tmp_path / "busy"
    program = [sys.executable, "launch/local.py", "demo", *small(folder, "pretrain.steps=2000")[1:]]
    first = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "metrics.jsonl").is_file():
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert str(first.pid) in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        first.kill()
        first.wait()


def test_kill_9_at_any_moment_loses_nothing(finished, tmp_path):
    """30 kills at random moments; the run that is resumed each time ends with the weights of the undisturbed one."""
    folder = tmp_path / "killed"
    words = small(folder, "checkpoint.every_steps=2")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "kill_often.py"), "30", *words],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "killed 30 times" in done.stdout
    assert weights_hash(folder) == weights_hash(finished)
    assert metric_steps(folder) == metric_steps(finished)


@pytest.mark.timeout(7200)
def test_kill_9_of_a_run_with_workers_leaves_no_process_and_loses_nothing(finished, tmp_path):
    """Reading from files and building the cache; $VCRAST_KILLS is how often."""
    folder, kills = tmp_path / "killed", os.environ.get("VCRAST_KILLS", "1")
    longer = [f"pretrain.steps={80 * int(kills)}", "data.num_workers=2", "data.options.num_clips=600"]
    words = small(folder, "checkpoint.every_steps=1", *longer)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "kill_working.py"), kills, str(tmp_path / "cache"), *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert f"killed {kills} times" in done.stdout
    print(done.stdout)
    undisturbed = tmp_path / "undisturbed"
    run_here(undisturbed, *longer)
    assert weights_hash(folder) == weights_hash(undisturbed)
    assert metric_steps(folder) == metric_steps(undisturbed)


def test_a_signal_ends_the_building_of_the_cache_and_the_next_start_goes_on(tmp_path):
    folder, cache = tmp_path / "stopped", tmp_path / "cache"
    words = small(folder, "data.options.num_clips=800", "stages=[pretrain]")
    process = subprocess.Popen(
        [sys.executable, "launch/local.py", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size > 20_000 for path in cache.glob(".*.part")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "stopped by SIGTERM while the data was prepared; everything is saved" in said
    assert "Traceback" not in said
    assert "going on after" not in (folder / "train.log").read_text()
    again = [f"run.resume={folder}"]
    run(resolve(again), again)
    assert re.search(r"decoding 800 clips into .*, going on after \d+", (folder / "train.log").read_text())


def test_a_damaged_checkpoint_is_passed_over(finished, tmp_path):
    folder = tmp_path / "damaged"
    words = small(folder, "checkpoint.every_steps=2", "stages=[pretrain]")
    stop_after_lines(folder, words, 9)
    newest = sorted((folder / "checkpoints/fold_1/pretrain").glob("step_*"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(bytes(content))
    assert start(words) == 0
    assert f"{newest}: damaged" in (folder / "train.log").read_text()
    assert metric_steps(folder) == [step for step in metric_steps(finished) if step[1] == "pretrain"]


def stop_after_lines(folder, words, lines):
    """Run in this process and send SIGINT once metrics.jsonl has so many lines."""
    path = folder / "metrics.jsonl"
    stop_when(lambda: path.is_file() and path.read_text().count("\n") >= lines, words)


def stop_when(reached, words):
    """Run in this process and send SIGINT once `reached` says so."""

    def watch():
        while not reached():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    assert start(words) == 130
    thread.join()


def test_a_batch_larger_than_the_training_set_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"finetune\.batch_size=500: fold 1 has only 48 training clips"):
        run_here(tmp_path / "large", "finetune.batch_size=500")
    assert not (tmp_path / "large" / "checkpoints").exists()


def test_a_fold_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"9.*1, 2, 3, 4, 5"):
        run_here(tmp_path / "fold", "data.folds=[9]")


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    """A limit on file size stands for the full disk: writing past it fails as a full disk does."""
    folder = tmp_path / "full"
    limited = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += "limit = int(sys.argv[1]); sys.argv = sys.argv[2:]; "
    limited += "import vcrast.run; resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); "
    limited += "from launch.local import main; sys.exit(main())"
    words = small(folder, "checkpoint.every_steps=2")
    run_here(folder, "checkpoint.every_steps=2", "stages=[pretrain]", "pretrain.steps=12")
    kept = sorted((folder / "checkpoints/fold_1/pretrain").glob("step_*"))[-1]
    done = subprocess.run(
        [sys.executable, "-c", limited, "100000", "launch/local.py", "demo", *words[1:]],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "bytes" in done.stderr
    assert kept.is_file()
    assert start(words) == 0


def test_dry_run_writes_nothing_and_names_the_cost(tmp_path, capsys, caplog):
    assert start(small(tmp_path / "dry"), dry_run=True) == 0
    said = capsys.readouterr().out
    assert "pretrain: 12 steps of batch 16 on 48 clips" in said
    assert "finetune: 9 steps" in said
    assert re.search(r"about [\d.]+ s a fold, peak memory [\d.]+ [MG]iB", said), said
    assert not (tmp_path / "dry").exists()
    assert "warm-up" not in caplog.text  # of two steps it would say nothing


def test_dry_run_warns_of_a_run_that_would_end_within_its_warm_up_and_adds_up_folds(tmp_path, capsys, caplog):
    assert start(small(tmp_path / "dry", "pretrain.steps=5", "data.folds=all"), dry_run=True) == 0
    assert "the run of 5 steps ends within the warm-up of 9" in caplog.text
    assert caplog.text.count("warm-up of") == 1
    assert re.search(r"a fold \([\d.]+ .* in all\)", capsys.readouterr().out)


def losses_of(folder, stage):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"], line["lr"]) for line in lines if line["stage"] == stage and "loss" in line]


def test_a_finished_run_goes_on_to_more_steps_and_does_again_what_follows(finished, tmp_path, monkeypatch):
    folder, words = tmp_path / "longer", ("schedule.warmup_epochs=3", "pretrain.steps=24")
    shutil.copytree(finished, folder)
    stop_when(lambda: '"step": 14' in (folder / "metrics.jsonl").read_text(), small(folder, *words))
    assert [step for _, stage, step in metric_steps(folder) if stage == "finetune"] == []  # no longer of this encoder
    assert not (folder / "exported/fold_1/finetuned").exists()
    run_here(folder, *words)
    assert [step for step, *_ in losses_of(folder, "pretrain")] == list(range(1, 25))
    assert losses_of(folder, "pretrain")[:12] == losses_of(finished, "pretrain")
    schedule = Cosine(lr=5e-4, total_steps=24, steps_per_epoch=3, warmup_epochs=3, final_lr_ratio=1e-3)
    assert [lr for *_, lr in losses_of(folder, "pretrain")[12:]] == [schedule.lr(step) for step in range(12, 24)]
    assert [step for step, *_ in losses_of(folder, "finetune")] == list(range(1, 10))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["folds"]["1"]["pretrain"]["steps"] == summary["mean"]["pretrain"]["steps"] == 24
    [said] = [text for text in summary["warnings"] if text.startswith("pretrain: 12 -> 24 steps: goes on from step 12")]
    assert "not the run of 24 steps begun anew" in said
    assert said in (folder / "report.html").read_text().replace("&gt;", ">")
    names = [variant.label for variant in compare([finished, folder], ["pretrain.loss"]).variants]
    assert names == ["pretrain.steps=12", "pretrain.steps=24"]
    # The result of the shorter run is kept, and what goes on undisturbed ends the same.
    assert weights_hash(folder / "earlier" / "1") == weights_hash(finished)
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)  # takes longer than the runs
    shutil.copytree(finished, tmp_path / "calm")
    run_here(tmp_path / "calm", *words)
    assert weights_hash(tmp_path / "calm" / "exported") == weights_hash(folder / "exported")


def test_going_on_is_refused_in_one_line_where_it_is_not_well_defined(finished):
    before = (finished / "config.yaml").read_text(), weights_hash(finished)
    for word, said in (
        ("run.seed=1", r"other settings \(run\.seed: 0 -> 1\)"),
        ("pretrain.steps=6", r"pretrain\.steps=6: fold 1 has done 12 steps"),
        ("finetune.batch_size=8", r"finetune\.batch_size: 16 -> 8.*model\.checkpoint="),
        ("data.options.num_clips=70", r"other settings \(data\.options\.num_clips: 60 -> 70\)"),
    ):
        with pytest.raises(ValueError, match=said):
            run_here(finished, word)
    assert ((finished / "config.yaml").read_text(), weights_hash(finished)) == before


def test_numbers_from_scratch_are_not_those_of_a_run_that_pretrains_later(tmp_path, monkeypatch):
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)
    folder = tmp_path / "run"
    run_here(folder, "stages=[finetune,evaluate]", "finetune.steps=3")
    scratch = losses_of(folder, "finetune")
    run_here(folder, "pretrain.steps=2", "finetune.steps=3", "objective.projector_dims=[32,32,32]")
    assert losses_of(folder, "finetune") != scratch
    assert [step for step, *_ in losses_of(folder, "finetune")] == [1, 2, 3]
    assert "finetune is done again: it now starts from this run's pretrain" in (folder / "train.log").read_text()


def test_a_dry_run_says_what_going_on_would_do(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    before = weights_hash(tmp_path / "run"), metric_steps(tmp_path / "run")
    assert start([f"run.resume={tmp_path / 'run'}", "finetune.steps=18"], dry_run=True) == 0
    said = capsys.readouterr().out
    assert "note: finetune: 9 -> 18 steps: goes on from step 9; the cosine schedule is" in said
    assert "note: evaluate is done again: finetune changed (fold 1)" in said
    assert (weights_hash(tmp_path / "run"), metric_steps(tmp_path / "run")) == before
