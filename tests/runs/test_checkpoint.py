"""Faults that real disks, schedulers and users inflict on checkpoints."""

from __future__ import annotations

import logging
import os
import pickle
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vcrast.runs import checkpoint, checkpoint_files
from vcrast.runs.checkpoint import CheckpointError, find_latest, load, save

FILES = ("tensors.safetensors", "state.pt", "manifest.json")


def content(step: int) -> tuple[dict[str, torch.Tensor], dict]:
    return {"weight": torch.full((17, 3), float(step)), "moment": torch.arange(5) + step}, {
        "step": step,
        "lr": 0.1 * step,
    }


def save_steps(folder: Path, *steps: int, keep: int = 10) -> None:
    for step in steps:
        save(folder, step, *content(step), keep=keep)


def assert_holds(path: Path, step: int) -> None:
    tensors, state = load(path)
    expected, expected_state = content(step)
    assert state == expected_state
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_the_newest_stay(tmp_path):
    save_steps(tmp_path, 1, 2, 3, 4, keep=2)
    assert names(tmp_path) == ["step_00000003", "step_00000004"]
    assert_holds(tmp_path / "step_00000003", 3)
    assert find_latest(tmp_path) == tmp_path / "step_00000004"


def test_a_damaged_one_does_not_count_as_kept(tmp_path):
    save_steps(tmp_path, 1, 2, 3)
    (tmp_path / "step_00000003" / "state.pt").unlink()
    save_steps(tmp_path, 4, keep=2)
    assert {"step_00000002", "step_00000004"} <= set(names(tmp_path))
    assert "step_00000001" not in names(tmp_path)


def test_a_checkpoint_is_hidden_before_it_is_taken_apart(tmp_path, monkeypatch):
    real, removed = shutil.rmtree, []
    monkeypatch.setattr(
        checkpoint.shutil, "rmtree", lambda path, **options: removed.append(path) or real(path, **options)
    )
    save_steps(tmp_path, 1, 2, 2, keep=1)
    assert [path.name for path in removed if path.name.startswith("step_")] == []
    assert len([path for path in removed if path.name.startswith(".old-")]) >= 2


def test_nothing_to_find(tmp_path):
    assert find_latest(tmp_path / "missing") is None
    (tmp_path / "step_x").mkdir()
    assert find_latest(tmp_path) is None


def test_the_same_step_is_replaced(tmp_path):
    for round_ in range(4):
        save(tmp_path, 7, {"x": torch.tensor([round_])}, {"round": round_}, keep=1)
        assert names(tmp_path) == ["step_00000007"]
        assert load(tmp_path / "step_00000007")[1] == {"round": round_}


