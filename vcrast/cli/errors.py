"""Turn errors of a command into one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from vcrast.runs.failure import explains_itself, message

PEER_LOST = 75
"""Exit code when another process, or a server, is gone: EX_TEMPFAIL, the same command may work later."""


def exit_code(command: str, call: Callable[[], int]) -> int:
    """Call, and turn what it raises into one line that begins with the command's name.

    Args:
        command: as in `vcrast: error: ...`.
        call: returns the exit code when all goes well.

    Returns:
        2 after an error that the user can mend, `PEER_LOST`, 130 after Ctrl-C, 0 when the reader of a pipe has left.
        What one line does not explain is raised as it is, to show where; with `VCRAST_DEBUG` in the environment so is
        everything else.
    """
    try:
        return call()
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("VCRAST_DEBUG") or not explains_itself(error):
            raise
        print(f"{command}: error: {message(error)}", file=sys.stderr)
        return PEER_LOST if isinstance(error, ConnectionError) else 2
