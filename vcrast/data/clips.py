"""Keep clips as columns: two million are a few arrays, shared by a machine's processes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, overload

import numpy as np

from vcrast.data.clip import Clip
from vcrast.data.mapped import Lent, Mapped, attach

UNKNOWN = np.nan  # a clip's length in `seconds`, or its `duration_s`, where there is none


class Paths(Protocol):
    """The paths of clips: a text for every row, made when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> str: ...


class Texts:
    """Texts behind one another in one array of bytes.

    Args:
        content: (N,) uint8, as `os.fsencode` writes them.
        starts: (n + 1,) int64, where each begins; the last is N.
    """

    def __init__(self, content: np.ndarray, starts: np.ndarray) -> None:
        self.content, self.starts = content, starts
        self.lent = Lent()

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> str:
        return os.fsdecode(self.content[self.starts[row] : self.starts[row + 1]].tobytes())

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach_texts, (self.lent.lend(self.content), self.lent.lend(self.starts))


def _attach_texts(content: np.ndarray | Mapped, starts: np.ndarray | Mapped) -> Texts:
    return Texts(attach(content), attach(starts))


class JoinedPaths:
    """The paths of several collections, one behind the other."""

    def __init__(self, parts: Sequence[tuple[Paths, np.ndarray | None]]) -> None:
        self.parts = tuple(parts)
        sizes = [len(paths) if rows is None else len(rows) for paths, rows in parts]
        self.stops = np.cumsum(np.asarray(sizes, dtype=np.int64))

    def __len__(self) -> int:
        return int(self.stops[-1]) if len(self.stops) else 0

    def __getitem__(self, row: int) -> str:
        part = int(np.searchsorted(self.stops, row, side="right"))
        paths, rows = self.parts[part]
        place = row - (int(self.stops[part - 1]) if part else 0)
        return paths[place if rows is None else int(rows[place])]


