"""A user's mistake becomes one line and exit code 2, in every launcher alike."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from launch.processes import PEER_LOST
from vcrast.runs.lock import RunLockedError

MISTAKES = (ValueError, KeyError, OSError, FloatingPointError, ModuleNotFoundError, RunLockedError)


def explained(script: str, call: Callable[[], int]) -> int:
    """The exit code of `call`; 2 after a mistake, told on stderr, and `PEER_LOST` when another process is gone.

    `VCRAST_DEBUG=1` in the environment shows where.
    """
    try:
        return call()
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ConnectionError as error:
        print(f"{script}: error: {error}", file=sys.stderr)
        return PEER_LOST
    except MISTAKES as error:
        if os.environ.get("VCRAST_DEBUG"):
            raise
        text = error.args[0] if isinstance(error, KeyError) else str(error)
        print(f"{script}: error: {text}", file=sys.stderr)
        return 2
