"""One run per folder: a lock file that says who is in there, and that a dead run does not leave behind for ever."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from vcrast.runs.process import Writer, this_process

log = logging.getLogger(__name__)

NAME = "run.lock"
BEAT_EVERY_S = 30.0


class RunLockedError(RuntimeError):
    """Another run uses the folder."""


class RunLock:
    """Context manager that holds a run folder for this process.

    Args:
        folder: the run folder; created if missing.
        stale_after_min: a lock of another machine, whose processes cannot be asked, counts as abandoned after so many
            minutes without a heartbeat. A thread beats while the lock is held, however long a step takes.

    Raises:
        RunLockedError: on entering, when another run holds the folder.
    """

    def __init__(self, folder: Path, *, stale_after_min: float = 15.0) -> None:
        self.folder, self.path = Path(folder), Path(folder) / NAME
        self.stale_after_min = stale_after_min
        self.token = ""
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RunLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        owner = _describe()
        with _one_at_a_time(self.folder):
            if not _create(self.path, owner):
                self._break_or_refuse()
                if not _create(self.path, owner):
                    raise RunLockedError(f"{self.folder}: another run took the folder at this very moment")
        self.token = owner["token"]
        self._released.clear()
        self._thread = threading.Thread(target=self._keep_beating, name="run-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give the folder back, unless the lock has become another's (a forked child's exit, a broken lock)."""
        self._released.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        with contextlib.suppress(OSError), _one_at_a_time(self.folder):
            held = _read(self.path)
            if held and held.get("token") == self.token and held.get("pid") == os.getpid():
                self.path.unlink()
        self.token = ""

    def beat(self) -> None:
        """Show that the run is alive.

        Raises:
            RunLockedError: another run has taken the folder meanwhile, because this one was silent for too long.
        """
        try:
            held = _read(self.path)
            if held is None and not self.path.exists():
                log.warning("%s was removed while this run uses the folder; putting it back", self.path)
                _create(self.path, {**_describe(), "token": self.token})
                held = _read(self.path)
            if held and held.get("token") != self.token:
                raise RunLockedError(
                    f"{_who(self.folder, held)}: it took over the folder of this run, which was silent"
                )
            os.utime(self.path)
        except OSError as error:
            log.warning("heartbeat of %s failed: %s", self.path, error)

    def _keep_beating(self) -> None:
        while not self._released.wait(BEAT_EVERY_S):
            try:
                self.beat()
            except RunLockedError as error:
                log.error("%s; two runs now write there, stop one", error)
                return

    def _break_or_refuse(self) -> None:
        """Remove a lock whose owner is gone; RunLockedError if it is not."""
        held = _read(self.path)
        reason = _why_stale(held, _age_min(self.path), self.stale_after_min)
        if reason is None:
            kill = f"stop it (kill {held['pid']} on {held['host']})" if held else "stop it"
            raise RunLockedError(
                f"{_who(self.folder, held)}; wait for it, {kill}, or choose another run.dir. "
                f"If you are sure that it is gone, delete {self.path}"
            )
        log.warning("%s: taking over the lock of a run that is gone (%s)", self.path, reason)
        self.path.unlink(missing_ok=True)


def _describe() -> dict[str, Any]:
    me = this_process()
    return {
        "host": me.host,
        "pid": me.pid,
        "started": me.started,
        "job": os.environ.get("SLURM_JOB_ID"),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "token": uuid.uuid4().hex,
    }


def _why_stale(held: dict[str, Any] | None, age_min: float, stale_after_min: float) -> str | None:
    """Why the owner of a lock must be gone, or None."""
    if held is not None:
        owner = Writer(held["host"], held["pid"], held["started"])
        if owner.is_here():
            return None if owner.is_alive() else f"process {owner.pid} has ended"
        # Slurm starts a job anew, elsewhere, only after it has ended: no need to wait for the heartbeat to grow old.
        me = _describe()
        if me["job"] and held.get("job") == me["job"] and held.get("restarts", 0) < me["restarts"]:
            return f"job {me['job']} was requeued"
    return f"no heartbeat for {age_min:.0f} minutes" if age_min > stale_after_min else None


def _who(folder: Path, held: dict[str, Any] | None) -> str:
    if held is None:
        return f"{folder}: in use, by a run whose lock cannot be read"
    job = f", Slurm job {held['job']}" if held.get("job") else ""
    return f"{folder}: in use by process {held['pid']} on {held['host']}{job}, since {held['time']}"


def _create(path: Path, owner: dict[str, Any]) -> bool:
    """Create the lock with its content in one go; False if there is one."""
    content = json.dumps(owner, indent=2) + "\n"
    aside = path.with_name(f".{NAME}.{owner['token']}")
    try:
        aside.write_text(content)
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: others may see the lock empty for a moment, and respect it
        return _create_in_place(path, content)
    finally:
        aside.unlink(missing_ok=True)
    return True


def _create_in_place(path: Path, content: str) -> bool:
    try:
        with open(path, "x") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """The owner, or None when there is no lock or it cannot be understood."""
    try:
        held = json.loads(path.read_text())
        Writer(str(held["host"]), int(held["pid"]), int(held["started"]))
        return {"time": "unknown", **held}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _age_min(path: Path) -> float:
    try:
        return (time.time() - path.stat().st_mtime) / 60
    except FileNotFoundError:
        return float("inf")


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process at a time look at the lock and change it: two that find it stale must not both break it.

    The kernel lets go when the process dies. Where the file system cannot do this, only that rare race stays open.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
