"""Shards of any dataset, which `vcrast data shard` wrote, on this machine or another."""

from __future__ import annotations

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.corpus import Corpus
from vcrast.data.settings import refuse_settings
from vcrast.data.shards.corpus import shard_corpus


@SOURCES.register("shards")
def shards(data: DataConfig) -> Corpus:
    """Open the shards at `data.root`, a folder or URL; errors as in `shard_corpus`."""
    refuse_settings(data, options=())
    return shard_corpus(data)
