"""The order in which people count folds."""

from __future__ import annotations


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sorting key that puts fold 10 after fold 2.

    >>> sorted(["10", "2", "test"], key=natural)
    ['2', '10', 'test']
    """
    parts = name.replace("_", " ").split()
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)
