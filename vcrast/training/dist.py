"""Which process this is, and of how many."""

from __future__ import annotations

from torch import distributed


def rank() -> int:
    """Number of this process among all, from 0; 0 when there is only one."""
    return distributed.get_rank() if running() else 0


def world_size() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if running() else 1


def running() -> bool:
    """Whether a process group was started."""
    return distributed.is_available() and distributed.is_initialized()
