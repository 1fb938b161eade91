"""Fetch files of another machine before the clips in them are asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from vcrast.data.audio import MEMBERS
from vcrast.data.clips import Clips
from vcrast.data.members import SCHEME, Members, file_of
from vcrast.data.remote import RemoteFiles, StoreError, is_remote

T = TypeVar("T")
AHEAD = 4  # files beyond those that are being read
BATCHES_AHEAD = 256  # that are looked through for files


class Use(NamedTuple):
    """The first and the last batch that asks for a file."""

    first: int
    last: int


class FetchAhead:
    """A thread that walks the order of the clips in front of those who read them.

    Args:
        clips: of the dataset.
        keys: of the batches, each a list of (clip, position).
        remote: fetches and keeps.
        ahead: files beyond those that are being read.
    """

    def __init__(self, clips: Clips, keys: Iterable[list[tuple[int, int]]], remote: RemoteFiles, ahead: int) -> None:
        assert clips.block is not None
        self.clips, self.keys, self.remote, self.ahead = clips, keys, remote, ahead
        self.block: np.ndarray = clips.block
        self.read = 0  # batches that were handed over
        self.moved, self.ended = threading.Condition(), False

    def while_read(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield the batches, fetching until the last one is taken."""
        thread = threading.Thread(target=self._fetch, name="fetch", daemon=True)
        thread.start()
        try:
            for batch in batches:
                yield batch
                with self.moved:
                    self.read += 1
                    self.moved.notify()
        finally:
            with self.moved:
                self.ended = True
                self.moved.notify()

    def _fetch(self) -> None:
        """Fetch each file before its first clip is due; at most `ahead` files whose clips are not being read yet."""
        known: dict[int, Use] = {}
        for number, keys in enumerate(self.keys):
            for block in np.unique(self.block[[clip for clip, _ in keys]]).tolist():
                used = known.get(block)
                if used is not None and number - used.last < BATCHES_AHEAD:
                    known[block] = Use(used.first, number)
                    continue
                # Its copy may have been removed since; asking for one that is there costs nothing.
                if not self._wait_for_turn(number, known):
                    return
                known[block] = Use(number, number)
                url = remote_file(self.clips[int((self.block == block).argmax())].path)
                try:
                    if url is not None:
                        self.remote.path(url)
                except StoreError:  # whoever reads it says so
                    return
            if not self._wait_for_turn(number, {}):
                return

    def _wait_for_turn(self, number: int, known: dict[int, Use]) -> bool:
        """Wait until the readers are near; false when they have ended."""

        def near() -> bool:
            waiting = sum(use.first > self.read for use in known.values())
            return self.ended or (waiting < self.ahead and number - self.read < BATCHES_AHEAD)

        with self.moved:
            self.moved.wait_for(near)
            return not self.ended


def remote_file(path: str) -> str | None:
    """Return the file of another machine that holds a clip, or None."""
    if not path.startswith(f"{SCHEME}://"):
        return None
    file = file_of(path)
    return file if is_remote(file) else None


def fetching_ahead(clips: Clips, keys: Iterable[list[tuple[int, int]]]) -> FetchAhead | None:
    """Return what fetches for these batches; None where all clips are on this machine."""
    members = MEMBERS.get(SCHEME)
    if clips.block is None or not len(clips) or not isinstance(members, Members):
        return None
    firsts = [0] if clips.part is None else np.unique(clips.part, return_index=True)[1].tolist()
    if all(remote_file(clips[place].path) is None for place in firsts):
        return None
    return FetchAhead(clips, keys, members.remote, AHEAD)
