"""Tars of samples as WebDataset reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.audio import MEMBERS
from vcrast.data.cache import default_cache_dir
from vcrast.data.corpus import Corpus
from vcrast.data.foreign.corpus import OPTIONS, Found, corpus_of
from vcrast.data.foreign.files import find_files
from vcrast.data.foreign.splits import splits_of_files
from vcrast.data.foreign.tar_index import TarPaths, index_tars
from vcrast.data.foreign.tars import Wanted
from vcrast.data.listing import in_short
from vcrast.data.members import SCHEME, Members
from vcrast.data.settings import refuse_settings
from vcrast.data.shards.corpus import remote_files

ENDINGS = (".tar",)
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LOOKED = 256


@SOURCES.register("webdataset")
def webdataset(data: DataConfig) -> Corpus:
    """Open the tars below `data.root`, or the one tar that it is; configs/data/webdataset.yaml has the options.

    Raises:
        FileNotFoundError: `data.root` is not there.
        ValueError: no tars, damaged ones, too many samples without a sound or a label, bad options.
    """
    refuse_settings(data, options=OPTIONS, label=True)
    root, files = find_files(data, ENDINGS, PACKED)
    below = [file.relative_to(root).as_posix() for file in files]
    options = data.options
    splits = [""] * len(files)
    if options["splits"]:
        splits = splits_of_files([Path(name) for name in below], str(data.root))
    folder = Path(data.cache_dir).expanduser() if data.cache_dir is not None else default_cache_dir()
    MEMBERS[SCHEME] = Members(remote_files(data))
    index = index_tars(files, below, Wanted(data.label, options["fold"], options["audio"]), folder)
    paths = TarPaths(tuple(map(str, files)), index.numbers)
    notes = []
    if index.not_whole:
        notes.append(f"{len(index.not_whole)} tars end without a mark and may be cut: {in_short(index.not_whole)}")
    file = index.numbers["tar"]
    about = [np.asarray(index.numbers[name]) for name in ("offset", "size", "names")]
    return corpus_of(
        data,
        Found(
            files, below, splits, paths, file, file, paths.names.__getitem__, index.fields, index.keys, index.faults,
            about, LOOKED, notes=notes,
        ),
    )  # fmt: skip
