"""Generated sounds with labels: no download, any number, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import torch

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.config.words import suggest
from vcrast.data.audio import READERS, AudioFault
from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus
from vcrast.data.settings import refuse_settings
from vcrast.data.synth.engine import CLASSES, ENGINE, render_class

SCHEME = "synth"
OPTIONS = ("num_clips", "seed", "snr_db", "classes")
FOLDS = ("1", "2", "3", "4", "5")
# Of `&name=` in a path; a missing one is an error.
QUERY = ("seed", "duration", "snr", "engine")


@SOURCES.register("synthetic")
def synthetic(data: DataConfig) -> Corpus:
    """Open generated clips in five folds; classes and folds as even as `num_clips` allows.

    Options: `num_clips`; `seed` of the collection (not of the run); `snr_db` [lowest, highest] level over the
    background noise; `classes`, a list of names, or null for all. The same options give the same sounds.

    Raises:
        ValueError: an option out of its range, or a setting that this source does not use.
    """
    refuse_settings(data, options=OPTIONS, root=False)
    names = _classes(data.options["classes"])
    num_clips, seed = (_whole(data, key) for key in ("num_clips", "seed"))
    if num_clips < len(FOLDS):
        raise ValueError(f"data.options.num_clips={num_clips}: give at least one clip to each of {len(FOLDS)} folds")
    low, high = _snr(data.options["snr_db"])
    query = {"seed": seed, "duration": data.clip_duration_s, "snr": f"{low:g}:{high:g}", "engine": ENGINE}
    clips = tuple(_clip(i, names, urlencode(query, safe=":")) for i in range(num_clips))
    return Corpus("synthetic", clips, names, multilabel=False, folds=FOLDS)


def _clip(position: int, names: Sequence[str], query: str) -> Clip:
    number, label = divmod(position, len(names))
    # A Latin square: each class goes through the folds as its numbers go up, each round of classes as well.
    fold = FOLDS[(number + label) % len(FOLDS)]
    return Clip(f"{SCHEME}://{names[label]}/{number}?{query}", (label,), fold=fold)


def read_synth(path: str, sample_rate: int) -> np.ndarray:
    """Render `synth://<class>/<number>?seed=<seed>&duration=<s>&snr=<low>:<high>&engine=<version>`.

    Args:
        path: as above; the sound depends on nothing else than the path and the rate.
        sample_rate: Hz.

    Returns:
        (S,) float32 in [-1, 1].

    Raises:
        AudioFault: a path of another form, an unknown class, or sounds of another version of the engine.
    """
    address = urlsplit(path)
    given = {name: values[-1] for name, values in parse_qs(address.query).items()}
    try:
        if sorted(given) != sorted(QUERY):
            raise ValueError(f"expected {SCHEME}://<class>/<number>? with {', '.join(QUERY)}")
        if int(given["engine"]) != ENGINE:
            raise ValueError(f"made for version {given['engine']} of the sound engine, this is version {ENGINE}")
        clip = render_class(
            address.netloc,
            torch.tensor([int(address.path.lstrip("/"))]),
            seed=int(given["seed"]),
            num_samples=round(float(given["duration"]) * sample_rate),
            sample_rate=sample_rate,
            snr_db=_snr(given["snr"].split(":")),
        )
    except (ValueError, KeyError) as error:
        raise AudioFault(path, str(error.args[0])) from error
    return clip.wavs[0].numpy()


READERS[SCHEME] = read_synth


def _classes(wanted: Any) -> tuple[str, ...]:
    names = CLASSES if wanted is None else tuple(str(name) for name in wanted)
    for name in names:
        if name not in CLASSES:
            raise ValueError(f"data.options.classes: no synthetic sound {name!r}; {suggest(name, CLASSES)}")
    if len(set(names)) < max(2, len(names)):
        raise ValueError(f"data.options.classes={list(names)}: give at least two names, none of them twice")
    return names


def _whole(data: DataConfig, key: str) -> int:
    value = data.options[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"data.options.{key}={value!r}: must be a whole number from 0")
    return value


def _snr(value: Any) -> tuple[float, float]:
    try:
        low, high = (float(level) for level in value)
    except (TypeError, ValueError):
        raise ValueError(f"data.options.snr_db={value!r}: give [lowest, highest] in dB, for instance [5, 40]") from None
    if not low <= high:
        raise ValueError(f"data.options.snr_db={value!r}: the first must not exceed the second")
    return low, high
