from __future__ import annotations

import json
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

from vcrast.runs import lock
from vcrast.runs.lock import RunLock, RunLockedError
from vcrast.runs.process import start_time, this_process

HOLD = """
    import sys, time
    from pathlib import Path
    from vcrast.runs.lock import RunLock
    with RunLock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen:
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    return holder


def write_lock(folder: Path, *, age_min: float = 0.0, **changes) -> dict:
    owner = {**lock._describe(), **changes}
    (folder / "run.lock").write_text(json.dumps(owner))
    then = time.time() - 60 * age_min
    os.utime(folder / "run.lock", (then, then))
    return owner


def test_the_folder_is_free_afterwards_even_after_an_error(tmp_path):
    folder = tmp_path / "new" / "run"
    with RunLock(folder):
        assert json.loads((folder / "run.lock").read_text())["pid"] == os.getpid()
    with pytest.raises(ZeroDivisionError), RunLock(folder):
        raise ZeroDivisionError
    with RunLock(folder):
        assert [path.name for path in folder.iterdir()] == ["run.lock"]
    assert list(folder.iterdir()) == []


def test_a_second_process_is_told_who_where_since_when_and_what_to_do(tmp_path):
    holder = hold(tmp_path)
    try:
        with pytest.raises(RunLockedError) as caught, RunLock(tmp_path):
            pass
        message = str(caught.value)
        since, host = time.strftime("since %Y-"), socket.gethostname()
        for piece in (str(tmp_path), f"process {holder.pid} on {host}", since, f"kill {holder.pid}", "run.dir"):
            assert piece in message
        assert (tmp_path / "run.lock").exists()
    finally:
        holder.kill()
        holder.wait()


def test_the_same_process_cannot_enter_twice(tmp_path):
    with RunLock(tmp_path):
        with pytest.raises(RunLockedError), RunLock(tmp_path):
            pass
        assert (tmp_path / "run.lock").exists()


@pytest.mark.parametrize("reap", [True, False], ids=["gone", "zombie"])
def test_the_lock_of_a_killed_run_is_broken_with_a_warning(tmp_path, caplog, reap):
    holder = hold(tmp_path)
    holder.send_signal(signal.SIGKILL)
    if reap:
        holder.wait()
    else:
        while start_time(holder.pid) is not None:
            time.sleep(0.01)
    with caplog.at_level(logging.WARNING), RunLock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    assert f"process {holder.pid} has ended" in caplog.text
    holder.wait()


def test_a_reused_process_number_is_not_the_owner(tmp_path, caplog):
    write_lock(tmp_path, started=this_process().started - 1)
    with caplog.at_level(logging.WARNING), RunLock(tmp_path):
        pass
    assert "has ended" in caplog.text


def test_another_machines_lock_is_respected_until_its_heartbeat_stops(tmp_path, caplog):
    # Process 2**22 + 1 cannot exist here: it must not be looked up.
    write_lock(tmp_path, host="elsewhere", pid=2**22 + 1, age_min=4, job="77")
    with pytest.raises(RunLockedError, match=r"elsewhere, Slurm job 77"), RunLock(tmp_path, stale_after_min=5):
        pass
    write_lock(tmp_path, host="elsewhere", pid=os.getpid(), age_min=6)
    with caplog.at_level(logging.WARNING), RunLock(tmp_path, stale_after_min=5):
        pass
    assert "no heartbeat for 6 minutes" in caplog.text


def test_a_requeued_job_does_not_wait_for_its_own_former_lock(tmp_path, monkeypatch):
    write_lock(tmp_path, host="elsewhere", job="77", restarts=0)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with pytest.raises(RunLockedError), RunLock(tmp_path):
        pass
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with RunLock(tmp_path):
        pass


def test_an_unreadable_lock_is_respected_while_fresh(tmp_path):
    path = tmp_path / "run.lock"
    for content in ("", "{", "[]", '{"host": "x", "pid": null, "started": 0}'):
        path.write_text(content)
        with pytest.raises(RunLockedError, match="cannot be read"), RunLock(tmp_path):
            pass
    long_ago = time.time() - 3600
    os.utime(path, (long_ago, long_ago))
    with RunLock(tmp_path):
        pass


def test_a_lock_that_became_anothers_is_not_removed(tmp_path):
    with RunLock(tmp_path) as mine:
        other = write_lock(tmp_path, host="elsewhere")
        with pytest.raises(RunLockedError, match=r"elsewhere.*took over"):
            mine.beat()
    assert json.loads((tmp_path / "run.lock").read_text()) == other


def test_a_forked_childs_exit_leaves_the_lock(tmp_path):
    with RunLock(tmp_path) as mine:
        child = os.fork()
        if child == 0:
            mine.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / "run.lock").exists()
    assert not (tmp_path / "run.lock").exists()


def test_beating_renews_the_lock_and_puts_a_removed_one_back(tmp_path, caplog):
    with RunLock(tmp_path) as mine:
        os.utime(mine.path, (1, 1))
        mine.beat()
        assert time.time() - mine.path.stat().st_mtime < 5
        mine.path.unlink()
        mine.beat()
        assert "putting it back" in caplog.text
        mine.beat()
    assert not (tmp_path / "run.lock").exists()


def test_the_heart_beats_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_EVERY_S", 0.02)
    with RunLock(tmp_path) as mine:
        os.utime(mine.path, (1, 1))
        deadline = time.monotonic() + 5
        while mine.path.stat().st_mtime < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert mine.path.stat().st_mtime > 10


def test_without_hard_links_the_lock_still_excludes(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    with RunLock(tmp_path):
        with pytest.raises(RunLockedError, match=f"process {os.getpid()}"), RunLock(tmp_path):
            pass
        assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


RACE = """
    import sys, time
    from pathlib import Path
    from vcrast.runs.lock import RunLock, RunLockedError
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        with RunLock(Path(sys.argv[1])):
            print("won", flush=True)
            sys.stdin.readline()
    except RunLockedError:
        print("lost", flush=True)
"""


def test_of_several_that_find_a_stale_lock_one_wins(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(RACE), str(tmp_path)]
    for _ in range(3):
        write_lock(tmp_path, started=1)
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
