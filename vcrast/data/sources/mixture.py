"""Several datasets as one: `data=[NAME,NAME,...]`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from vcrast.config.compose import read_option
from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.config.words import suggest
from vcrast.data.clips import join
from vcrast.data.corpus import Corpus, fold_names
from vcrast.data.open import build_corpus
from vcrast.data.preflight import preflight
from vcrast.data.settings import refuse_settings

OWN = ("name", "root", "path", "label", "options", "module", "time_expansion")
"""Settings that each dataset has of its own; the others are those of the mixture."""


@SOURCES.register("mixture")
def mixture(data: DataConfig) -> Corpus:
    """Open `data.sources`, one behind the other.

    Classes are joined by their names. A fold is what the datasets that have it say; of the others all training clips
    are trained on, so that the test part of a dataset with fixed splits is never heard.

    Raises:
        ValueError: fewer than two datasets, weights that do not fit, or what a dataset raises, with its name.
        FileNotFoundError: a dataset is not there.
    """
    refuse_settings(data, options=(), root=False)
    names = [str(name) for name in data.sources]
    if len(names) < 2:
        raise ValueError(f"data.sources={names}: a mixture has two datasets or more: data=[NAME,NAME]")
    check_weights(data, names)
    if data.time_expansion is not None:
        raise ValueError(
            f"data.time_expansion={data.time_expansion:g}: say which; data.sources.{names[0]}.time_expansion=..."
        )
    parts = [_open(data, name, data.sources[name]) for name in names]
    classes = tuple(dict.fromkeys(label for part in parts for label in part.classes))
    number = {label: place for place, label in enumerate(classes)}
    clips = join([part.table for part in parts], [[number[label] for label in part.classes] for part in parts])
    content = ""
    if all(part.content for part in parts):
        content = hashlib.blake2b(" ".join(part.content for part in parts).encode(), digest_size=16).hexdigest()
    shards = [
        (f"{name}/{file}", digest) for name, part in zip(names, parts, strict=True) for file, digest in part.shards
    ]
    counts = ", ".join(f"{len(part.clips)} of {name}" for name, part in zip(names, parts, strict=True))
    notes = [f"a mixture of {counts}", *(note for part in parts for note in part.notes)]
    return Corpus(
        "+".join(names), clips, classes, any(part.multilabel for part in parts), fold_names(clips), tuple(notes),
        listed=True, content=content, shards=tuple(shards),
    )  # fmt: skip


def check_weights(data: DataConfig, names: list[str]) -> None:
    """Refuse weights that are not one positive number for each dataset.

    Raises:
        ValueError: names the setting.
    """
    weights = data.weights
    if weights is None:
        return
    if len(weights) != len(names) or not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ValueError(f"data.weights={list(weights)}: give a positive number for each of {', '.join(names)}")


def _open(data: DataConfig, name: str, given: Mapping[str, Any] | None) -> Corpus:
    """Open one dataset with its own settings, and those of the mixture."""
    given = dict(given or {})
    kind = str(given.pop("name", name))
    own = read_option("data", kind)
    for key in given:
        if key not in OWN:
            shared_by_all = key in {each.name for each in fields(data)}
            how = f"is the mixture's own; set data.{key}" if shared_by_all else f"no such setting; {suggest(key, OWN)}"
            raise ValueError(f"data.sources.{name}.{key}: {how}")
    options = {**own["options"], **given.pop("options", {})}
    shared = {each.name: getattr(data, each.name) for each in fields(data)}
    settings = {**own, **{key: value for key, value in shared.items() if key not in OWN}, **given, "options": options}
    try:
        corpus = build_corpus(DataConfig(**{**settings, "name": kind, "folds": None, "sources": {}, "weights": None}))
        preflight(replace(corpus, folds=()), folds=None, max_bad_fraction=data.max_bad_fraction)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"data.sources.{name}: {error}") from None
    return corpus
