"""Find the classes whose names are nearly equal: spellings of one class, most likely."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping


def near_equal(found: Mapping[str, str]) -> list[str]:
    """Name the classes that differ only in case, spaces, underscores or hyphens.

    Args:
        found: of each class, what is said of it: how many clips, and where.

    Returns:
        One line for each group of such classes.
    """
    alike: dict[str, list[str]] = {}
    for name in found:
        key = re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold())
        alike.setdefault(re.sub(r"^(\d+)\.0+$", r"\1", key) or name, []).append(name)
    return [
        "nearly equal labels are different classes: "
        + " and ".join(f"{name!r} ({found[name]})" for name in sorted(group))
        for group in alike.values()
        if len(group) > 1
    ]
