"""List the runs of a command line: with `-m` one for each combination of values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from vcrast.config.quoting import for_hydra, quote
from vcrast.config.resume import claimed, names_folder, resolve
from vcrast.config.schema import Config

from .arguments import TABLES, Arguments, resumed_folder

ONE_FOR_ALL = ("slurm", "run.dir", "run.resume", "recipe")
Point = tuple[tuple[str, ...], tuple[str, ...]]
"""(whole command line, the part of it that varies) of a run."""
SEVERAL_VALUES = "several values for one key are a sweep: add -m, or write a list as key=[1,2]"


@dataclass(frozen=True)
class PlannedRun:
    """One run before it starts.

    Attributes:
        config: its settings.
        folder: where it runs.
        overrides: its whole command line, bound to the folder.
        varied: the part that differs from run to run, `attention=rfa`.
    """

    config: Config
    folder: Path
    overrides: tuple[str, ...]
    varied: tuple[str, ...] = ()


def plan(arguments: Arguments) -> tuple[Path, list[PlannedRun]]:
    """The folder of the only run or of the sweep, and the runs, all composed before the first one starts.

    Raises:
        ValueError: a setting that is wrong in any of them.
    """
    if not arguments.sweep:
        if is_sweep(arguments.overrides):
            raise ValueError(SEVERAL_VALUES)
        config = resolve(arguments.overrides)
        with own_folder(config, arguments) as folder:
            return folder, [PlannedRun(config, folder, bound(arguments.overrides, folder))]
    points, runs = points_of(arguments), []
    with own_folder(_resolved(points[0], arguments), arguments) as base:
        for number, (overrides, varied) in enumerate(points):
            folder = base / folder_name(varied, number, len(points))
            words = bound(overrides, folder)
            runs.append(PlannedRun(resolve(words), folder, words, varied))
    return base, runs


def points_of(arguments: Arguments) -> list[Point]:
    """The runs of a command line: one, those of a sweep, or those of a table.

    Raises:
        ValueError: see `expand`, and `points` of `table.py`.
    """
    if arguments.table:
        from . import table

        return table.points(arguments.table, arguments.scale, arguments.overrides)
    return expand(arguments.overrides) if arguments.sweep else [(arguments.overrides, ())]


def _resolved(first: Point, arguments: Arguments) -> Config:
    """The settings of the first run; without a folder of its own, a table has runs/<recipe that was typed>/<time>."""
    config = resolve(first[0])
    if arguments.table and not names_folder(arguments.overrides):
        name = re.sub(r"[^A-Za-z0-9_.]+", "-", f"table-{arguments.table}")
        config.run.dir = f"runs/{TABLES}/{name}_{Path(str(config.run.dir)).name}"
    return config


def folder_name(varied: Sequence[str], number: int, count: int) -> str:
    """A name for the run's folder that sorts and can be read: `03_attention-rfa_seed-1`."""
    values = (word.lstrip("+~").partition("=") for word in varied)
    words = [re.sub(r"[^A-Za-z0-9_.]+", "-", f"{key.rpartition('.')[2]}={value}") for key, _, value in values]
    text = "_".join([f"{number:0{len(str(count - 1))}d}", *(word.strip("-") for word in words)])
    return text[:80].rstrip("-.")


def expand(overrides: Sequence[str]) -> list[Point]:
    """All combinations, the last key varying fastest: `a=1,2 b=3,4` is (1, 3), (1, 4), (2, 3), (2, 4).

    Hydra's grammar counts: `a=1,2`, `a=range(0,5)`, `a=choice(1,2)`; `a=[1,2]` is one value, a list.

    Returns:
        (whole command line, the part of it that varies) of each run.

    Raises:
        ValueError: nothing varies, a key varies that all runs must share, or words that Hydra cannot read.
    """
    parsed = [_parsed(word) for word in overrides]
    varies = [item.is_sweep_override() for item in parsed]
    for item in itertools.compress(parsed, varies):
        _refuse_shared(item)
    if not any(varies):
        raise ValueError("-m: no key has several values; write such as run.seed=0,1,2, or leave -m out")
    choices = [_choices(word, item) for word, item in zip(overrides, parsed, strict=True)]
    return [(words, tuple(itertools.compress(words, varies))) for words in itertools.product(*choices)]


def is_sweep(overrides: Sequence[str]) -> bool:
    """Whether some key has several values."""
    return any(_parsed(word).is_sweep_override() for word in overrides)


@contextmanager
def own_folder(config: Config, arguments: Arguments) -> Iterator[Path]:
    """The folder of a command line: the one that it names, else one of its own, made unless it is a rehearsal."""
    folder = Path(str(config.run.dir)).absolute()
    if names_folder(arguments.overrides) or arguments.dry_run:
        yield folder
        return
    with claimed(folder) as own:
        yield own


def bound(overrides: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The command line of a run with its folder in it, where it goes on whenever it starts again."""
    if resumed_folder(overrides) is not None:
        return (*(word for word in overrides if not word.startswith("run.resume=")), f"run.resume={folder}")
    return (*overrides, f"run.dir={quote(str(folder))}", "run.resume=auto")


def _parsed(word: str) -> Override:
    try:
        return OverridesParser.create().parse_overrides([for_hydra(word, sweep=True)])[0]
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
