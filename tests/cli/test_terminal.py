"""What is written after a terminal is lost."""

import os
import select
import sys

import pytest

from vcrast.cli.terminal import outlive_terminal


def test_a_lost_terminal_is_no_error(monkeypatch):
    ours, theirs = os.openpty()
    streams = {name: os.fdopen(os.dup(theirs), "w") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    outlive_terminal()
    print("before", flush=True)
    print("and this", file=sys.stderr, flush=True)
    seen = b""
    while not seen.endswith(b"this\r\n") and select.select([ours], [], [], 5)[0]:  # a terminal may hand on line by line
        seen += os.read(ours, 100)
    assert seen == b"before\r\nand this\r\n"
    os.close(ours)
    with pytest.raises(OSError, match="Input/output error"):
        os.write(theirs, b"lost")
    print("after", flush=True)
    print("again", file=sys.stderr, flush=True)
    os.close(theirs)


def test_what_is_no_terminal_stays(monkeypatch, tmp_path):
    with open(tmp_path / "out", "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        outlive_terminal()
        assert sys.stdout is file
