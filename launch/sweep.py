"""`-m`: one command line with several values per key becomes one list of overrides per run."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

ONE_FOR_ALL = ("slurm", "run.dir", "run.resume", "recipe")


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        overrides: its whole command line.
        varied: the part that differs from run to run, `attention=rfa`.
    """

    overrides: tuple[str, ...]
    varied: tuple[str, ...]

    def folder_name(self, number: int, count: int) -> str:
        """A name for the run's folder that sorts and can be read: `03_attention-rfa_seed-1`."""
        values = (word.lstrip("+~").partition("=") for word in self.varied)
        words = [re.sub(r"[^A-Za-z0-9_.]+", "-", f"{key.rpartition('.')[2]}={value}") for key, _, value in values]
        text = "_".join([f"{number:0{len(str(count - 1))}d}", *(word.strip("-") for word in words)])
        return text[:80].rstrip("-.")


def expand(overrides: Sequence[str]) -> list[Point]:
    """All combinations, the last key varying fastest: `a=1,2 b=3,4` is (1, 3), (1, 4), (2, 3), (2, 4).

    Hydra's grammar counts: `a=1,2`, `a=range(0,5)`, `a=choice(1,2)`; `a=[1,2]` is one value, a list.

    Raises:
        ValueError: nothing varies, a key varies that all runs must share, or words that Hydra cannot read.
    """
    parsed = [_parsed(word) for word in overrides]
    swept = [item for item in parsed if item.is_sweep_override()]
    for item in swept:
        _refuse_shared(item)
    if not swept:
        raise ValueError("-m: no key has several values; write such as run.seed=0,1,2, or leave -m out")
    choices = [_choices(word, item) for word, item in zip(overrides, parsed, strict=True)]
    varies = [item.is_sweep_override() for item in parsed]
    return [
        Point(combination, tuple(itertools.compress(combination, varies)))
        for combination in itertools.product(*choices)
    ]


def is_sweep(overrides: Sequence[str]) -> bool:
    """Whether some key has several values."""
    return any(_parsed(word).is_sweep_override() for word in overrides)


def _parsed(word: str) -> Override:
    try:
        return OverridesParser.create().parse_overrides([word])[0]
    except HydraException as error:
        shown = word if word.isprintable() else repr(word)
        raise ValueError(f"{shown}: write group=option or key=value ({str(error).splitlines()[0]})") from None


def _refuse_shared(item: Override) -> None:
    key = item.key_or_group
    if any(key == shared or key.startswith(f"{shared}.") for shared in ONE_FOR_ALL):
        raise ValueError(f"{item.input_line}: all runs of a sweep share {key}; submit them one by one")


def _choices(word: str, item: Override) -> list[str]:
    if not item.is_sweep_override():
        return [word]
    try:
        values = list(item.sweep_string_iterator())
    except (HydraException, ValueError, TypeError) as error:
        raise ValueError(f"{word}: {str(error).splitlines()[0]}") from None
    return [f"{word.partition('=')[0]}={value}" for value in values]
