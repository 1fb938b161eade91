"""Start worker processes from a fork server.

A plain fork copies a process in which torch may hold thread pools, locks or a CUDA context, and the child can hang in
its first parallel operation. Spawning is safe but imports torch in every worker. A fork server is one clean process
that has imported torch and started nothing: its children are safe, and there in milliseconds.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import TypeVar

import numpy as np

from vcrast.data.audio import READERS

T = TypeVar("T")
Readers = dict[str, Callable[[str, int], np.ndarray]]
# What Slurm, a terminal and `kill` send to all processes of a job.
OUTER_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def fork_server() -> ForkServerContext:
    """Return the context that all worker processes of this program are started from.

    Raises:
        ValueError: the program came through standard input, so a worker cannot load its main module.
    """
    if not can_start_workers():
        raise ValueError("worker processes need a program in a file, not on standard input; set data.num_workers=0")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vcrast.data.fork_server"])
    return context


def can_start_workers() -> bool:
    """Tell whether a worker could import this program's main module (a notebook has none, which is fine)."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    return main is None or os.path.exists(main)


def num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_decoder(readers: Readers) -> None:
    """Initialise a process that builds the cache: Slurm's signals end it, Ctrl-C is left to the parent.

    Args:
        readers: the parent's table; a fresh process has not imported the sources that fill it.
    """
    READERS.update(readers)
    for number in OUTER_SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OUTER_SIGNALS)


def start_loader(readers: Readers) -> None:
    """Initialise a loader's worker: signals are left to the parent.

    Slurm sends its warning to every process of a job; a worker that died of it would take the last checkpoint with it.
    They were blocked in the fork server, so none got through before this call.
    """
    READERS.update(readers)
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
