from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import textwrap
import time

import torch

from vcrast.runs.progress import Progress


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_plain_lines_come_seldom_and_at_the_end(capsys, monkeypatch):
    clock = Clock(monkeypatch)
    with Progress("pretrain", "1", 100, every_s=10) as bar:
        for step in range(1, 101):
            clock.now += 0.5
            bar.update(step, loss=torch.tensor(2.0), parts={"variance": 0.25}, samples_per_s=64.0, data_s=0.1)
    lines = capsys.readouterr().err.splitlines()
    assert [re.search(r"(\d+)/100", line)[1] for line in lines] == ["1", "21", "41", "61", "81", "100"]
    assert lines[1].startswith("pretrain fold 1  21/100  loss 2  (variance 0.25)  64 samples/s  ETA 0:00:40  ")
    assert lines[1].endswith(" GiB")
    assert "\x1b" not in "".join(lines)


def test_tensors_are_not_copied_for_lines_that_are_not_drawn(monkeypatch):
    clock = Clock(monkeypatch)
    with Progress("pretrain", "", 100, every_s=10) as bar:
        bar.update(1)
        clock.now += 1
        copied: list[torch.Tensor] = []
        monkeypatch.setattr(torch.Tensor, "__float__", lambda self: copied.append(self) or 1.0)
        bar.update(2, loss=torch.tensor(1.0))
        assert copied == []
        clock.now += 20
        bar.update(3, loss=torch.tensor(1.0))
        assert len(copied) == 1  # a line that is drawn does copy


def eta(capsys) -> str:
    return re.search(r"ETA (\S.*?)  ", capsys.readouterr().err.splitlines()[-1])[1]


def test_time_left_after_a_resume_counts_only_the_steps_done_since(capsys, monkeypatch):
    clock = Clock(monkeypatch)
    with Progress("pretrain", "1", 1000, start_step=900, every_s=0) as bar:
        clock.now += 7.0
        bar.update(901)
        assert eta(capsys) == "--"
        clock.now += 2.0
        bar.update(902)
        assert eta(capsys) == "0:03:16"  # 98 steps of 2 s


def test_speed_is_that_of_the_last_updates(capsys, monkeypatch):
    clock = Clock(monkeypatch)
    with Progress("pretrain", "1", 800, every_s=0) as bar:
        for step in range(1, 701):
            clock.now += 5.0 if step <= 50 else 1.0  # the beginning was slow
            bar.update(step, samples_per_s=10.0 if step <= 50 else 50.0)
    assert "50 samples/s  ETA 0:01:40" in capsys.readouterr().err.splitlines()[-1]


def test_days_are_shown_as_days(capsys, monkeypatch):
    clock = Clock(monkeypatch)
    with Progress("pretrain", "1", 2 * 1440 + 63, every_s=0) as bar:
        for step in (1, 2):
            clock.now += 60.0
            bar.update(step)
    assert eta(capsys) == "2 days, 1:01:00"


LIVE = """
    import logging, sys, time
    from pathlib import Path
    from vcrast.runs.messages import setup_logging
    from vcrast.runs.progress import Progress
    setup_logging(Path(sys.argv[1]))
    with Progress("pretrain", "1", 3) as bar:
        for step in (1, 2, 3):
            bar.update(step, loss=1.0 / step, samples_per_s=10.0)
            logging.getLogger("vcrast.x").info("message %d", step)
            time.sleep(0.3)
"""


def in_terminal(*arguments: str) -> str:
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LIVE), *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # Linux reports the other end's closing so
            break
        if not piece:
            break
        seen += piece
    os.close(leader)
    assert child.wait(timeout=30) == 0
    return seen.decode()


def test_a_terminal_gets_one_live_line_with_messages_above_it(tmp_path):
    seen = in_terminal(str(tmp_path))
    assert "\x1b[2K" in seen  # the line is redrawn in place
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)
    for step in (1, 2, 3):
        assert f"{step}/3" in plain
        assert f"message {step}" in plain
    assert plain.rindex("3/3") > plain.rindex("message 3")


def test_a_log_file_gets_plain_lines_even_when_colour_is_forced(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIVE), str(tmp_path)], capture_output=True, text=True,
        env={**os.environ, "FORCE_COLOR": "1"},
    )  # fmt: skip
    assert "\x1b" not in done.stderr
    assert "1/3" in done.stderr
    assert "3/3" in done.stderr
