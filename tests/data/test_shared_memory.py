"""Check what is done where /dev/shm is small, closed or absent."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vcrast.data import shared_memory
from vcrast.data.processes import fork_server
from vcrast.data.shared_memory import fits_shared_memory, shared_memory_fault


@pytest.fixture
def room(monkeypatch):
    """Say how many bytes are free."""
    monkeypatch.setattr(shared_memory, "_warned", [])
    usage = shutil.disk_usage("/")
    return lambda free: monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda _: usage._replace(free=free))


def test_room_for_all_batches_that_are_made_ahead(room, caplog, monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    needed = (4 * 3 + 3) * 1_000_000  # two wait for each of 4 workers while it makes one, three are in use
    room(needed)
    assert fits_shared_memory(4, 1_000_000)
    room(needed - 1)
    with caplog.at_level(logging.WARNING):
        assert not fits_shared_memory(4, 1_000_000)
        room(needed // 2)
        assert not fits_shared_memory(4, 1_000_000)
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "data: /dev/shm has 14 MiB free, the batches of 4 workers need up to 14: they are sent through pipes, which is "
        "slower"
    ]
    room(2 * needed - 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert not fits_shared_memory(4, 1_000_000)


def test_no_shared_memory_means_no_workers(monkeypatch, tmp_path):
    assert shared_memory_fault() is None
    monkeypatch.setattr(shared_memory, "PLACE", tmp_path / "shm")
    assert shared_memory_fault() == f"{tmp_path}/shm does not exist"
    with pytest.raises(ValueError, match=r"cannot be started, .*/shm does not exist; set data\.num_workers=0"):
        fork_server()


PROGRAM = """
import logging, sys
import numpy as np
from vcrast.data import audio, loader
from vcrast.data.clip import Clip
from vcrast.data.dataset import ClipDataset

def generated(path, rate):
    return np.full(400_000, int(path.rpartition("/")[2]) / 100, np.float32)

if __name__ == "__main__":
    logging.basicConfig(level="WARNING", format="%(message)s")
    audio.READERS["generated"] = generated
    if sys.argv[1:] == ["unaware"]:
        loader.fits_shared_memory = lambda workers, size: True
    clips = [Clip(f"generated://{i}", ()) for i in range(1, 33)]
    data = ClipDataset(
        clips, num_classes=0, sample_rate=16000, clip_duration_s=25.0, pad="silence", store=None, seed=0
    )
    waited = []

    def patience(seconds):
        if seconds > 8:
            print("no batch")
            raise SystemExit(3)

    batches = loader.training_batches(
        data, batch_size=4, seed=0, start_step=0, num_steps=24, num_workers=2, device="cpu", patience=patience
    )
    print(sum(round(100 * float(batch.wav[:, 0].sum())) for batch in batches))
"""


@pytest.fixture
def in_small_shm(tmp_path):
    """Run `PROGRAM` where /dev/shm has 8 MB, two of its batches, as in a container."""
    probe = ["unshare", "--mount", "true"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a /dev/shm (unshare --mount)")

    def run(*arguments):
        (tmp_path / "program.py").write_text(PROGRAM)
        inside = f"mount -t tmpfs -o size=8m tmpfs /dev/shm && exec {sys.executable} program.py {' '.join(arguments)}"
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", inside], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    return run


@pytest.mark.slow
def test_a_small_shared_memory_is_said_and_every_batch_arrives(in_small_shm):
    done = in_small_shm()
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 3 * sum(range(1, 33))  # 24 steps of 4 are three epochs
    assert "data: /dev/shm has 8 MiB free, the batches of 2 workers need up to 55: they are sent through" in done.stderr
