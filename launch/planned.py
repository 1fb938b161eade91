"""The runs that a command line stands for, all composed and each given its folder before the first one starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launch.arguments import Arguments, resumed_folder

if TYPE_CHECKING:
    from vcrast.config.schema import Config


@dataclass(frozen=True)
class Planned:
    """One run before it starts: its settings, its folder, and the command line that its process will be given."""

    config: Config
    folder: Path
    overrides: tuple[str, ...]
    varied: tuple[str, ...] = ()


def plan(arguments: Arguments) -> tuple[Path, list[Planned]]:
    """The runs of a command line, and the folder that holds them: of the only run, or of the sweep.

    Raises:
        ValueError: a setting that is wrong in any of them.
    """
    from launch.sweep import expand, is_sweep
    from vcrast.config.resume import resolve

    if not arguments.sweep:
        if is_sweep(arguments.overrides):
            raise ValueError("several values for one key are a sweep: add -m, or write a list as key=[1,2]")
        config = resolve(arguments.overrides)
        folder = fresh(Path(str(config.run.dir)).absolute(), arguments.overrides)
        return folder, [Planned(config, folder, pinned(arguments.overrides, folder))]
    points = expand(arguments.overrides)
    base = fresh(Path(str(resolve(points[0].overrides).run.dir)).absolute(), arguments.overrides)
    runs = []
    for number, point in enumerate(points):
        folder = base / point.folder_name(number, len(points))
        overrides = pinned(point.overrides, folder)
        runs.append(Planned(resolve(overrides), folder, overrides, point.varied))
    return base, runs


def fresh(folder: Path, overrides: Sequence[str]) -> Path:
    """The folder, or a new one beside it when nobody named it and this second's is taken."""
    named = resumed_folder(overrides) or any(word.lstrip("+").startswith("run.dir=") for word in overrides)
    number, free = 1, folder
    while not named and free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}_{number}")
    return free


def pinned(overrides: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The command line of a run: as given, but bound to its folder, where it goes on whenever it starts again."""
    if resumed_folder(overrides) is not None:
        return (*(word for word in overrides if not word.startswith("run.resume=")), f"run.resume={folder}")
    return (*overrides, f"run.dir={quoted(str(folder))}", "run.resume=auto")


def quoted(text: str) -> str:
    r"""Any text as a value of Hydra's grammar: in quotes, where a quote, and what backslashes precede it, has one more.

    >>> quoted("/data/it's")
    "'/data/it\\'s'"
    """
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + "\\'" * bool(found[2]), text) + "'"
