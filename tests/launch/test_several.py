"""Run several runs of a sweep at a time, with a small program in place of the launcher."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from launch import local_sweep, several
from launch.arguments import Program, parse
from launch.local import main
from launch.several import Job, environments, run_several

SCRIPT = """
import os, pathlib, signal, sys, time
folder, seconds, code = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
print("here is", folder.name, flush=True)
begun = time.monotonic()
(folder.parent / (folder.name + ".begun")).write_text("")
time.sleep(seconds)
threads, gpus = os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES", "")
(folder.parent / (folder.name + ".txt")).write_text(f"{begun} {time.monotonic()} {threads} {gpus}")
sys.exit(code)
"""
PROGRAM = Program("python launch/local.py", (sys.executable, "-c", SCRIPT))


def jobs(folder, *, seconds=0.3, codes=(0, 0, 0, 0)):
    return [
        Job(number, 1, (str(folder / f"r{number}"), str(seconds), str(code)), folder / f"r{number}")
        for number, code in enumerate(codes)
    ]


def run(folder, waiting, places, *, stop_at=None):
    codes = {}

    def ended(job, code):
        codes[job.number] = code
        return code != stop_at

    run_several(PROGRAM, waiting, places, began=lambda _: None, ended=ended)
    return codes


def test_so_many_run_at_a_time_each_in_its_place(tmp_path):
    places = [{"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": name} for name in ("4", "7")]
    assert run(tmp_path, jobs(tmp_path, codes=(0, 0, 5, 0)), places) == {0: 0, 1: 0, 2: 5, 3: 0}
    spans = [(tmp_path / f"r{number}.txt").read_text().split() for number in range(4)]
    edges = [(float(begun), 1) for begun, *_ in spans] + [(float(over), -1) for _, over, *_ in spans]
    at_once = [sum(step for _, step in sorted(edges)[: place + 1]) for place in range(8)]
    assert max(at_once) == 2
    assert {(threads, gpu) for _, _, threads, gpu in spans} == {("3", "4"), ("3", "7")}
    assert (tmp_path / "r2.log").read_text().splitlines() == ["here is r2"]


def test_after_a_stop_no_other_starts(tmp_path):
    codes = run(tmp_path, jobs(tmp_path, codes=(143, 0, 0, 0)), [{}], stop_at=143)
    assert codes == {0: 143}


def test_a_signal_reaches_all_that_run_and_starts_no_other(tmp_path):
    def send():
        while not all((tmp_path / f"r{number}.begun").exists() for number in range(2)):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=send)
    thread.start()
    places = [{"OMP_NUM_THREADS": "1"}] * 2
    assert run(tmp_path, jobs(tmp_path, seconds=30), places) == {0: 143, 1: 143}
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before


def test_gpus_and_cores_are_shared(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(several, "num_cores", lambda: 13)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 2,5,GPU-7")
    assert environments(2, 2, on_gpus=True) == [
        {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "0,2"},
        {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "5,GPU-7"},
    ]
    with pytest.raises(ValueError, match=r"launch\.jobs=3: needs 6 GPUs for 2 processes each, 4 can be seen"):
        environments(3, 2, on_gpus=True)
    assert environments(2, 2, on_gpus=False) == [{"OMP_NUM_THREADS": "3"}] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environments(5, 1, on_gpus=True) == [{}] * 5


def test_a_sweep_with_several_jobs_is_gone_on_with(tmp_path, capsys):
    base = tmp_path / "s"
    base.mkdir()
    codes = [0, 2, 143, 0]
    listed = [
        {
            "folder": f"r{number}", "varied": [f"run.seed={number}"],
            "overrides": [str(base / f"r{number}"), "0", str(code)], "num_processes": 1, "jobs": 1, "device": "cpu",
            "exit_code": None,
        }
        for number, code in enumerate(codes)
    ]  # fmt: skip
    (base / "sweep.json").write_text(json.dumps(listed))
    assert local_sweep.go_on(base, PROGRAM, ["launch.jobs=1", "launch.jobs=4"]) == 143
    said = capsys.readouterr().out
    assert f"run 1 of 4: run.seed=0: started, see {base / 'r0.log'}" in said
    assert "sweep stopped by SIGTERM in 1 of 4 runs. Go on with:" in said
    found = json.loads((base / "sweep.json").read_text())
    assert [run["exit_code"] for run in found] == codes
    for run_ in found:
        run_["overrides"][2] = "0"
        run_["jobs"] = 2
    (base / "sweep.json").write_text(json.dumps(found))
    (base / "r0.txt").unlink()
    assert local_sweep.go_on(base, PROGRAM) == 0
    assert not (base / "r0.txt").exists()  # done already
    assert f"vcrast compare {base}" in capsys.readouterr().out


def test_mistakes_are_named(tmp_path, capsys):
    assert main(["demo", "launch.jobs=2", f"run.dir={tmp_path / 'r'}"]) == 2
    assert "launch.jobs: there is one run; add -m" in capsys.readouterr().err
    words = ["demo", f"run.dir={tmp_path / 's'}", "-m", "launch.num_processes=1,2", "launch.jobs=2"]
    with pytest.raises(ValueError, match="the runs have 1 and 2 processes; start them in turn"):
        local_sweep.start(parse(words), PROGRAM)
    assert not (tmp_path / "s").exists()
