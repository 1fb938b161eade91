"""The options that configs/ ships, so that no test restates a default."""

from __future__ import annotations

import copy
import functools
from typing import Any

from vcrast.config.compose import read_option

OF_THE_REGISTRY = ("name", "module")
OF_THE_LOOP = ("lr_per_batch",)
"""Of `optim`: the rate is scaled by the batch before the optimiser is built."""


def shipped_options(path: str, **changes: Any) -> dict[str, Any]:
    """All keys of `configs/<path>.yaml`, what it inherits included: what `Registry.build` is given.

    >>> shipped_options("attention/softmax")["module"]
    'vcrast.models.attention'
    """
    return {**copy.deepcopy(_read(path)), **changes}


def shipped(path: str, **changes: Any) -> dict[str, Any]:
    """The same as keywords of the part's constructor: without what only the registry or the loop reads.

    >>> shipped("linear/phm", n=2)
    {'n': 2, 'init': 'glorot', 'learn_rules': True}
    """
    left_out = () if path.startswith(("data/", "features/")) else (*OF_THE_REGISTRY, *OF_THE_LOOP)
    return {key: value for key, value in shipped_options(path, **changes).items() if key not in left_out}


@functools.cache
def _read(path: str) -> dict[str, Any]:
    group, name = path.split("/")
    return read_option(group, name)
