"""Name the views of runs by their file in configs/, where they are as it says."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from vcrast.config.compose import flatten, read_option
from vcrast.config.files import options

GROUPS = ("views.", "finetune.views.")


def names_of_views(settings: Mapping[str, Any], differing: Iterable[str]) -> dict[str, str]:
    """`views.name` and `finetune.views.name` of a run, of those groups in which runs differ.

    Args:
        settings: of the run, by dotted key.
        differing: keys in which it differs from others.
    """
    found = {}
    for group in GROUPS:
        if not any(key.startswith(group) for key in differing):
            continue
        own = {key.removeprefix(group): value for key, value in settings.items() if key.startswith(group)}
        name = next((name for name, known in known_views().items() if known == own), None)
        if name is not None:
            found[f"{group}name"] = name
    return found


@functools.cache
def known_views() -> dict[str, dict[str, Any]]:
    """The settings of every option of `views`, by dotted key."""
    return {name: dict(flatten(read_option("views", name))) for name, _ in options("views")}
