"""The code of a job is a copy that nothing changes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch import snapshot
from launch.snapshot import fingerprint, source_files, take
from vcrast.runs.environment import git_state

ROOT = Path(__file__).resolve().parents[2]


def git(root, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", root, *identity, *words], check=True, capture_output=True, text=True).stdout


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(text)


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    write(root, vcrast__a="a = 1", launch__b="b = 1", mine__c="c = 1", ignored__d="d = 1")
    (root / "vcrast" / "kernel.cu").write_text("// code, too")
    (root / "notes.md").write_text("no code")
    (root / "vcrast" / "__pycache__").mkdir()
    (root / "vcrast" / "__pycache__" / "a.pyc").write_text("")
    (root / ".gitignore").write_text("ignored/\n__pycache__/\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


EXPECTED = ["launch/b.py", "mine/c.py", "vcrast/a.py", "vcrast/kernel.cu"]


def test_a_checkout_gives_what_git_knows_or_would_add_and_that_is_code(checkout):
    assert [str(path) for path in source_files(checkout)] == EXPECTED
    write(checkout, mine__new="new = 1")
    (checkout / "vcrast" / "a.py").unlink()
    assert [str(path) for path in source_files(checkout)] == [
        "launch/b.py", "mine/c.py", "mine/new.py", "vcrast/kernel.cu",
    ]  # fmt: skip


def test_without_git_the_packages_are_taken_by_folder(checkout):
    (checkout / ".git").rename(checkout.parent / "gone")
    assert [str(path) for path in source_files(checkout)] == [path for path in EXPECTED if not path.startswith("mine")]


def test_a_copy_can_be_copied_and_remembers_its_commit(checkout, tmp_path):
    copy = take(checkout, tmp_path / "code")
    again = take(copy, tmp_path / "again")
    assert [str(path) for path in source_files(again)] == [path for path in EXPECTED if not path.startswith("mine")]
    assert git_state(again) == git_state(copy) == git_state(checkout)


def test_a_copy_holds_the_files_as_they_were(checkout, tmp_path):
    copy = take(checkout, tmp_path / "code")
    write(checkout, vcrast__a="a = 2")
    assert (copy / "vcrast" / "a.py").read_text() == "a = 1"
    other = take(checkout, tmp_path / "code")
    assert (other / "vcrast" / "a.py").read_text() == "a = 2"
    assert (copy / "vcrast" / "a.py").read_text() == "a = 1"
    assert sorted(path.name for path in (tmp_path / "code").iterdir()) == sorted([copy.name, other.name])


def test_the_same_code_is_copied_once(checkout, tmp_path):
    copy = take(checkout, tmp_path / "code")
    (copy / "witness").touch()
    assert take(checkout, tmp_path / "code") == copy
    assert (copy / "witness").exists()


def test_the_fingerprint_knows_names_and_contents(checkout):
    files = source_files(checkout)
    before = fingerprint(checkout, files)
    assert fingerprint(checkout, files) == before
    (checkout / "mine" / "c.py").rename(checkout / "mine" / "e.py")
    renamed = fingerprint(checkout, source_files(checkout))
    write(checkout, mine__e="c = 2")
    assert len({before, renamed, fingerprint(checkout, source_files(checkout))}) == 3


def test_a_copy_knows_its_commit_and_whether_files_differed(checkout, tmp_path):
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert git_state(take(checkout, tmp_path / "code")) == {"commit": commit, "dirty": False}
    write(checkout, vcrast__a="a = 3")
    assert git_state(take(checkout, tmp_path / "code")) == {"commit": commit, "dirty": True}


def test_files_edited_while_copying_are_noticed_and_leave_nothing(checkout, tmp_path, monkeypatch):
    def copy_something_else(source, target):
        Path(target).write_text("edited")

    monkeypatch.setattr(snapshot.shutil, "copyfile", copy_something_else)
    with pytest.raises(ValueError, match="edited while the code was copied"):
        take(checkout, tmp_path / "code")
    assert list((tmp_path / "code").iterdir()) == []


def test_a_copy_of_this_project_composes_by_itself(tmp_path):
    copy = take(ROOT, tmp_path)
    program = "import vcrast.config.compose as c; print(c.__file__, c.compose(['recipe=demo']).recipe)"
    done = subprocess.run(
        ["env", "PYTHONSAFEPATH=1", f"PYTHONPATH={copy}", sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(copy / "vcrast" / "config" / "compose.py"), "demo"]
    assert json.loads((copy / "snapshot.json").read_text())["files"] == len(source_files(ROOT))