@dataclass(frozen=True, eq=False)
class Columns:
    """What is known of n clips; see `Clip`.

    Attributes:
        paths: n texts.
        labels: class indices of all clips behind one another, int32.
        label_starts: (n + 1,) int64, where those of each begin.
        fold: (n,) uint16, number of the name in `fold_names`.
        fold_names: "" is that of a clip without a fold.
        start_s: (n,) float64; None if all are 0.
        duration_s: (n,) float64, NaN where it is None; None if all are.
        line: (n,) int32; None if all are 0.
        seconds: (n,) float64, what the file has, where a source knows it; NaN or None where it must be looked at.
        block: (n,) int32, clips of equal numbers lie in one file; None if each has its own.
        time_expansion: (n,) float64; None if all are 1.
        part: (n,) int16, which dataset of a mixture it is from; None if there is but one.
        extra: of the clips that have any.
    """

    paths: Paths
    labels: np.ndarray
    label_starts: np.ndarray
    fold: np.ndarray
    fold_names: tuple[str, ...]
    start_s: np.ndarray | None = None
    duration_s: np.ndarray | None = None
    line: np.ndarray | None = None
    seconds: np.ndarray | None = None
    block: np.ndarray | None = None
    part: np.ndarray | None = None
    time_expansion: np.ndarray | None = None
    extra: Mapping[int, dict[str, str]] = field(default_factory=dict)
    lent: Lent = field(default_factory=Lent, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "lent"}
        return {
            name: self.lent.lend(value) if isinstance(value, np.ndarray) else value for name, value in state.items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        found = {name: attach(value) if isinstance(value, Mapped) else value for name, value in state.items()}
        self.__dict__.update(found, lent=Lent())

    def clip(self, row: int) -> Clip:
        """Make the clip of a row."""
        first, last = int(self.label_starts[row]), int(self.label_starts[row + 1])
        duration = UNKNOWN if self.duration_s is None else float(self.duration_s[row])
        return Clip(
            self.paths[row],
            tuple(self.labels[first:last].tolist()),
            0.0 if self.start_s is None else float(self.start_s[row]),
            None if np.isnan(duration) else duration,
            self.fold_names[self.fold[row]],
            0 if self.line is None else int(self.line[row]),
            self.extra.get(row) or {},
            1.0 if self.time_expansion is None else float(self.time_expansion[row]),
        )


class Clips(Sequence[Clip]):
    """A sequence of clips, made when they are asked for; parts of it share its columns.

    Args:
        columns: of these clips, and perhaps others.
        rows: (n,) of these clips, in order; None is all.
    """

    def __init__(self, columns: Columns, rows: np.ndarray | None = None) -> None:
        self.columns, self.rows = columns, rows
        self.lent = Lent()

    @staticmethod
    def of(clips: Iterable[Clip]) -> Clips:
        """Turn clips into columns; `Clips` are returned as they are."""
        if isinstance(clips, Clips):
            return clips
        builder = Builder()
        for clip in clips:
            builder.append(clip)
        return builder.clips()

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach_clips, (self.columns, None if self.rows is None else self.lent.lend(self.rows))

    def __len__(self) -> int:
        return len(self.columns.fold) if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Clip: ...

    @overload
    def __getitem__(self, place: slice) -> Clips: ...

    def __getitem__(self, place: int | slice) -> Clip | Clips:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place = place % len(self)
        return self.columns.clip(place if self.rows is None else int(self.rows[place]))

    def __iter__(self) -> Iterator[Clip]:
        return map(self.columns.clip, range(len(self)) if self.rows is None else map(int, self.rows))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return f"<{len(self)} clips>"

    def take(self, places: Sequence[int] | np.ndarray) -> Clips:
        """Return the clips at these places, in this order."""
        chosen = np.asarray(places, dtype=np.int64)
        return Clips(self.columns, chosen if self.rows is None else self.rows[chosen])

    def slowed(self, factor: float) -> Clips:
        """Return the clips as those of files that are so many times slower than they were recorded."""
        columns = self.columns
        seconds = None if columns.seconds is None else columns.seconds / factor
        return Clips(replace(columns, seconds=seconds, time_expansion=np.full(len(columns.fold), factor)), self.rows)

    def of_rows(self, column: np.ndarray) -> np.ndarray:
        """Return the values of a column that belong to these clips."""
        return column if self.rows is None else column[self.rows]

    def paths(self) -> Iterator[str]:
        """Yield the path of each clip, without making the clips."""
        rows = range(len(self)) if self.rows is None else map(int, self.rows)
        return map(self.columns.paths.__getitem__, rows)

    @property
    def fold(self) -> np.ndarray:
        """(n,) numbers of `fold_names`."""
        return self.of_rows(self.columns.fold)

    @property
    def folds(self) -> set[str]:
        """Names of the folds that occur."""
        return {self.columns.fold_names[code] for code in np.unique(self.fold).tolist()}

    def in_fold(self, name: str) -> np.ndarray:
        """(n,) bool: which clips are in a fold."""
        names = self.columns.fold_names
        codes = [code for code, other in enumerate(names) if other == name]
        return np.isin(self.fold, codes)

    @property
    def block(self) -> np.ndarray | None:
        """(n,) numbers of the files that hold the clips, or None."""
        return None if self.columns.block is None else self.of_rows(self.columns.block)

    @property
    def part(self) -> np.ndarray | None:
        """(n,) numbers of the datasets of a mixture, or None."""
        return None if self.columns.part is None else self.of_rows(self.columns.part)

    def seconds(self, place: int) -> float | None:
        """How long the file of a clip is, if that is known without opening it."""
        if self.columns.seconds is None:
            return None
        found = float(self.columns.seconds[place if self.rows is None else self.rows[place]])
        return None if np.isnan(found) else found

    def labels_of(self, place: int) -> list[int]:
        """Return the labels of one clip; making the clip would make its path as well."""
        row = place if self.rows is None else int(self.rows[place])
        first, last = self.columns.label_starts[row : row + 2].tolist()
        found: list[int] = self.columns.labels[first:last].tolist()
        return found

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels of all clips behind one another, (L,), and how many each has, (n,)."""
        starts, values = self.columns.label_starts, self.columns.labels
        if self.rows is None:
            return np.asarray(values), np.diff(starts)
        first = starts[self.rows]
        counts = starts[self.rows + 1] - first
        before = np.cumsum(counts) - counts
        return values[np.repeat(first - before, counts) + np.arange(counts.sum())], counts


def _attach_clips(columns: Columns, rows: np.ndarray | Mapped | None) -> Clips:
    return Clips(columns, None if rows is None else attach(rows))


class Builder:
    """Collects clips one by one, in the memory that their columns take."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.starts, self.labels, self.label_starts = array("q", [0]), array("i"), array("q", [0])
        self.fold, self.line = array("H"), array("i")
        self.start_s, self.duration_s, self.time_expansion = array("d"), array("d"), array("d")
        self.fold_number: dict[str, int] = {}
        self.extra: dict[int, dict[str, str]] = {}

    def __len__(self) -> int:
        return len(self.fold)

    def append(self, clip: Clip) -> None:
        """Add a clip."""
        if clip.extra:
            self.extra[len(self)] = clip.extra
        self.content += os.fsencode(clip.path)
        self.starts.append(len(self.content))
        self.labels.extend(clip.labels)
        self.label_starts.append(len(self.labels))
        self.fold.append(self.fold_number.setdefault(clip.fold, len(self.fold_number)))
        self.line.append(clip.line)
        self.start_s.append(clip.start_s)
        self.time_expansion.append(clip.time_expansion)
        self.duration_s.append(UNKNOWN if clip.duration_s is None else clip.duration_s)

    def clips(self) -> Clips:
        """Return what was added."""
        time_expansion = np.array(self.time_expansion)
        start_s, duration_s, line = np.array(self.start_s), np.array(self.duration_s), np.array(self.line)
        columns = Columns(
            Texts(np.frombuffer(bytes(self.content), np.uint8), np.array(self.starts)),
            np.array(self.labels, np.int32),
            np.array(self.label_starts),
            np.array(self.fold),
            tuple(self.fold_number) or ("",),
            start_s=start_s if start_s.any() else None,
            duration_s=None if np.isnan(duration_s).all() else duration_s,
            line=line if line.any() else None,
            time_expansion=time_expansion if (time_expansion != 1.0).any() else None,
            extra=self.extra,
        )
        return Clips(columns)


def join(parts: Sequence[Clips], label_maps: Sequence[Sequence[int]]) -> Clips:
    """Put collections behind one another; `Columns.part` tells which a clip is from.

    Args:
        parts: the collections.
        label_maps: of each, the new class index of every old one.
    """
    names = tuple(dict.fromkeys(name for clips in parts for name in clips.columns.fold_names))
    found = [clips.labels() for clips in parts]
    labels = [np.asarray(to, np.int32)[values] for to, (values, _) in zip(label_maps, found, strict=True)]
    sizes = np.concatenate([counts for _, counts in found])
    fold = [np.asarray([names.index(n) for n in c.columns.fold_names], np.uint16)[c.fold] for c in parts]
    columns = Columns(
        JoinedPaths([(clips.columns.paths, clips.rows) for clips in parts]),
        np.concatenate(labels).astype(np.int32),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate(fold),
        names,
        start_s=_joined(parts, "start_s", 0.0),
        duration_s=_joined(parts, "duration_s", UNKNOWN),
        line=_joined(parts, "line", 0),
        seconds=_joined(parts, "seconds", UNKNOWN),
        block=_joined_blocks(parts),
        time_expansion=_joined(parts, "time_expansion", 1.0),
        part=np.concatenate([np.full(len(clips), number, np.int16) for number, clips in enumerate(parts)]),
        extra=_joined_extra(parts),
    )
    return Clips(columns)


def _joined(parts: Sequence[Clips], name: str, missing: float) -> np.ndarray | None:
    columns = [getattr(clips.columns, name) for clips in parts]
    if all(column is None for column in columns):
        return None
    filled = [
        np.full(len(clips), missing) if column is None else clips.of_rows(column)
        for clips, column in zip(parts, columns, strict=True)
    ]
    return np.concatenate(filled)


def _joined_blocks(parts: Sequence[Clips]) -> np.ndarray | None:
    """Number the files anew; clips of a collection without are each a block of their own."""
    if all(clips.columns.block is None for clips in parts):
        return None
    found, next_number = [], 0
    for clips in parts:
        block = np.arange(len(clips)) if clips.block is None else np.unique(clips.block, return_inverse=True)[1]
        found.append(block + next_number)
        next_number += int(block.max(initial=-1)) + 1
    return np.concatenate(found).astype(np.int32)


def _joined_extra(parts: Sequence[Clips]) -> dict[int, dict[str, str]]:
    extra, first = {}, 0
    for clips in parts:
        if clips.columns.extra:
            rows = range(len(clips)) if clips.rows is None else clips.rows.tolist()
            extra.update(
                {
                    first + place: clips.columns.extra[row]
                    for place, row in enumerate(rows)
                    if row in clips.columns.extra
                }
            )
        first += len(clips)
    return extra
