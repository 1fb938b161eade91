"""What a reader, a kill and a full disk find of a file that is being replaced."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from vcrast.config import atomic
from vcrast.config.atomic import open_aside, publish, remove_abandoned, write_atomic

ROOT = Path(__file__).resolve().parent.parent.parent
IN_PLACE = re.compile(r"\.write_(text|bytes)\(|save_file\(|open\([^()]*\"[wx]b?\"|copytree\(|savefig\(|print_png\(str")
NEW_EACH_TIME = {
    "vcrast/cli/files.py": "a temporary folder",
    "vcrast/cli/formats.py": "output of the user's, line by line",
    "vcrast/config/atomic.py": "aside",
    "vcrast/data/download.py": "a part, which goes on",
    "vcrast/models/checkpoint_source.py": "a hint",
    "vcrast/runs/report/listening.py": "in memory",
}


def test_no_file_of_a_run_is_written_in_place():
    found = {
        str(path.relative_to(ROOT)) for path in (ROOT / "vcrast").rglob("*.py") if IN_PLACE.search(path.read_text())
    }
    assert found == set(NEW_EACH_TIME)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("content", "found"), [("ä\n", b"\xc3\xa4\n"), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_text_and_bytes_replace_what_was_there(tmp_path, content, found):
    path = tmp_path / "file.json"
    for _ in range(2):
        write_atomic(path, content)
        assert path.read_bytes() == found
        path.write_bytes(b"something longer than either")
    assert names(tmp_path) == ["file.json"]


def test_a_reader_sees_the_old_content_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with open_aside(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        publish(file, path)
        assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_an_error_halfway_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), open_aside(path) as file:
        file.write("text into a binary file")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from vcrast.config.atomic import write_atomic
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # Python ignores SIGXFSZ: writing raises EFBIG
    try:
        write_atomic(Path(sys.argv[1]), "x" * 5000)
    except OSError as error:
        print(error)
"""


def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path / "file")]
    assert "too large" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


WRITER = """
    import sys, time
    from pathlib import Path
    from vcrast.config.atomic import open_aside
    with open_aside(Path(sys.argv[1])) as file:
        print("open", flush=True)
        time.sleep(60)
"""


def test_leftovers_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "file")]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "open\n"
        [aside] = tmp_path.iterdir()
        os.utime(aside, (1, 1))
        remove_abandoned(tmp_path)
        assert names(tmp_path) == [aside.name]
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    remove_abandoned(tmp_path)
    assert names(tmp_path) == []


def test_another_machines_leftovers_stay_for_an_hour(tmp_path):
    for name, age_s in ((".a.0.far.tmp", 2 * atomic.SILENT_S), (".b.0.far.tmp", 60), ("c.tmp", 2 * atomic.SILENT_S)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    remove_abandoned(tmp_path)
    assert names(tmp_path) == [".b.0.far.tmp", "c.tmp"]
