"""Join rows of the same stretch of a file into one clip with several labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from vcrast.data.clip import Clip
from vcrast.data.preflight import duplicates

MANY = 0.1  # of the clips: fewer with two labels are mistakes rather than a table with one label a row


class Merged(NamedTuple):
    """The clips, and a line where some were made of several rows ("" where none were)."""

    clips: tuple[Clip, ...]
    said: str


def merge_rows(clips: Sequence[Clip], *, asked: bool | None, faults: list[str]) -> Merged:
    """Join rows that differ in their label alone, as tables with one label a row have them.

    Args:
        clips: one a row.
        asked: whether to join; None joins where at least `MANY` of the clips have rows of different labels.
        faults: takes rows of the same stretch that are not joined.

    Raises:
        ValueError: `asked` is neither.
    """
    if asked not in (None, True, False):
        raise ValueError(f"data.options.merge_rows={asked}: set true, false or null")
    rows: dict[tuple[object, ...], list[Clip]] = {}
    for clip in clips:
        rows.setdefault((*clip.segment, clip.fold), []).append(clip)
    several = [same for same in rows.values() if len({clip.labels for clip in same}) > 1]
    if several and (len(several) >= MANY * len(rows) if asked is None else asked):
        joined = [
            replace(same[0], labels=tuple(dict.fromkeys(label for clip in same for label in clip.labels)))
            for same in rows.values()
        ]
        faults += duplicates(joined)
        lines = ", ".join(str(clip.line) for clip in several[0][:4])
        return Merged(
            tuple(joined),
            f"{len(clips)} rows are {len(joined)} clips: {len(several)} of them have a row for each of their labels, "
            f"such as lines {lines}",
        )
    odd = {clip.line for same in several for clip in same[1:]}
    more = ", with another label; put both into one cell, or set data.options.merge_rows=true"
    faults += [
        text + (more if any(text.startswith(f"line {line}:") for line in odd) else "") for text in duplicates(clips)
    ]
    return Merged(tuple(clips), "")
