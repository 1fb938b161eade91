"""Recognise the names of splits (train, val, test, eval) in any usual spelling."""

from __future__ import annotations

import re

SPELLINGS = {
    "train": ("train", "training", "trn", "trainset"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "valset"),
    "test": ("test", "testing", "tst", "testset"),
    "eval": ("eval", "evaluation", "evaluate", "evalset"),
}
"""Standard name of a split -> how people write it; case, and words such as `set`, `split` or `data`, do not count."""
KNOWN = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}
BESIDE = ("set", "split", "data", "audio", "clips", "wav", "files")


def standard_split(name: str) -> str | None:
    """Return `train`, `val`, `test` or `eval` for a split's name in any spelling; None for any other name.

    >>> [standard_split(name) for name in ("Training", "validation_set", "TEST", "eval", "dog")]
    ['train', 'val', 'test', 'eval', None]
    """
    words = [word for word in re.split(r"[\s_.-]+", name.strip().lower()) if word]
    left = [word for word in words if word not in BESIDE]
    return KNOWN.get(left[0]) if len(left) == 1 else None
