"""`launch.num_processes`: real processes, real signals, real kills."""

import contextlib
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_run import metric_steps, small, weights_hash

from launch.processes import OTHER_LAUNCHERS, PARENT, free_port, refuse_other_launchers, variables

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]  # one run is compared with all others
# Long enough to be hit in the middle, and saved every other step.
LONG = ("pretrain.steps=400", "finetune.steps=4", "checkpoint.every_steps=2", "checkpoint.min_interval_s=0")
KILLS = int(os.environ.get("VCRAST_LAUNCHER_KILLS", "1"))


def command(folder, *more):
    return [sys.executable, str(ROOT / "launch/local.py"), *small(folder, *more)]


def start(folder, *more, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen(command(folder, *more), **pipes)


def run(folder, *more):
    process = start(folder, *more)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([line["loss"] for line in lines if "loss" in line], dtype=torch.float64)


def weights(folder):
    return {
        (path.parent.name, name): value
        for path in sorted((folder / "exported").rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def wait_for_step(folder, step, process, timeout_s=240):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if (folder / "metrics.jsonl").is_file() and len(metric_steps(folder)) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached")


def children(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return sorted(found)


def of_test(folder):
    """All processes that were started with VCRAST_OF_TEST=FOLDER, and theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"VCRAST_OF_TEST={folder}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def gone(pids, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes") / "one"
    code, _, err = run(folder)
    assert code == 0, err
    return folder


@pytest.fixture(scope="module")
def two(alone):
    """Two processes that nobody disturbs, and how long they take in seconds."""
    folder, began = alone.parent / "two", time.monotonic()
    code, _, err = run(folder, "launch.num_processes=2", *LONG[1:])
    assert code == 0, err
    return folder, time.monotonic() - began


@pytest.mark.parametrize("number", [2, 4])
def test_any_number_of_processes_gives_the_curve_of_one(alone, number, monkeypatch):
    folder = alone.parent / f"of_{number}"
    if number == 2:  # as Kubeflow starts a single process
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "1")
    code, out, err = run(folder, f"launch.num_processes={number}")
    assert code == 0, err
    assert out.count("report:") == 1  # one process speaks
    assert metric_steps(folder) == metric_steps(alone)
    torch.testing.assert_close(losses(folder), losses(alone), rtol=1e-3, atol=0)
    one, other = weights(alone), weights(folder)
    assert one.keys() == other.keys()
    difference = sum((one[key] - other[key]).square().sum() for key in one).sqrt()
    assert difference < 0.01 * sum(value.square().sum() for value in one.values()).sqrt()
    summaries = [json.loads((path / "summary.json").read_text())["mean"]["evaluate"] for path in (alone, folder)]
    assert summaries[0]["num_test_clips"] == summaries[1]["num_test_clips"] == 12
    assert sorted(path.name for path in (folder / "logs").iterdir()) == [f"rank_{n}.log" for n in range(1, number)]


def test_a_run_stopped_on_four_goes_on_with_two(alone):
    folder = alone.parent / "four_then_two"
    process = start(folder, "launch.num_processes=4", "pretrain.steps=12", *LONG[1:])
    wait_for_step(folder, 3, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, err
    assert "everything is saved" in out
    assert out.count("run.resume=") == 1
    code, _, err = run(folder, "launch.num_processes=2", *LONG[1:])
    assert code == 0, err
    steps = [step for _, stage, step in metric_steps(folder) if stage == "pretrain"]
    assert steps == list(range(1, 13))
    torch.testing.assert_close(losses(folder)[:12], losses(alone)[:12], rtol=1e-3, atol=0)


def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(two):
    undisturbed, _ = two
    folder = undisturbed.with_name("two_stopped")
    process = start(folder, "launch.num_processes=2", *LONG[1:])
    wait_for_step(folder, 5, process)
    for pid in children(process.pid)[1:]:  # a scheduler may warn any of the processes
        os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, err
    code, _, err = run(folder, "launch.num_processes=2", *LONG[1:])
    assert code == 0, err
    assert weights_hash(folder) == weights_hash(undisturbed)
    assert metric_steps(folder) == metric_steps(undisturbed)


def test_a_killed_process_ends_the_run_which_says_so_and_goes_on_later(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, "launch.num_processes=2", *LONG)
    wait_for_step(folder, 5, process)
    pids = children(process.pid)
    os.kill(pids[1], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGKILL
    said = "process 1 of 2 was ended by SIGKILL, perhaps for lack of memory"
    assert said in err
    log = (folder / "train.log").read_text()
    assert f"local.py: {said}" in log
    assert "process 0 of 2: rank 0: another process is gone" in log
    assert "rank 0: another process is gone" in err
    assert "Traceback" not in err
    assert gone(pids)
    code, _, err = run(folder, "launch.num_processes=2", "pretrain.steps=400", *LONG[1:])
    assert code == 0, err
    assert [step for _, stage, step in metric_steps(folder) if stage == "pretrain"] == list(range(1, 401))


def test_launchers_killed_at_any_moment_leave_no_process_and_the_run_ends_the_same(two, tmp_path, monkeypatch):
    """VCRAST_LAUNCHER_KILLS=20 is the campaign of docs/results.md; one kill, while it trains, by default."""
    undisturbed, life_s = two
    chance, killed, finished = random.Random(0), 0, 0
    while killed < KILLS or not finished:
        folder = tmp_path / f"run_{finished}"
        monkeypatch.setenv("VCRAST_OF_TEST", str(tmp_path))
        process = start(folder, "launch.num_processes=2", "data.num_workers=1", *LONG[1:])
        monkeypatch.delenv("VCRAST_OF_TEST")
        if killed < KILLS:
            if KILLS == 1:
                wait_for_step(folder, 3, process)
            else:
                time.sleep(chance.uniform(0, 1.2 * life_s))
        if killed < KILLS and process.poll() is None:
            process.kill()
            process.wait()
            assert gone(of_test(tmp_path), timeout_s=30)
            process.communicate()
            assert not (folder / "run.lock").exists()  # they left in order
            killed += 1
            continue
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert gone(of_test(tmp_path), timeout_s=30)
        assert weights_hash(folder) == weights_hash(undisturbed)
        assert metric_steps(folder) == metric_steps(undisturbed)
        finished += 1
    print(f"{killed} kills, {finished} runs finished, equal to the undisturbed one")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.folds=[9]", "9"),
        ("pretrain.batch_size=15", "pretrain.batch_size=15: 2 processes cannot share it evenly"),
        ("model.deph=3", "depth"),
    ],
)
def test_a_mistake_is_said_once(tmp_path, override, message):
    code, _, err = run(tmp_path / "run", "launch.num_processes=2", override)
    assert code == 2
    assert err.count("error:") == 1
    assert message in err
    assert "Traceback" not in err


def test_torchrun_restarts_a_run_that_ends_with_the_same_weights(two, tmp_path):
    undisturbed, _ = two
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    process = subprocess.Popen(
        [*torchrun, *command(tmp_path / "run", *LONG[1:])[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_step(tmp_path / "run", 3, process)
    os.kill(children(process.pid)[0], signal.SIGKILL)  # rank 0, which holds the lock
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert weights_hash(tmp_path / "run") == weights_hash(undisturbed)
    assert metric_steps(tmp_path / "run") == metric_steps(undisturbed)


def test_a_lost_terminal_saves_and_stops(tmp_path):
    folder = tmp_path / "run"
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        command(folder, "launch.num_processes=2", *LONG), stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    read = threading.Thread(target=lambda: wait_for_step(folder, 3, process))
    read.start()
    os.set_blocking(ours, False)
    while read.is_alive():
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 65536)
        time.sleep(0.05)
    os.close(ours)  # the kernel sends SIGHUP, and whatever is written from now on fails
    assert process.wait(120) == 128 + signal.SIGHUP
    assert list((folder / "checkpoints").rglob("step_*.pt"))
    assert not (folder / "run.lock").exists()


@pytest.mark.parametrize(
    ("environment", "words", "said"),
    [
        ({}, ["launch.num_processes=2"], None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, ["launch.num_processes=2"], None),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, ["launch.num_processes=2"], None),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, ["launch.num_processes=3"], "started 4 processes"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, [], "srun has started 2 processes"),
        ({"SLURM_STEP_NUM_TASKS": "2", "RANK": "0", "WORLD_SIZE": "2"}, [], None),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "2"}, [], None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, [], "mpirun has started 2 processes"),
        ({"PMI_SIZE": "3", "RANK": "0", "WORLD_SIZE": "1"}, [], "mpirun has started 3 processes"),
        ({"TORCHELASTIC_MAX_RESTARTS": "3", "RANK": "0", "WORLD_SIZE": "2"}, [], "name that, run.dir=DIR"),
        ({"TORCHELASTIC_MAX_RESTARTS": "3", "RANK": "0", "WORLD_SIZE": "2"}, ["run.dir=x"], None),
    ],
)
def test_who_decides_on_the_number_of_processes(monkeypatch, environment, words, said):
    names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", PARENT, "TORCHELASTIC_MAX_RESTARTS", *OTHER_LAUNCHERS)
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said) if said else contextlib.nullcontext():
        refuse_other_launchers(words)


def test_variables_are_torchruns_and_cores_are_shared(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    given = variables(1, 2, "1234")
    assert (given["RANK"], given["LOCAL_RANK"], given["WORLD_SIZE"], given["LOCAL_WORLD_SIZE"]) == ("1", "1", "2", "2")
    assert (given["MASTER_ADDR"], given["MASTER_PORT"]) == ("127.0.0.1", "1234")
    assert 1 <= int(given["OMP_NUM_THREADS"]) <= max(1, os.cpu_count() // 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert "OMP_NUM_THREADS" not in variables(0, 2, "1")
    assert free_port() != free_port()
