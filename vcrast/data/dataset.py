"""Turn a clip into an example: read, crop or pad, multi-hot label."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vcrast.config.words import suggest
from vcrast.data.audio import AudioFault, header, is_generated, read_scaled
from vcrast.data.clip import Clip
from vcrast.data.clips import Clips
from vcrast.data.hashing import stable_hash
from vcrast.data.order import Order
from vcrast.data.preflight import allowed_faults, fault_list
from vcrast.data.store import WavStore
from vcrast.data.windows import window_starts

log = logging.getLogger(__name__)
CENTRE = -1  # the position that stands for the crop from the middle


def position_of_window(number: int) -> int:
    """The position that stands for a window of the clip, see `window_starts`; number counts from 0."""
    return CENTRE - 1 - number


class Example(NamedTuple):
    """One clip: wav (S,) float32 in [-1, 1], its index in the dataset, label (C,) float32 multi-hot."""

    wav: Tensor
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody calls on an example
    label: Tensor


class ClipDataset(Dataset[Example]):
    """Clips of one length, from the cache or from their files.

    A key is (clip index, position). A position of 0 or more is the number of the sample since the start of training:
    its crop is a pure function of (seed, position), so it does not matter which worker reads it, or in which run.
    Position -1 is the centre crop, `position_of_window` a window of `window_starts`.

    Attributes:
        clips: those that can be read; clips that the cache quarantined are not among them.
        faults: clip index -> reason, of files found unreadable since (without a cache).
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        num_classes: int,
        sample_rate: int,
        clip_duration_s: float,
        pad: str,
        store: WavStore | None,
        seed: int,
        max_bad_fraction: float = 0.01,
        keep_silent: bool = False,
        mixed_shards: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        if pad not in ("silence", "repeat"):
            raise ValueError(f"data.pad={pad!r}: {suggest(str(pad), ('silence', 'repeat'))}")
        if round(sample_rate * clip_duration_s) < 1:
            raise ValueError(f"data.clip_duration_s={clip_duration_s}: less than one sample at {sample_rate} Hz")
        self.num_samples = round(sample_rate * clip_duration_s)
        self.clips = Clips.of(clips)
        self.rows: np.ndarray | None = None  # places in the store
        if store is not None:
            rows = np.array([store.row(clip) for clip in self.clips], dtype=object)
            kept = np.array([i for i, row in enumerate(rows) if row is not None], dtype=np.int64)
            self.clips, self.rows = self.clips.take(kept), rows[kept].astype(np.int64)
        if not len(self.clips):
            raise ValueError(f"none of the {len(clips)} clips can be read; see the faults that were logged")
        self.num_classes, self.sample_rate, self.pad = num_classes, sample_rate, pad
        self.store, self.seed, self.max_bad_fraction = store, seed, max_bad_fraction
        self.keep_silent, self.mixed_shards, self.weights = keep_silent, mixed_shards, weights
        self.faults: dict[int, str] = {}
        self.logged: set[int] = set()
        self.scales: set[float] = set()  # that were said, without a cache
        self.last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.clips)

    def order(self, seed: int, chances: Tensor | None = None) -> Order:
        """Return the order in which the clips are trained on; `chances` as there."""
        return Order(
            len(self), seed, chances, self.clips.block, self.mixed_shards, self.clips.part,
            None if chances is not None else self.weights,
        )  # fmt: skip

    @property
    def example_bytes(self) -> int:
        """Bytes of an example: waveform, label and index."""
        return 4 * (self.num_samples + self.num_classes) + 8

    def first(self, num_clips: int) -> ClipDataset:
        """Return the dataset of the first clips alone, or all if there are fewer."""
        return self.only(range(min(num_clips, len(self))))

    def sample(self, num_clips: int, seed: int, *, labelled: bool = False) -> ClipDataset:
        """Return the dataset of so many random clips, or all, in their order; `labelled`: of those that have labels.

        The first clips of a set that is sorted by class are of one class.
        """
        drawn = map(int, np.random.default_rng(seed).permutation(len(self)))
        fitting = (place for place in drawn if not labelled or self.clips.labels_of(place))
        return self.only(sorted(itertools.islice(fitting, num_clips)))

    def only(self, places: Sequence[int]) -> ClipDataset:
        """Return the dataset of the clips at these places, in this order."""
        part = copy.copy(self)
        chosen = np.asarray(places, dtype=np.int64)
        part.clips, part.rows = self.clips.take(chosen), None if self.rows is None else self.rows[chosen]
        part.last = None
        part.faults = {place: self.faults[i] for place, i in enumerate(places) if i in self.faults}
        return part

    def __getitem__(self, key: tuple[int, int]) -> Example:
        """Read one example; in training, an unreadable clip is replaced by the next readable one.

        Raises:
            AudioFault: the clip is unreadable and position below 0: a test set must not count another clip twice.
            ValueError: no clip at all can be read.
        """
        index, position = key
        if position <= CENTRE:
            return self._example(index, position)
        for step in range(len(self.clips)):
            candidate = (index + step) % len(self.clips)
            if candidate in self.faults:
                continue
            try:
                return self._example(candidate, position)
            except AudioFault as fault:
                self.faults[candidate] = fault.reason
        raise ValueError(f"none of the {len(self.clips)} clips can be read")

    def note_faults(self, faults: Sequence[tuple[int, str]]) -> None:
        """Count and log faults that a worker found.

        Raises:
            ValueError: they are more than `max_bad_fraction` of the clips.
        """
        for index, reason in faults:
            self.faults[index] = reason
            if index not in self.logged:
                self.logged.add(index)
                log.warning("data: %s: %s; left out (%d so far)", self.clips[index].where, reason, len(self.logged))
        if len(self.faults) > allowed_faults(len(self.clips), self.max_bad_fraction):
            listed = [f"{self.clips[index].where}: {reason}" for index, reason in self.faults.items()]
            raise ValueError(
                f"{len(listed)} of {len(self.clips)} clips cannot be used, more than "
                f"data.max_bad_fraction={self.max_bad_fraction:g} allows{fault_list(listed)}"
            )

    def _example(self, index: int, position: int) -> Example:
        label = torch.zeros(self.num_classes)
        label[self.clips.labels_of(index)] = 1.0
        return Example(torch.from_numpy(self._read(index, position)), index, label)

    def length(self, index: int) -> int:
        """Samples of a clip at the dataset's rate; without a cache from its file's header, 0 if that is unreadable."""
        if self.store is not None and self.rows is not None:
            return self.store.num_samples(int(self.rows[index]))
        clip, known = self.clips[index], self.clips.seconds(index)
        try:
            if known is None and is_generated(clip.path):
                return len(self._whole(index))
            if known is None:
                rate, frames = header(clip.path, clip.time_expansion)
                known = frames / rate
        except AudioFault:
            return 0
        seconds = max(0.0, known - clip.start_s)
        if clip.duration_s is not None:
            seconds = min(seconds, clip.duration_s)
        return round(seconds * self.sample_rate)

    def _read(self, index: int, position: int) -> np.ndarray:
        if self.store is not None and self.rows is not None:
            row = int(self.rows[index])
            start = self._start(self.store.num_samples(row), position)
            wav = self.store.read(row, start, start + self.num_samples)
        else:
            whole = self._whole(index)
            if len(whole) == self.num_samples:  # as it is, for one reader: a copy costs as much as checking it does
                self.last = None
                return whole
            start = self._start(len(whole), position)
            wav = whole[start : start + self.num_samples]
        return fit(wav, self.num_samples, self.pad)

    def _whole(self, index: int) -> np.ndarray:
        """Decode a clip; the last one is kept, because its windows are read one after the other."""
        last = self.last
        if last is None or last[0] != index:
            clip = self.clips[index]
            wav, _, scale = read_scaled(
                clip.path, sample_rate=self.sample_rate, start_s=clip.start_s, duration_s=clip.duration_s,
                keep_silent=self.keep_silent, time_expansion=clip.time_expansion,
            )  # fmt: skip
            if scale != 1.0 and scale not in self.scales:
                self.scales.add(scale)
                log.warning("data: %s reaches beyond 1; it and others like it are divided by %g", clip.path, scale)
            self.last = last = (index, wav)
        return last[1]

    def _start(self, length: int, position: int) -> int:
        slack = max(0, length - self.num_samples)
        if position == CENTRE or not slack:
            return slack // 2
        if position < CENTRE:
            starts = window_starts(length, self.num_samples)
            return starts[min(CENTRE - 1 - position, len(starts) - 1)]  # a header may promise more than there is
        return stable_hash(f"crop {self.seed} {position}") % (slack + 1)


def fit(wav: np.ndarray, num_samples: int, pad: str) -> np.ndarray:
    """Fill a short clip (S,) up to `num_samples`: with silence behind it, or by repeating it. Always a new array."""
    if pad == "repeat" and len(wav) < num_samples:
        return np.tile(wav, -(-num_samples // len(wav)))[:num_samples].astype(np.float32)
    if len(wav) >= num_samples:
        return np.array(wav[:num_samples], np.float32)
    out = np.zeros(num_samples, np.float32)
    out[: len(wav)] = wav
    return out
