"""Two runs never use one folder; a run that is gone does not block it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from filelock import SoftFileLease

from vcrast.runs import lock
from vcrast.runs.lock import RunLock, RunLockedError

pytestmark = pytest.mark.slow

BEAT = {"silent_s": 1.0, "beat_every_s": 0.1}

HOLD = """
    import sys, time
    from pathlib import Path
    from vcrast.runs.lock import RunLock
    with RunLock(Path(sys.argv[1]), silent_s=1.0, beat_every_s=0.1):
        print("held", flush=True)
        time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen:
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    return holder


def move(folder: Path, host: str) -> None:
    """Let the lock say that its owner runs on another host; a beating owner goes on beating."""
    path = folder / "run.lock"
    lines = [f"host={host}" if line.startswith("host=") else line for line in path.read_text().splitlines()]
    with open(path, "r+") as file:  # in place: the owner holds on to the file
        file.write("\n".join(lines) + "\n")
        file.truncate()


@pytest.fixture
def holder(tmp_path):
    process = hold(tmp_path)
    yield process
    process.kill()
    process.wait()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pid(folder: Path) -> int:
    return SoftFileLease(folder / "run.lock").pid


def test_the_folder_is_free_afterwards_even_after_an_error(tmp_path):
    folder = tmp_path / "new" / "run"
    with RunLock(folder):
        assert pid(folder) == os.getpid()
    with pytest.raises(ZeroDivisionError), RunLock(folder):
        raise ZeroDivisionError
    assert names(folder) == []


def test_a_second_process_is_told_who_where_since_when_and_what_to_do(tmp_path, holder):
    with pytest.raises(RunLockedError) as caught, RunLock(tmp_path, **BEAT):
        pass
    message = str(caught.value)
    since, host = time.strftime("since %Y-"), socket.gethostname()
    for piece in (str(tmp_path), f"process {holder.pid} on {host}", since, f"kill {holder.pid}", "run.dir"):
        assert piece in message
    assert pid(tmp_path) == holder.pid


def test_the_same_process_cannot_enter_twice(tmp_path):
    with RunLock(tmp_path):
        with pytest.raises(RunLockedError), RunLock(tmp_path):
            pass
        assert pid(tmp_path) == os.getpid()


def test_the_lock_of_a_killed_run_is_taken_over_at_once_with_a_warning(tmp_path, holder, caplog):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), RunLock(tmp_path, silent_s=1.0, beat_every_s=0.1):
        assert pid(tmp_path) == os.getpid()
    assert time.monotonic() - began < 0.9
    assert f"is gone (process {holder.pid} on" in caplog.text


def test_a_living_process_is_silent_when_its_heart_has_stopped(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)
    with RunLock(tmp_path, **BEAT):
        assert pid(tmp_path) == os.getpid()


@pytest.mark.parametrize("host", ["elsewhere", f"{socket.gethostname()}?pidns-f00"], ids=["machine", "container"])
def test_another_machine_or_container_is_respected_until_its_heartbeat_stops(tmp_path, holder, host):
    move(tmp_path, host)
    with pytest.raises(RunLockedError, match=host.replace("?", r"\?")), RunLock(tmp_path, **BEAT):
        pass
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with RunLock(tmp_path, **BEAT):
        assert time.monotonic() - began > BEAT["silent_s"]
        assert pid(tmp_path) == os.getpid()


def test_a_requeued_job_does_not_wait_for_its_own_former_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    holder = hold(tmp_path)
    move(tmp_path, "elsewhere")
    try:
        with pytest.raises(RunLockedError, match="Slurm job 77"), RunLock(tmp_path, **BEAT):
            pass
        monkeypatch.setenv("SLURM_JOB_ID", "78")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        with pytest.raises(RunLockedError, match="Slurm job 77"), RunLock(tmp_path, **BEAT):
            pass
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        began = time.monotonic()
        with RunLock(tmp_path, **BEAT):
            assert pid(tmp_path) == os.getpid()
        assert time.monotonic() - began < 0.9
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("content", ["", "{", "pid=1\n"])
def test_a_lock_that_names_nobody_does_not_block_for_long(tmp_path, content, monkeypatch):
    monkeypatch.setattr(lock, "EMPTY_S", 0.5)
    (tmp_path / "run.lock").write_text(content)
    began = time.monotonic()
    with RunLock(tmp_path):
        assert pid(tmp_path) == os.getpid()
    # Not at once: its writer may be about to fill it in.
    assert 0.5 < time.monotonic() - began < 5


def test_a_run_that_lost_its_lock_says_so_and_leaves_it(tmp_path, caplog):
    mine, others = tmp_path / "run", tmp_path / "other"
    other = hold(others)
    try:
        with RunLock(mine, **BEAT):
            for name in names(others):
                os.replace(others / name, mine / name)
            deadline = time.monotonic() + 5
            while "two runs" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.02)
            assert f"to process {other.pid} on" in caplog.text
        assert pid(mine) == other.pid
        assert names(mine) == [".run.owner", "run.lock"]
    finally:
        other.kill()
        other.wait()


def test_a_forked_childs_exit_leaves_the_lock(tmp_path):
    with RunLock(tmp_path) as mine:
        child = os.fork()
        if child == 0:
            mine.__exit__(None, None, None)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert names(tmp_path) == [".run.owner", "run.lock"]
    assert names(tmp_path) == []


def test_a_lock_that_was_removed_is_put_back(tmp_path, caplog):
    with RunLock(tmp_path, **BEAT) as mine:
        mine.path.unlink()
        deadline = time.monotonic() + 5
        while "putting it back" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
        assert pid(tmp_path) == os.getpid()
        time.sleep(0.5)  # the new heart beats
        with pytest.raises(RunLockedError), RunLock(tmp_path, **BEAT):
            pass
    assert names(tmp_path) == []


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from vcrast.runs.lock import RunLock
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # Python ignores SIGXFSZ: writing raises EFBIG
    try:
        RunLock(Path(sys.argv[1])).__enter__()
    except OSError as error:
        print(error)
"""


def test_a_full_disk_is_an_error_that_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)]
    assert "too large" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert names(tmp_path) == []


RACE = """
    import sys, time
    from pathlib import Path
    from vcrast.runs.lock import RunLock, RunLockedError
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        with RunLock(Path(sys.argv[1]), silent_s=1.0, beat_every_s=0.1):
            print("won", flush=True)
            sys.stdin.readline()
    except RunLockedError:
        print("lost", flush=True)
"""


def test_of_several_that_find_a_stale_lock_one_wins(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(RACE), str(tmp_path)]
    for host in (None, "elsewhere"):
        gone = hold(tmp_path)
        if host:
            move(tmp_path, host)
        gone.kill()
        gone.wait()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        racers = [subprocess.Popen(command, **pipes, text=True) for _ in range(4)]
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        outcomes = [racer.stdout.readline() for racer in racers]
        for racer in racers:
            racer.communicate("end\n")
        assert sorted(outcomes) == ["lost\n"] * 3 + ["won\n"]