@pytest.mark.parametrize("failing_rename", [1, 2])
def test_a_kill_while_replacing_the_only_checkpoint_loses_nothing(tmp_path, monkeypatch, failing_rename):
    save_steps(tmp_path, 7, keep=1)
    real, count = Path.rename, []

    def dying(self, target):
        count.append(target)
        if len(count) == failing_rename:
            raise SystemExit  # as little clean-up as Python allows
        return real(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(SystemExit):
        save_steps(tmp_path, 7, keep=1)
    monkeypatch.undo()
    found = find_latest(tmp_path)
    assert found is not None
    assert_holds(found, 7)
    save_steps(tmp_path, 8, keep=1)
    assert names(tmp_path) == ["step_00000008"]


def test_going_back_on_purpose_discards_the_later_ones(tmp_path):
    save_steps(tmp_path, 1, 2, 3)
    checkpoint.discard_after(tmp_path, 1)
    assert names(tmp_path) == ["step_00000001"]


def test_leftovers_of_dead_writers_go_and_of_living_ones_stay(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host, me = socket.gethostname(), os.getpid()
    started = checkpoint.this_process().started
    gone = [
        f".new-5-{dead.pid}-1-{host}",
        f".old-5-{dead.pid}-1-{host}",
        f".new-5-{me}-{started + 1}-{host}",
        ".new-5-1-1-far",
    ]
    stay = [f".new-5-{me}-{started}-{host}", ".new-5-1-1-far-and-fresh", ".hidden"]
    for name in gone + stay:
        (tmp_path / name).mkdir()
        (tmp_path / name / "tensors.safetensors").write_bytes(b"half")
    long_ago = time.time() - 2 * checkpoint.FOREIGN_LEFTOVER_S
    os.utime(tmp_path / ".new-5-1-1-far", (long_ago, long_ago))
    save_steps(tmp_path, 1)
    assert names(tmp_path) == sorted([*stay, "step_00000001"])


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [truncate, empty, grow, Path.unlink])
def test_damage_is_reported_and_the_one_before_used(tmp_path, caplog, file, damage):
    save_steps(tmp_path, 1, 2)
    damage(tmp_path / "step_00000002" / file)
    with caplog.at_level(logging.WARNING):
        assert find_latest(tmp_path) == tmp_path / "step_00000001"
    assert "step_00000002" in caplog.text
    assert file in caplog.text
    with pytest.raises(CheckpointError, match=file):
        load(tmp_path / "step_00000002")
    assert_holds(tmp_path / "step_00000001", 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    save_steps(folder, 2)
    return folder / "step_00000002"


@pytest.mark.parametrize("file", FILES)
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_flipped_bit_is_detected(whole, file, data):
    content = bytearray((whole / file).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    copy = whole.parent / "copy" / whole.name
    shutil.rmtree(copy.parent, ignore_errors=True)
    shutil.copytree(whole, copy)
    (copy / file).write_bytes(content)
    for reader in (checkpoint.verify, load):
        with pytest.raises(CheckpointError, match="step_00000002"):
            reader(copy)


def rewrite_manifest(path: Path) -> None:
    """What an attacker, or another version of the program, would write: consistent with the files."""
    files = {}
    for name in FILES[:2]:
        content = (path / name).read_bytes()
        files[name] = {"bytes": len(content), "sha256": checkpoint_files.hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_bytes(checkpoint_files._manifest(checkpoint_files.step_of(path), files))


def test_another_format_version_is_refused_by_number(tmp_path, caplog, monkeypatch):
    save_steps(tmp_path, 1, 2)
    monkeypatch.setattr(checkpoint_files, "FORMAT_VERSION", 99)
    rewrite_manifest(tmp_path / "step_00000002")
    monkeypatch.undo()
    with caplog.at_level(logging.WARNING):
        assert find_latest(tmp_path) == tmp_path / "step_00000001"
    assert "99" in caplog.text


def test_a_checkpoint_under_another_steps_name_is_refused(tmp_path):
    save_steps(tmp_path, 1)
    (tmp_path / "step_00000001").rename(tmp_path / "step_00000005")
    assert find_latest(tmp_path) is None


def test_code_in_the_state_is_never_run(tmp_path, caplog):
    save_steps(tmp_path, 1, 2)
    for make in (lambda bomb: pickle.dumps(bomb, protocol=2), lambda bomb: torch_bytes({"x": bomb})):
        made = tmp_path / "made by the bomb"
        (tmp_path / "step_00000002" / "state.pt").write_bytes(make(Bomb(made)))
        rewrite_manifest(tmp_path / "step_00000002")
        with caplog.at_level(logging.WARNING):
            assert find_latest(tmp_path) == tmp_path / "step_00000001"
        with pytest.raises(CheckpointError, match="more than data"):
            load(tmp_path / "step_00000002")
        assert not made.exists()
    assert "state.pt" in caplog.text


def torch_bytes(state) -> bytes:
    buffer = checkpoint_files.io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "files", [{}, {"tensors.safetensors": 5, "state.pt": 6}, [], None, {"../x": {}, "state.pt": {}}]
)
def test_a_malformed_manifest_is_damage_not_a_crash(tmp_path, files):
    save_steps(tmp_path, 1)
    (tmp_path / "step_00000001" / "manifest.json").write_bytes(checkpoint_files._manifest(1, files))
    assert find_latest(tmp_path) is None


FULL_DISK = """
    import resource, sys, torch
    from pathlib import Path
    from vcrast.runs.checkpoint import CheckpointError, save
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    save(folder, 1, {"x": torch.ones(10)}, {"step": 1}, keep=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # Python ignores SIGXFSZ: writing raises EFBIG
    state = {"text": "y" * size} if sys.argv[3] == "state" else {}
    tensors = {} if state else {"x": torch.ones(size)}
    try:
        save(folder, 2, tensors, state, keep=1)
    except CheckpointError as error:
        print(isinstance(error, OSError), error)
"""


@pytest.mark.parametrize("where", ["tensors", "state"])
def test_full_disk_keeps_the_previous_one_and_says_what_is_needed(tmp_path, where):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path), "100000", where],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True ")
    needed = r"needs about 40\d,\d\d\d bytes" if where == "tensors" else r"needs about 10\d,\d\d\d bytes"
    assert re.search(needed, done.stdout)
    assert "bytes are free" in done.stdout
    assert f"{tmp_path}/step_00000002" in done.stdout
    assert f"{tmp_path}/step_00000001, is intact" in done.stdout
    assert names(tmp_path) == ["step_00000001"]
    assert load(tmp_path / "step_00000001")[1] == {"step": 1}


def test_no_space_error_of_the_system_is_passed_on(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_files, "sync", no_space)
    with pytest.raises(CheckpointError, match=r"No space left.*no earlier checkpoint") as caught:
        save_steps(tmp_path, 1)
    assert caught.value.errno == 28
    assert names(tmp_path) == []


def save_for_ever(folder: Path, first: int, report: int) -> None:
    os.write(report, (first - 1).to_bytes(4, "big"))
    for step in range(first, 10**6):
        save(folder, step, *content(step), keep=2)
        os.write(report, step.to_bytes(4, "big"))


def kill_many(folder: Path) -> None:
    """Kill 60 forked writers at random moments, check after each; prints how often one had got further."""
    torch.set_num_threads(1)
    chance = random.Random(0)
    save_steps(folder, 1, keep=2)
    began = time.monotonic()
    save_steps(folder, 2, 3, keep=2)
    interval_s = (time.monotonic() - began) / 2
    step, advanced = 3, 0
    for _ in range(60):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                save_for_ever(folder, step + 1, write)
            finally:
                os._exit(1)
        os.close(write)
        with os.fdopen(read, "rb") as file:
            seen = file.read(4 * chance.choice([1, 1, 2, 3]))
            time.sleep(chance.uniform(0.0, 1.5 * interval_s))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done = int.from_bytes((seen + file.read())[-4:], "big")
        # Not only the newest: whatever bears a checkpoint's name is whole, also while another is being removed.
        for path in folder.glob("step_*"):
            checkpoint.verify(path)
        found = find_latest(folder)
        assert found is not None
        reached = checkpoint_files.step_of(found)
        # The kill may fall between the rename and the report, hence one more.
        assert done <= reached <= done + 1, (done, reached)
        assert_holds(found, reached)
        advanced += reached > step
        step = reached
    save_steps(folder, step + 1, keep=1)
    assert names(folder) == [f"step_{step + 1:08d}"]
    print(advanced)


def test_kill_at_any_moment_loses_at_most_one_interval(tmp_path):
    # In a fresh interpreter: a child forked beside other threads may inherit a lock that nobody will release.
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10  # otherwise the children were killed before they did anything


if __name__ == "__main__":
    kill_many(Path(sys.argv[1]))
