"""Words for messages: the nearest valid name, a natural sort key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(wrong: str, valid: Iterable[str]) -> str:
    """The end of an error message: `did you mean x?` if one is close, then all valid names."""
    names = sorted(str(name) for name in valid)
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    return (f"did you mean {close[0]}? " if close else "") + f"choose from {', '.join(names)}"


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Natural sort key: puts fold 10 after fold 2.

    >>> sorted(["10", "2", "test"], key=natural)
    ['2', '10', 'test']
    """
    parts = name.replace("_", " ").split()
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)
