"""Tell mistakes, which one line explains, from faults, whose place must be shown."""

from __future__ import annotations

import dis
import errno
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType

EXPECTED = (ValueError, KeyError, OSError, ArithmeticError, ModuleNotFoundError, RuntimeError)
"""Errors that vcrast raises with a message for the user."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PACKAGE = Path(__file__).resolve().parent.parent
OURS = tuple(f"{folder}/" for folder in (PACKAGE, PACKAGE.parent / "launch", PACKAGE.parent / "extensions"))
LOG = "train.log"
BEGINS = "run folder: "  # the first line of every start
TAIL_BYTES = 100_000


def explains_itself(error: BaseException) -> bool:
    """Whether the message of an error says all: a `raise` of ours made it, or it names a file, a disk or a peer.

    A KeyError of a mapping that lacks a key, or a ValueError from within torch, says nothing without its place.
    """
    if isinstance(error, OSError) and (error.filename is not None or error.errno in NO_ROOM):
        return True
    if isinstance(error, ConnectionError):
        return True
    place = _innermost(error)
    if not isinstance(error, EXPECTED) or place is None:
        return isinstance(error, EXPECTED)
    code = place.tb_frame.f_code
    if not code.co_filename.startswith(OURS):
        return False
    return isinstance(error, ModuleNotFoundError) or dis.opname[code.co_code[place.tb_lasti]] == "RAISE_VARARGS"


def message(error: BaseException) -> str:
    """The message of an error without the quotes that KeyError puts around it; a list of faults keeps its lines."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text.strip() or type(error).__name__


def told(error: BaseException) -> str:
    """What a log keeps of an error: its message where that says all, else the traceback."""
    if explains_itself(error):
        return message(error)
    return "".join(traceback.format_exception(error)).strip()


def append_to_log(path: Path, text: str, *, level: str = "ERROR", name: str = "vcrast", once: bool = False) -> None:
    """Add a line to a log of a run that this process does not have open.

    Args:
        path: such as `<run>/train.log`; where there is none nothing has begun, and only the terminal is told.
        text: what happened.
        level: as `logging` calls it.
        name: of who says it.
        once: not if it stands there since the run was last started.
    """
    if not path.is_file():
        return
    with suppress(OSError):  # the terminal has been told, and a full disk may be what it was told
        since = path.read_bytes()[-TAIL_BYTES:].rpartition(BEGINS.encode())[2]
        if once and text.encode() in since:
            return
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))},{now % 1 * 1000:03.0f}"
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {level:<7} {name}: {text}\n")


def _innermost(error: BaseException) -> TracebackType | None:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place
