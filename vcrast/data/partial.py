"""Keep what a build of the cache has decoded so far, for the next build to go on with.

`.<name>.part` holds the samples, `.<name>.part.jsonl` a line for each clip. A line is written once its samples are on
the disk, so whatever ended a build, the lines tell how much of the samples is whole. The kernel's lock on the samples
says whether a build is at work.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from vcrast.config.atomic import open_aside, publish, write_atomic
from vcrast.data.room import NoRoomError

SUFFIX = ".part"
LINES = ".jsonl"
FLUSH_S = 5.0
STALE_S = 7 * 24 * 3600.0  # nobody goes on with it


class Decoded(NamedTuple):
    """One decoded clip: 16-bit samples and their full scale, or the reason why there are none; hash of its file."""

    samples: np.ndarray
    content: str
    reason: str
    scale: float = 1.0


class Facts(NamedTuple):
    """What is kept of a decoded clip besides its samples."""

    num_samples: int
    content: str
    reason: str
    scale: float


class Partial:
    """Samples and facts of the clips decoded so far, in order.

    Attributes:
        file: of the samples.
        facts: of each clip.
    """

    def __init__(self, file: BinaryIO, lines: Path | None, facts: list[Facts]) -> None:
        self.file, self.facts = file, facts
        self._lines, self._written, self._flushed_at = lines, len(facts), time.monotonic()

    def add(self, decoded: Decoded) -> None:
        """Append a clip.

        Raises:
            OSError: the disk is full.
        """
        self.file.write(decoded.samples.tobytes())
        self.facts.append(Facts(len(decoded.samples), decoded.content, decoded.reason, decoded.scale))
        if time.monotonic() - self._flushed_at > FLUSH_S:
            self.flush()

    def publish(self, path: Path) -> None:
        """Give the samples their name: the build is done."""
        if self._lines is not None:
            self._lines.unlink(missing_ok=True)
            self._lines = None
        publish(self.file, path)

    def flush(self) -> None:
        """Bring all that was added to the disk, samples first."""
        self.file.flush()
        if self._lines is not None:
            os.fsync(self.file.fileno())
            with open(self._lines, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(list(facts)) + "\n" for facts in self.facts[self._written :])
                file.flush()
                os.fsync(file.fileno())
        self._written, self._flushed_at = len(self.facts), time.monotonic()


@contextmanager
def open_partial(path: Path, digest: str) -> Iterator[Partial]:
    """Open what an earlier build of `path` has left, or begin anew.

    It is kept when the block ends by a signal, a dead process or anything else but faults of the data or the disk; also
    where there is no room for the rest.
    While another build is at work, or where the file system has no locks, it is a file of its own that is not kept.

    Args:
        path: what is being built, in a folder that exists.
        digest: of all that the clips are decoded from; what was begun with another one is dropped.

    Raises:
        OSError: the folder cannot be written.
    """
    samples = path.with_name(f".{path.name}{SUFFIX}")
    lines = samples.with_name(samples.name + LINES)
    file = open(samples, "a+b")  # noqa: SIM115 closed below
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.fstat(file.fileno()).st_nlink > 0  # else its writer has just finished
    except BlockingIOError:
        mine = False
    except OSError:  # a file system without locks
        mine = False
        samples.unlink(missing_ok=True)
    if not mine:
        file.close()
        with open_aside(path) as own:
            yield Partial(own, None, [])
        return
    partial = Partial(file, lines, _restore(file, lines, digest))
    keep = False
    try:
        yield partial
    except (ValueError, OSError) as error:
        keep = isinstance(error, NoRoomError) and bool(partial.facts)
        raise
    except BaseException:
        keep = True
        partial.flush()
        raise
    finally:
        if not keep and _is(samples, file):
            lines.unlink(missing_ok=True)
            samples.unlink(missing_ok=True)
        file.close()


def _is(path: Path, file: BinaryIO) -> bool:
    """Tell whether `path` is the open file, and not another build's."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False


def _restore(file: BinaryIO, lines: Path, digest: str) -> list[Facts]:
    """Return the facts of the clips whose samples are whole, and cut off both files behind them."""
    head = json.dumps({"digest": digest})
    try:
        first, *found = lines.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        first, found = "", []
    size, end, facts = os.fstat(file.fileno()).st_size, 0, []
    for line in found if first == head else ():
        one = _read(line)
        if one is None or end + 2 * one.num_samples > size:
            break
        end += 2 * one.num_samples
        facts.append(one)
    file.truncate(end)
    write_atomic(lines, "".join(f"{line}\n" for line in [head, *found[: len(facts)]]))
    return facts


def _read(line: str) -> Facts | None:
    """Read a line; None where its writer was stopped in the middle of it."""
    try:
        facts = Facts(*json.loads(line))
    except (ValueError, TypeError):
        return None
    return facts if isinstance(facts.num_samples, int) else None


def remove_stale(folder: Path) -> None:
    """Delete what no build has gone on with for a week."""
    for lines in folder.glob(f".*{SUFFIX}{LINES}"):
        samples = lines.with_name(lines.name.removesuffix(LINES))
        with contextlib.suppress(OSError), open(samples, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - lines.stat().st_mtime > STALE_S:
                lines.unlink()
                samples.unlink()
