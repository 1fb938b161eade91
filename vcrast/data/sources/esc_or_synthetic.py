"""ESC-10 or ESC-50 where `data.root` has one, else the generated classes."""

from __future__ import annotations

from dataclasses import replace

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.corpus import Corpus
from vcrast.data.settings import refuse_settings
from vcrast.data.sources.esc10 import esc10
from vcrast.data.sources.esc50 import esc50, find_root, read_rows
from vcrast.data.sources.synthetic import OPTIONS, synthetic


@SOURCES.register("esc_or_synthetic")
def esc_or_synthetic(data: DataConfig) -> Corpus:
    """Open what `data.root` holds, in the official folds; without `data.root`, `data=synthetic`.

    A folder whose rows all belong to ESC-10 is ESC-10, any other ESC-50. `data.options` are those of `data=synthetic`.

    Raises:
        FileNotFoundError: `data.root` is set and has neither.
        ValueError: as in the source that is chosen.
    """
    refuse_settings(data, options=OPTIONS)
    if data.root is None:
        return synthetic(data)
    rows = read_rows(find_root(data))
    return (esc10 if all(row.esc10 for row in rows) else esc50)(replace(data, options={}))
