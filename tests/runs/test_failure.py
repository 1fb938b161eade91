"""Tell what a message explains from what needs its place, and write both to logs."""

import contextlib
import errno
import json

import pytest
import torch

from vcrast.config.registry import LOGGERS
from vcrast.config.resume import resolve
from vcrast.runs.failure import append_to_log, explains_itself, message, told


def raised(call):
    with contextlib.suppress(BaseException):
        try:
            call()
        except BaseException as error:
            return error
    raise AssertionError("nothing was raised")


def no_room():
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("call", "told_in_one_line"),
    [
        (lambda: LOGGERS.get("wandbb"), True),
        (lambda: resolve(["recipe=demo", "attention=rff"]), True),
        (lambda: open("/no/such/file"), True),  # noqa: SIM115 it is not there
        (no_room, True),
        (lambda: {"a": 1}["b"], False),
        (lambda: LOGGERS.builders["b"], False),
        (lambda: torch.ones(2) @ torch.ones(3), False),
        (lambda: json.loads("{"), False),
        (lambda: torch.ones(2).view(3), False),
        (lambda: explains_itself(None).missing, False),
    ],
)
def test_one_line_explains_what_was_raised_for_the_user_and_nothing_else(call, told_in_one_line):
    error = raised(call)
    assert explains_itself(error) is told_in_one_line, repr(error)
    assert ("Traceback" in told(error)) is not told_in_one_line
    assert message(error) in told(error)


def test_key_errors_lose_their_quotes():
    assert message(KeyError("no such part; choose from a, b")) == "no such part; choose from a, b"
    assert message(ValueError("2 faults:\n  line 3: x")) == "2 faults:\n  line 3: x"
    assert message(ValueError()) == "ValueError"


def test_a_line_is_added_to_the_log_of_a_run_and_once_if_asked(tmp_path):
    append_to_log(tmp_path / "train.log", "lost")
    assert not list(tmp_path.iterdir())  # nothing has begun there
    (tmp_path / "train.log").write_text("run folder: x\nbefore: lost\nrun folder: x\n")
    for _ in range(2):
        append_to_log(tmp_path / "train.log", "lost", name="local.py", once=True)
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert len(lines) == 4
    assert lines[3].endswith(" ERROR   local.py: lost")
