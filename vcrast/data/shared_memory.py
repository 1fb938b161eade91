"""Tell whether worker processes can hand over their batches in shared memory."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path

log = logging.getLogger(__name__)

PLACE = Path("/dev/shm")
PREFETCHED = 2  # batches of each worker that wait, as DataLoader has it
IN_HAND = 3  # further ones: being used, pinned, copied
_warned: list[str] = []


def shared_memory_fault() -> str | None:
    """Why no worker process can be started: their locks lie in /dev/shm. None where all is well."""
    if not sys.platform.startswith("linux") or os.access(PLACE, os.W_OK | os.X_OK):
        return None
    return f"{PLACE} {'cannot be written' if PLACE.exists() else 'does not exist'}"


def fits_shared_memory(num_workers: int, batch_bytes: int) -> bool:
    """Tell whether there is room for the batches that `num_workers` make ahead; says it once where there is not.

    A full /dev/shm is no error that a worker could report: its batch is lost and its reader waits for ever, or it is
    killed by SIGBUS. Docker gives 64 MB if nothing else is asked for.

    Args:
        num_workers: of this process; as many of every other process of this machine (`LOCAL_WORLD_SIZE`).
        batch_bytes: of the largest batch.
    """
    if not sys.platform.startswith("linux"):
        return True
    processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    needed = processes * (num_workers * (PREFETCHED + 1) + IN_HAND) * batch_bytes
    free = shutil.disk_usage(PLACE).free
    if free >= needed:
        return True
    _warn_once(
        f"data: {PLACE} has {free / 2**20:.0f} MiB free, the batches of {num_workers} workers need up to "
        f"{needed / 2**20:.0f}: they are sent through pipes, which is slower; give it more (docker run --shm-size=2g), "
        "or set data.num_workers=0"
    )
    return False


def _warn_once(text: str) -> None:
    """Warn the first time only: every evaluation starts workers, and what is free differs each time."""
    if not _warned:
        _warned.append(text)
        log.warning("%s", text)
