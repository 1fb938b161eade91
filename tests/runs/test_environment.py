from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vcrast.runs import environment
from vcrast.runs.environment import redact_arguments, redact_mapping, write_environment
from vcrast.runs.messages import setup_logging

SECRET = "hush" * 10


@pytest.fixture
def logging_restored():
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()
    logging.captureWarnings(False)


@pytest.mark.usefixtures("logging_restored")
def test_messages_go_to_stderr_and_with_date_and_level_to_the_file(tmp_path, capsys):
    for folder in ("a", "b"):
        setup_logging(tmp_path / folder)
    logging.getLogger("vcrast.pretrain").info("seen")
    logging.getLogger("vcrast.pretrain").warning("also seen")
    logging.getLogger("somebody.else").info("noise")
    shown = capsys.readouterr().err
    assert shown.count("seen") == 2
    assert "noise" not in shown
    lines = (tmp_path / "b" / "train.log").read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ INFO    vcrast.pretrain: seen", lines[0])
    assert "WARNING vcrast.pretrain: also seen" in lines[1]
    assert (tmp_path / "a" / "train.log").read_text() == ""


def test_environment_says_what_matters_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("MY_SECRET_TOKEN", SECRET)
    monkeypatch.setattr(
        sys, "argv", ["local.py", "esc50", f"--api-key={SECRET}", "--token", SECRET, f"data.secret={SECRET}"]
    )
    path = write_environment(tmp_path)
    assert os.listdir(tmp_path) == ["env.json"]
    found = json.loads(path.read_text())
    assert SECRET not in path.read_text()
    assert found["variables"]["SLURM_JOB_ID"] == "4711"
    assert set(found["variables"]) <= set(environment.VARIABLES)
    assert (
        found["packages"]["torch"] == torch.__version__.partition("+")[0]
        or found["packages"]["torch"] == torch.__version__
    )
    assert found["command"][1:3] == ["local.py", "esc50"]
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["cpu"]


def test_command_lines_keep_everything_but_secrets():
    given_ = [
        "esc50",
        "seed=1",
        "--key",
        SECRET,
        "--no-token",
        "--x",
        f"API_KEY={SECRET}",
        f"url=https://me:{SECRET}@host/x",
        "a/key=x",
    ]
    assert redact_arguments(given_) == [
        "esc50", "seed=1", "--key", "***", "--no-token", "--x", "API_KEY=***", "url=https://***@host/x", "a/key=***",
    ]  # fmt: skip


def test_settings_keep_everything_but_secrets():
    values = {
        "token": SECRET,
        "num_tokens": 512,
        "data": {"access_key": SECRET, "root": "/data", "keys": {"a": 1}},
        "key": None,
    }
    assert redact_mapping(values) == {
        "token": "***", "num_tokens": 512, "key": None,
        "data": {"access_key": "***", "root": "/data", "keys": {"a": 1}},
    }  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_commit_and_changes_of_the_programs_own_checkout(tmp_path):
    assert environment.git_state(tmp_path) is None
    git(tmp_path, "init")
    (tmp_path / "inner").mkdir()
    (tmp_path / "file").write_text("1")
    assert environment.git_state(tmp_path)["commit"] is None
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    assert environment.git_state(tmp_path) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "file").write_text("2")
    assert environment.git_state(tmp_path)["dirty"] is True
    assert environment.git_state(tmp_path / "inner") is None
