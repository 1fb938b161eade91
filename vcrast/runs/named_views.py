"""Name the views of runs by their files in configs/, where all are as these say."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vcrast.config.compose import flatten, read_option
from vcrast.config.files import options

GROUPS = ("views.", "finetune.views.")


def names_of_views(runs: Sequence[Mapping[str, Any]], differing: Iterable[str]) -> list[dict[str, str]]:
    """`views.name` and `finetune.views.name` of each run, of those groups in which runs differ and all have a name.

    Args:
        runs: settings of each, by dotted key.
        differing: keys in which they differ.
    """
    found: list[dict[str, str]] = [{} for _ in runs]
    for group in GROUPS:
        if not any(key.startswith(group) for key in differing):
            continue
        names = [name_of({key.removeprefix(group): run[key] for key in run if key.startswith(group)}) for run in runs]
        for own, name in zip(found, names, strict=True):
            if name is not None and None not in names:
                own[f"{group}name"] = name
    return found


def name_of(settings: Mapping[str, Any]) -> str | None:
    """The option of `views` that says just this; None if none does."""
    return next((name for name, known in known_views().items() if known == settings), None)


@functools.cache
def known_views() -> dict[str, dict[str, Any]]:
    """The settings of every option of `views`, by dotted key."""
    return {name: dict(flatten(read_option("views", name))) for name, _ in options("views")}
