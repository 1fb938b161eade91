"""ESC-10: the 10-class part of ESC-50, from its folder or one of these 400 clips."""

from __future__ import annotations

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.corpus import Corpus
from vcrast.data.settings import refuse_settings
from vcrast.data.sources.esc50 import META, corpus, find_root, read_rows


@SOURCES.register("esc10")
def esc10(data: DataConfig) -> Corpus:
    """Open the rows with `esc10` True; classes 0 to 9 in order of ESC-50's target.

    Raises:
        FileNotFoundError: no ESC-50 or ESC-10 at `data.root`, nor at the place where the download puts it.
        ValueError: no row is marked as part of ESC-10.
    """
    refuse_settings(data, options=())
    root = find_root(data)
    rows = [row for row in read_rows(root) if row.esc10]
    if not rows:
        raise ValueError(f"esc10: no row of {root / META} has esc10=True")
    return corpus("esc10", rows)
