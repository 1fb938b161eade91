"""Start worker processes from a fork server.

A plain fork copies a process in which torch may hold thread pools, locks or a CUDA context, and the child can hang in
its first parallel operation. Spawning is safe but imports torch in every worker. A fork server is one clean process
that has imported torch and started nothing: its children are safe, and there in milliseconds.
"""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import TypeVar

from vcrast.data.audio import Readers, add_readers
from vcrast.data.shared_memory import shared_memory_fault

T = TypeVar("T")
LONGEST_FOLDER = 75  # bytes: a socket's path may have 107, and multiprocessing adds two names
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
# What Slurm, a terminal and `kill` send to all processes of a job.
OUTER_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def fork_server() -> ForkServerContext:
    """Return the context that all worker processes of this program are started from.

    Raises:
        ValueError: no worker can be started here; says why.
    """
    if (fault := workers_fault()) is not None:
        raise ValueError(f"worker processes cannot be started, {fault}; set data.num_workers=0")
    context = multiprocessing.get_context("forkserver")
    _make_short_folder()
    context.set_forkserver_preload(["vcrast.data.fork_server"])
    return context


def workers_fault() -> str | None:
    """Why no worker process can be started, or None."""
    main = getattr(sys.modules["__main__"], "__file__", None)  # a notebook has none, which is fine
    if main is not None and not os.path.exists(main):
        return "the program came through standard input and a worker cannot load it"
    return shared_memory_fault()


def can_start_workers() -> bool:
    """Tell whether worker processes can be started."""
    return workers_fault() is None


def _make_short_folder() -> None:
    """Choose where multiprocessing puts its sockets: their paths have a limit, which a long TMPDIR exceeds.

    Raises:
        ValueError: TMPDIR is too long, and there is no other folder.
    """
    chosen = tempfile.gettempdir()
    if len(os.fsencode(chosen)) <= LONGEST_FOLDER:
        return
    short = next((place for place in SHORT_FOLDERS if os.access(place, os.W_OK | os.X_OK)), None)
    if short is None:
        raise ValueError(
            f"TMPDIR={chosen}: too long for sockets ({len(os.fsencode(chosen))} bytes, at most {LONGEST_FOLDER}); set "
            "a shorter one, or data.num_workers=0"
        )
    tempfile.tempdir = short
    try:
        multiprocessing.util.get_temp_dir()  # remembered by this process
    finally:
        tempfile.tempdir = chosen


def end_with_parent() -> None:
    """End this process within moments of the one that it works for, whatever ended that.

    The fork server, its parent to the system, lives as long as any of its workers.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_end, args=(parent,), name="parent", daemon=True).start()


def _wait_and_end(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_left_alone(number: signal.Signals) -> bool:
    """Whether whoever started this program wants it to outlive its terminal, as `nohup` does."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def start_decoder(readers: Readers) -> None:
    """Initialise a process that builds the cache: Slurm's signals end it, Ctrl-C is left to the parent.

    Args:
        readers: the parent's tables; a fresh process has not imported the sources that fill them.
    """
    add_readers(readers)
    end_with_parent()
    for number in OUTER_SIGNALS:
        ignored = number == signal.SIGINT or is_left_alone(number)
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OUTER_SIGNALS)


def start_loader(readers: Readers) -> None:
    """Initialise a loader's worker: signals are left to the parent.

    Slurm sends its warning to every process of a job; a worker that died of it would take the last checkpoint with it.
    They were blocked in the fork server, so none got through before this call.
    """
    add_readers(readers)
    end_with_parent()
    for number in OUTER_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def workers_killed_at_end(start: Callable[[], T]) -> Iterator[T]:
    """Kill the workers that `start` starts when the body or the program ends, whichever comes first.

    A worker that ignores SIGTERM would never follow the polite request that multiprocessing makes at exit and then
    waits on: after an error, the program would hang for ever.
    """
    before = set(multiprocessing.active_children())
    started = start()
    end = partial(_kill, set(multiprocessing.active_children()) - before)
    atexit.register(end)
    try:
        yield started
    finally:
        atexit.unregister(end)
        end()


def _kill(workers: set[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
        worker.join()
