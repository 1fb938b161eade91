"""Check a checkpoint that the disk cannot hold: the one before stays."""

import re
import subprocess
import sys
import textwrap

import pytest

from vcrast.runs.checkpoint import find_latest, verify

FULL_DISK = """
    import resource, sys, torch
    from pathlib import Path
    from vcrast.runs.checkpoint import CheckpointError, save
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    save(folder, 1, {"x": torch.ones(10)}, keep=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # Python ignores SIGXFSZ: writing raises EFBIG
    state = {"text": "y" * size} if sys.argv[3] == "values" else {"x": torch.ones(size)}
    try:
        save(folder, 2, state, keep=1)
    except CheckpointError as error:
        print(isinstance(error, OSError), error.errno, error)
"""


@pytest.mark.parametrize("where", ["tensors", "values"])
def test_full_disk_keeps_the_previous_one_and_says_what_is_needed(tmp_path, where):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path), "100000", where],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True 27 ")  # EFBIG, as the system said
    needed = r"needs about 40\d,\d\d\d bytes" if where == "tensors" else r"needs about 10\d,\d\d\d bytes"
    assert re.search(needed, done.stdout)
    assert "bytes are free" in done.stdout
    assert f"{tmp_path}/step_00000002" in done.stdout
    assert re.search(rf"{tmp_path}/step_00000001-\w+\.pt, is intact", done.stdout)
    assert verify(find_latest(tmp_path)) == 1
    assert len(list(tmp_path.glob("step_*"))) == 1
