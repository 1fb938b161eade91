"""One file per dataset, which registers how it is opened and how it is downloaded."""

from __future__ import annotations

import importlib
import pkgutil

from vcrast.config.registry import import_part


def import_sources(module: str | None = None) -> None:
    """Import every file of this folder, and `module` (`data.module`), so that they register their parts.

    Raises:
        ValueError: no such module.
    """
    for found in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(found.name)
    if module:
        import_part("data.module", module)
