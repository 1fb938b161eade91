"""Take files for recordings that are played back slower: `data.time_expansion`."""

from __future__ import annotations

from dataclasses import replace

from vcrast.config.schema import DataConfig
from vcrast.data.audio import is_generated
from vcrast.data.corpus import Corpus


def expanded(corpus: Corpus, data: DataConfig, *, packed: float | None = None) -> Corpus:
    """Return the corpus with `data.time_expansion` in its clips: all that reads them reads it there.

    Args:
        corpus: as its source opens it.
        data: the settings.
        packed: the factor that its files were packed with, which they need no more.

    Raises:
        ValueError: its sounds are generated, or were packed with another factor.
    """
    if data.time_expansion in (None, 1, packed):
        return corpus
    if packed is not None:
        raise ValueError(
            f"data.time_expansion={data.time_expansion:g}: the shards at {data.root} were packed with {packed:g}; set "
            "that, or leave it null"
        )
    if any(is_generated(clip.path) for clip in corpus.table[:1]):
        raise ValueError(f"data.time_expansion={data.time_expansion:g}: data={data.name} is generated; leave it null")
    return replace(corpus, clips=corpus.table.slowed(float(data.time_expansion)))
