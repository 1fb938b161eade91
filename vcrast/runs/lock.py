"""Lock a run folder with filelock's lease; say who holds it.

The lease is a file that its run touches every few seconds. A run on the same machine that has ended loses it at once;
of any other, one in another container of this machine included, only the missing heartbeat tells that it is gone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import LeaseCompromise, SoftFileLease, Timeout

from vcrast.config.atomic import write_atomic

log = logging.getLogger(__name__)

NAME, NOTE = "run.lock", ".run.owner"
BEAT_EVERY_S = 5.0
# All runs must agree on it. Long enough for a network file system that stalls, short enough to wait for.
SILENT_S = 120.0
EMPTY_S = 5.0  # a lock without content: its writer died halfway, or found the disk full
MARGIN_S = 30.0


class RunLockedError(RuntimeError):
    """Another run uses the folder."""


class RunLock:
    """Context manager that holds a run folder for this process, while a thread shows that it is alive.

    Entering waits for at most `silent_s` to see whether the run that holds the folder is alive.

    Args:
        folder: the run folder; created if missing.
        silent_s: a run without a heartbeat for so long is gone.
        beat_every_s: between two heartbeats.

    Raises:
        RunLockedError: on entering, when another run holds the folder.
    """

    def __init__(self, folder: Path, *, silent_s: float = SILENT_S, beat_every_s: float = BEAT_EVERY_S) -> None:
        self.folder, self.path, self.silent_s = Path(folder), Path(folder) / NAME, silent_s
        self.lease = SoftFileLease(
            self.path, lease_duration=silent_s, heartbeat_interval=beat_every_s, on_compromise=self._lost,
            thread_local=False,
        )  # fmt: skip

    def __enter__(self) -> RunLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        former = self._owner()
        if self._is_former_self():
            self.lease.break_lock()
        self._acquire()
        if former:
            log.warning("%s: taking over the lock of a run that is gone (%s)", self.folder, former)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give the folder back, unless the lock has become another's (a forked child's exit, a lock taken over)."""
        if self.lease.is_locked and self.lease.is_lock_held_by_us:
            (self.folder / NOTE).unlink(missing_ok=True)
        self.lease.release()

    def _acquire(self) -> None:
        first, began = self._beat(), time.monotonic()
        announced = False
        while not self._try():
            beat, waited_s = self._beat(), time.monotonic() - began
            is_alive = first is not None and beat is not None and beat != first
            if is_alive or self.lease.is_lock_held_by_us or waited_s > self.silent_s + MARGIN_S:
                raise RunLockedError(self._refusal())
            if waited_s > EMPTY_S and beat is not None and beat[2] == 0:
                self.lease.break_lock()
            if waited_s > 1 and not announced:
                log.warning("%s: in use by %s; waiting for a sign of life", self.folder, self._owner())
                announced = True
            time.sleep(0.1)

    def _try(self) -> bool:
        try:
            self.lease.acquire(timeout=0)
        except Timeout:
            return False
        note = {"token": self.lease.token, "since": time.strftime("%Y-%m-%d %H:%M:%S %z"), **_slurm_job()}
        try:
            write_atomic(self.folder / NOTE, json.dumps(note) + "\n")
        except OSError:
            self.lease.release()
            raise
        return True

    def _lost(self, loss: LeaseCompromise) -> None:
        """Called by the heartbeat: put a lock back that was removed, and say it when another run has the folder."""
        if loss.reason == "marker-missing":
            self.lease.release()
            with contextlib.suppress(OSError):
                if self._try():
                    log.warning("%s was removed while this run uses the folder; putting it back", self.path)
                    return
        log.error(
            "%s: lost the lock (%s) to %s; if two runs write there, stop one", self.folder, loss.reason, self._owner()
        )

    def _beat(self) -> tuple[int, int, int] | None:
        """Time, number and size of the lock, which a heartbeat or another owner changes; None without a lock."""
        try:
            # Opened, because a network file system may answer a mere stat from memory.
            with open(self.path, "rb") as file:
                stat = os.fstat(file.fileno())
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

    def _note(self) -> dict[str, Any]:
        """What the present owner wrote beside the lock; empty if it did not come so far."""
        try:
            note = json.loads((self.folder / NOTE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        owner = self.lease.owner
        return note if owner is not None and isinstance(note, dict) and note.get("token") == owner.token else {}

    def _is_former_self(self) -> bool:
        """Whether the lock is of this Slurm job before its restart: Slurm starts it anew only after it has ended."""
        note, mine = self._note(), _slurm_job()
        return bool(mine["job"]) and note.get("job") == mine["job"] and note["restarts"] < mine["restarts"]

    def _owner(self) -> str:
        owner, note = self.lease.owner, self._note()
        if owner is None:
            return "a run whose lock cannot be read" if self.path.exists() else ""
        job = f", Slurm job {note['job']}" if note.get("job") else ""
        return f"process {owner.pid} on {owner.hostname}{job}, since {note.get('since', 'unknown')}"

    def _refusal(self) -> str:
        owner = self.lease.owner
        stop = f"stop it (kill {owner.pid} on {owner.hostname})" if owner else "stop it"
        return (
            f"{self.folder}: in use by {self._owner()}; wait for it, {stop}, or choose another run.dir. "
            f"If you are sure that it is gone, delete {self.path}"
        )


def _slurm_job() -> dict[str, Any]:
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    return {"job": os.environ.get("SLURM_JOB_ID"), "restarts": restarts}
