"""Read the cache: one memory-mapped file of 16-bit samples and a JSON index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vcrast.config.atomic import write_atomic
from vcrast.data.clip import Clip

SCALE = 32768.0  # libsndfile's own: 16-bit files pass through the cache unchanged


@dataclass
class Index:
    """Facts about every clip, in the order of the clips; written beside the samples.

    Attributes:
        data: name of the sample file.
        path: of each clip, for a human reader.
        num_samples: of each clip; 0 where it is quarantined.
        mtime_ns: of each file when its content was last compared.
        content: hash of each file's bytes.
        faults: position of a clip (as text: JSON keys are) -> why it is quarantined.
        scales: position of a clip -> what its samples were divided by, where that is not 1.
    """

    data: str
    sample_rate: int
    path: list[str]
    num_samples: list[int]
    mtime_ns: list[int]
    content: list[str]
    faults: dict[str, str]
    scales: dict[str, float]

    @classmethod
    def read(cls, path: Path) -> Index:
        """Read an index.

        Raises:
            FileNotFoundError: there is none.
            ValueError, TypeError: damaged, or of another version.
        """
        index = cls(**json.loads(path.read_text(encoding="utf-8")))
        size = path.with_name(index.data).stat().st_size
        if size != 2 * sum(index.num_samples):
            raise ValueError(f"{index.data} has {size} bytes, its index says {2 * sum(index.num_samples)}")
        return index

    def write(self, path: Path) -> None:
        """Write aside, sync, rename: a reader sees the old index or the new one."""
        write_atomic(path, json.dumps(asdict(self)))


class WavStore:
    """Decoded clips, addressed by their position in the list that the cache was built for.

    Attributes:
        faults: quarantined clips and why.
        good: positions of the others.
        scaled: clips whose samples were divided, and by what.
    """

    def __init__(self, path: Path, index: Index, clips: Sequence[Clip]) -> None:
        self.path = path
        self.sample_rate = index.sample_rate
        self.stops = np.cumsum(np.asarray(index.num_samples, dtype=np.int64))
        self.starts = self.stops - np.asarray(index.num_samples, dtype=np.int64)
        self.faults = [(clips[int(position)], reason) for position, reason in index.faults.items()]
        self.scaled = [(clips[int(position)], scale) for position, scale in index.scales.items()]
        self.good = [i for i in range(len(clips)) if str(i) not in index.faults]
        self.rows = {clips[i].segment: i for i in self.good}
        self.data: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map is all its samples; a worker opens the file itself.
        return {**self.__dict__, "data": None}

    def row(self, clip: Clip) -> int | None:
        """Return the position of a clip, or None if it is quarantined or unknown."""
        return self.rows.get(clip.segment)

    def num_samples(self, i: int) -> int:
        """Return the length of clip `i` in samples."""
        return int(self.stops[i] - self.starts[i])

    def read(self, i: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read samples start..stop of clip `i`, as far as it has them.

        Returns:
            (S,) float32 in [-1, 1).
        """
        if self.data is None:
            self.data = np.memmap(self.path, dtype="<i2", mode="r") if self.path.stat().st_size else np.zeros(0, "<i2")
        first, last = int(self.starts[i]), int(self.stops[i])
        last = last if stop is None else min(last, first + stop)
        return self.data[min(first + start, last) : last].astype(np.float32) / np.float32(SCALE)
