"""Run sweeps: in turn, past one failure, resumed after a stop."""

import json
import signal
import subprocess
import sys
import time

import pytest
from small_run import SMALL, small, weights_hash
from test_run import ROOT, run_here

from launch import local_sweep
from launch.arguments import Program, parse
from launch.local import main

pytestmark = pytest.mark.slow

WORDS = ["demo", *SMALL[1:]]
LOCAL = Program.of_script("launch/local.py")


@pytest.fixture
def started(monkeypatch):
    """Stands in for the processes: what they were given, and the exit codes they are to end with (0 when used up)."""

    class Started(list):
        codes: list[int]

    runs = Started()
    runs.codes = []

    def launch(program, num_processes, words, run_dir=None):
        assert program == LOCAL
        runs.append((num_processes, words))
        return runs.codes.pop(0) if runs.codes else 0

    monkeypatch.setattr(local_sweep, "launch", launch)
    return runs


def sweep(folder, *words):
    return local_sweep.start(parse(["demo", f"run.dir={folder}", "-m", *words]), LOCAL)


def seeds(runs):
    return [word for _, words in runs for word in words if word.startswith("run.seed=")]


def exit_codes(folder):
    return [run["exit_code"] for run in json.loads((folder / "sweep.json").read_text())]


def test_every_run_has_its_own_folder_settings_and_processes(tmp_path, started):
    assert sweep(tmp_path / "s", "run.seed=0,1", "launch.num_processes=2") == 0
    assert [number for number, _ in started] == [2, 2]
    for seed, (_, words) in enumerate(started):
        assert f"run.seed={seed}" in words
        assert words[-2:] == [f"run.dir='{tmp_path / 's' / f'{seed}_seed-{seed}'}'", "run.resume=auto"]


def test_a_failed_run_is_told_and_tried_again_alone(tmp_path, started, capsys):
    started.codes = [0, 2, 0]
    assert sweep(tmp_path / "s", "run.seed=0,1,2") == 1
    assert exit_codes(tmp_path / "s") == [0, 2, 0]
    said = capsys.readouterr().out
    assert f"failed (exit code 2): run.seed=1  {tmp_path / 's' / '1_seed-1'}" in said
    assert f"vcrast compare {tmp_path / 's'}" in said
    del started[:]
    assert local_sweep.go_on(tmp_path / "s", LOCAL, ["finetune.optim.lr=1e-4"]) == 0
    assert seeds(started) == ["run.seed=1"]
    assert started[0][1][-1] == "finetune.optim.lr=1e-4"
    assert exit_codes(tmp_path / "s") == [0, 0, 0]


@pytest.mark.parametrize("number", local_sweep.FORWARDED)
def test_a_signal_ends_the_sweep_with_the_run_that_it_stopped(tmp_path, started, capsys, number):
    started.codes = [0, 128 + number]
    assert sweep(tmp_path / "s", "run.seed=0,1,2") == 128 + number
    assert seeds(started) == ["run.seed=0", "run.seed=1"]
    assert f"run.resume={tmp_path / 's'}" in capsys.readouterr().out
    assert local_sweep.go_on(tmp_path / "s", LOCAL) == 0
    assert seeds(started) == ["run.seed=0", "run.seed=1", "run.seed=1", "run.seed=2"]


def test_a_run_that_was_killed_is_a_failed_one(tmp_path, started):
    started.codes = [128 + signal.SIGKILL]
    assert sweep(tmp_path / "s", "run.seed=0,1") == 1
    assert exit_codes(tmp_path / "s") == [137, 0]


def test_dry_run_checks_every_run_and_leaves_nothing(tmp_path, started, capsys):
    started.codes = [0, 2]
    arguments = parse(["demo", f"run.dir={tmp_path / 's'}", "-m", "run.seed=0,1,2", "--dry-run"])
    assert local_sweep.start(arguments, LOCAL) == 1
    assert len(started) == 3
    assert all(words[-1] == "--dry-run" for _, words in started)
    assert not (tmp_path / "s").exists()
    assert "run 3 of 3: run.seed=2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "run.seed=0"], "no key has several values"),
        (["-m", "run.seed=0,1", "model=tiny,huge"], "huge"),
        (["-m", "run.seed=0,1", "pretrain.batch=8"], "pretrain.batch"),
        (["run.seed=0,1"], "are a sweep: add -m"),
        (["-m", "run.resume=runs/x", "run.seed=0,1"], "leave -m out"),
    ],
)
def test_a_mistake_in_any_run_is_told_before_the_first_one_starts(tmp_path, capsys, words, said):
    assert main(["demo", f"run.dir={tmp_path / 's'}", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("local.py: error: ")
    assert said in error
    assert not (tmp_path / "s").exists()


def test_a_folder_is_not_used_twice(tmp_path, started, capsys):
    assert sweep(tmp_path / "s", "run.seed=0,1") == 0
    with pytest.raises(ValueError, match=r"sweep\.json is there already; go on with run\.resume="):
        sweep(tmp_path / "s", "run.seed=2,3")


def test_torchrun_cannot_sweep(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    assert main(["demo", "-m", "run.seed=0,1"]) == 2
    assert "leave torchrun out" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_stopped_by_ctrl_c_goes_on_to_the_weights_of_a_single_run(tmp_path):
    folder = tmp_path / "s"
    words = [*small(folder, "stages=[pretrain]", "pretrain.steps=6", "run.seed=0,1")[1:], "-m"]
    program = [sys.executable, "launch/local.py", "demo", *words]
    process = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = folder / "0_seed-0" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.is_file() or metrics.read_text().count("\n") < 3:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130, said
    assert f"sweep stopped by SIGINT in run 1 of 2. Go on with:\n  python launch/local.py run.resume={folder}\n" in said
    again = [sys.executable, "launch/local.py", f"run.resume={folder}"]
    done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert exit_codes(folder) == [0, 0]
    assert (folder / "1_seed-1" / "report.html").is_file()
    run_here(tmp_path / "alone", "stages=[pretrain]", "pretrain.steps=6", "run.seed=0")
    assert weights_hash(folder / "0_seed-0") == weights_hash(tmp_path / "alone")
