"""Compare names of columns: case, spaces and units do not count."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

SECONDS = dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0)
UNITS = SECONDS | dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), 0.001)


class ColumnName(NamedTuple):
    """A column's name as it is compared.

    Attributes:
        words: in lower case, the unit left out.
        key: the words without anything between them.
        unit_s: seconds in the unit that the name gives; 1 where it gives none.
    """

    words: tuple[str, ...]
    key: str
    unit_s: float


@lru_cache(maxsize=4096)
def column_name(name: str) -> ColumnName:
    """Read a column's name.

    >>> column_name("Begin Time (s)").key, column_name("startTime_ms"), column_name("t (samples)").key
    ('begintime', ColumnName(words=('start', 'time'), key='starttime', unit_s=0.001), 'tsamples')
    """
    words = [word for word in re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()) if word]
    unit_s = UNITS[words.pop()] if len(words) > 1 and words[-1] in UNITS else 1.0
    return ColumnName(tuple(words), "".join(words), unit_s)


def find_column(name: str, names: list[str]) -> str | None:
    """Return the column called `name`, or the only one that differs in what does not count."""
    if name in names:
        return name
    alike = [other for other in names if column_name(other) == column_name(name)]
    return alike[0] if len(alike) == 1 else None
