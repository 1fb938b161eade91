"""Send a scheduler's signals to a run and its data workers."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_loader import dataset

from vcrast.data import audio, loader, processes
from vcrast.data.clip import Clip
from vcrast.data.loader import training_batches

pytestmark = pytest.mark.slow


def generated(path, rate):
    time.sleep(0.02)
    return np.full(160, 0.5, np.float32)


def test_workers_outlive_the_signals_of_a_preempted_job(monkeypatch):
    # Slurm signals every process of a job: the workers, and the server that they were forked from.
    monkeypatch.setitem(audio.READERS, "generated", generated)
    data = dataset([Clip(f"generated://{i}", (0,)) for i in range(40)])
    batches = training_batches(
        data, batch_size=2, seed=0, start_step=0, num_steps=60, num_workers=2, device="cpu"
    )  # fmt: skip
    next(batches)
    descendants = children(os.getpid())
    assert len(descendants) >= 3
    for pid in descendants:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
            os.kill(pid, number)
    assert sum(1 for _ in batches) == 59


def test_signals_end_no_worker_while_it_starts(monkeypatch):
    # Before its first own line runs, libraries have set handlers: the signals must already be blocked by then.
    monkeypatch.setitem(audio.READERS, "generated", generated)
    data = dataset([Clip(f"generated://{i}", (0,)) for i in range(40)])
    options = {"batch_size": 2, "seed": 0, "start_step": 0, "num_steps": 60, "num_workers": 2, "device": "cpu"}
    list(training_batches(data, **options))  # the fork server is up
    ended, done, known = [], threading.Event(), set(children(os.getpid()))

    def signal_newcomers():
        while not done.is_set():
            for pid in set(children(os.getpid())) - known:
                for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                ended.append(pid)

    sender = threading.Thread(target=signal_newcomers)
    sender.start()
    try:
        assert len(list(training_batches(data, **options))) == 60
    finally:
        done.set()
        sender.join()
    assert len(set(ended)) == 2


HANGING = """
import os, signal
from test_worker_signals import Clip, audio, dataset, generated, training_batches
import multiprocessing

if __name__ == "__main__":
    audio.READERS["generated"] = generated
    data = dataset([Clip(f"generated://{i}", (0,)) for i in range(40)])
    batches = training_batches(
        data, batch_size=2, seed=0, start_step=0, num_steps=60, num_workers=2, device="cpu"
    )
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    if AFTER == "killed":
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        for _ in batches:
            pass
    raise SystemExit(7)  # `batches` is still there, and its workers wait for work
"""


@pytest.mark.parametrize("after", ["killed", "left"])
def test_a_program_ends_though_its_workers_ignore_signals(tmp_path, after):
    script = tmp_path / "program.py"
    script.write_text(f"AFTER = {after!r}\n{HANGING}")
    path = os.pathsep.join([*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert ran.returncode == (1 if after == "killed" else 7), ran.stderr
    assert ("a data worker was killed" in ran.stderr) == (after == "killed")
    workers = [int(word) for word in ran.stdout.split()]
    assert len(workers) == 2
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


ORPHANS = """
import sys, time
from test_worker_signals import Clip, audio, dataset, generated, training_batches
from vcrast.data.cache import open_or_build

def slow(path, rate):
    time.sleep(0.5)
    return generated(path, rate)

if __name__ == "__main__":
    audio.READERS["generated"] = slow
    clips = [Clip(f"generated://{i}", (0,)) for i in range(400)]
    print("begun", flush=True)
    if sys.argv[1] == "reading":
        for _ in training_batches(
            dataset(clips), batch_size=2, seed=0, start_step=0, num_steps=600, num_workers=2, device="cpu"
        ):
            print("batch", flush=True)
    else:
        open_or_build(clips, sample_rate=16000, cache_dir=sys.argv[2], num_workers=2, max_bad_fraction=0.0)
"""


@pytest.mark.parametrize("work", ["reading", "building"])
def test_no_process_outlives_a_killed_run(tmp_path, work):
    script = tmp_path / "program.py"
    script.write_text(ORPHANS)
    path = os.pathsep.join([*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, str(script), work, str(tmp_path / "cache")], env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        deadline = time.monotonic() + 60
        while len(descendants := children(run.pid)) < 3:  # the fork server and two workers
            assert time.monotonic() < deadline
            time.sleep(0.1)
        run.kill()
    deadline = time.monotonic() + 30
    while alive := [pid for pid in descendants if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


LONG = """
import sys
from test_worker_signals import Clip, audio, dataset, generated, training_batches
from vcrast.data.cache import open_or_build

if __name__ == "__main__":
    audio.READERS["generated"] = generated
    clips = [Clip(f"generated://{i}", (0,)) for i in range(64)]
    store = open_or_build(clips, sample_rate=16000, cache_dir=sys.argv[1], num_workers=2, max_bad_fraction=0.0)
    batches = training_batches(
        dataset(clips), batch_size=8, seed=0, start_step=0, num_steps=8, num_workers=2, device="cpu"
    )
    print(len(store.good), sum(1 for _ in batches))
"""


def test_a_long_folder_for_temporary_files_is_no_obstacle(tmp_path):
    script, folder = tmp_path / "program.py", tmp_path / "a folder of a job with a long name".ljust(90, "x")
    folder.mkdir()
    script.write_text(LONG)
    path = os.pathsep.join([*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "cache")],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(folder)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.stdout.split() == ["64", "8"], ran.stderr


def test_no_short_folder_at_all_is_one_line(monkeypatch, tmp_path):
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    monkeypatch.setattr(processes.tempfile, "tempdir", str(folder))
    monkeypatch.setattr(processes, "SHORT_FOLDERS", ())
    with pytest.raises(ValueError, match=r"^TMPDIR=.*: too long for sockets \(\d+ bytes, at most 75\); set a shorter"):
        processes.fork_server()


def test_the_waiting_for_a_batch_is_told_and_may_end(monkeypatch):
    monkeypatch.setattr(loader, "POLL_S", 0.2)
    monkeypatch.setitem(audio.READERS, "generated", stuck)
    data = dataset([Clip(f"generated://{i}", (0,)) for i in range(8)])
    waited = []

    def patience(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            raise loader.NoBatchError("enough")

    options = {"batch_size": 2, "seed": 0, "start_step": 0, "num_steps": 9, "num_workers": 1, "device": "cpu"}
    with pytest.raises(loader.NoBatchError, match="enough"):
        list(training_batches(data, **options, patience=patience))
    assert waited == sorted(waited)
    assert waited[0] > 0.15


def stuck(path, rate):
    time.sleep(1000)


def children(pid):
    """All descendants but multiprocessing's resource tracker, which ignores SIGTERM and SIGINT by itself."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                command = (folder / "cmdline").read_text()
            except OSError:
                continue
            if int(stat[1]) == pid and "resource_tracker" not in command:
                found += [int(folder.name), *children(int(folder.name))]
    return found
