"""Open the data that `data=...` names: checked corpus, cache, normalisation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.cache import open_or_build
from vcrast.data.clip import Clip
from vcrast.data.copies import copies_across
from vcrast.data.corpus import Corpus
from vcrast.data.dataset import ClipDataset
from vcrast.data.expansion import expanded
from vcrast.data.padding import clip_lengths, padding_note
from vcrast.data.preflight import preflight
from vcrast.data.remarks import left_out, scaled
from vcrast.data.shards.corpus import are_shards, shard_corpus
from vcrast.data.sources import import_sources
from vcrast.data.stats import cached_stats
from vcrast.data.store import WavStore

log = logging.getLogger(__name__)
READS_TARS = "webdataset"  # those of shards as well, as any others


def open_corpus(data: DataConfig, *, trains: bool = True) -> Corpus:
    """Open the dataset that `data` describes, every clip checked before the first step.

    Args:
        data: the settings.
        trains: folds must leave clips to train on and to test; false for a set that a finished model is scored on.

    Raises:
        KeyError: no source of that name.
        FileNotFoundError: the data is not where it should be; says how to get it.
        ValueError: faults in the manifest or the files, a setting without effect, a fold or module that does not exist.
    """
    import_sources(data.module)
    if not 0.0 <= data.max_bad_fraction < 1.0:
        raise ValueError(f"data.max_bad_fraction={data.max_bad_fraction}: must be at least 0 and below 1")
    if data.sample_rate < 1:
        raise ValueError(f"data.sample_rate={data.sample_rate}: must be positive, in Hz")
    corpus = build_corpus(data)
    checked, folds = (corpus, data.folds) if trains else (replace(corpus, folds=()), None)
    preflight(checked, folds=folds, max_bad_fraction=data.max_bad_fraction)
    log.info("data=%s: %d clips, %d classes, folds %s", data.name, len(corpus.clips), len(corpus.classes), corpus.folds)
    return corpus


def build_corpus(data: DataConfig) -> Corpus:
    """Build what `data` names, from its own files or from shards of it; errors as in `open_corpus`, nothing checked."""
    for name in ("sources", "weights"):
        if data.name != "mixture" and (value := getattr(data, name)):
            raise ValueError(f"data.{name}={value}: of data=[NAME,NAME] alone; data={data.name} does not use it")
    if data.root is not None and data.name != READS_TARS and are_shards(data.root):
        return shard_corpus(data)
    return expanded(SOURCES.get(data.name)(data), data)


def prepare(data: DataConfig, clips: Sequence[Clip], classes: Sequence[str] = ()) -> WavStore | None:
    """Open the cache of these clips, built if need be; None when `data.cache` is false.

    Give all clips of a corpus at once: a `ClipDataset` of any part finds its clips in the store.
    """
    if not data.cache:
        return None
    return open_or_build(
        clips,
        sample_rate=data.sample_rate,
        cache_dir=data.cache_dir,
        num_workers=data.num_workers,
        max_bad_fraction=data.max_bad_fraction,
        keep_silent=data.keep_silent,
        classes=classes,
    )


def resolve_stats(
    data: DataConfig,
    clips: Sequence[Clip],
    *,
    fbank: Callable[[Tensor], Tensor] | None = None,
    features: Mapping[str, Any] | None = None,
    store: WavStore | None = None,
) -> tuple[float, float]:
    """Return mean and standard deviation for normalisation: the configured pair, or one from the training clips.

    Args:
        data: whose `mean` and `std` count when both are set.
        clips: the training part.
        fbank: (B, S) waveforms -> (B, T, F) log-mel values, not normalised.
        features: the filterbank's settings, which name the cached result.
        store: the cache, if there is one.

    Raises:
        ValueError: only one of the two is set, std is not positive, or they must be computed and `fbank` is missing.
    """
    if (data.mean is None) != (data.std is None):
        raise ValueError(f"data.mean={data.mean}, data.std={data.std}: set both, or neither to have them computed")
    if data.mean is not None and data.std is not None:
        if data.std <= 0:
            raise ValueError(f"data.std={data.std}: must be positive")
        return data.mean, data.std
    if fbank is None:
        raise ValueError("data.mean and data.std are not set, and there is no filterbank here to compute them with")
    return cached_stats(
        clips, fbank, sample_rate=data.sample_rate, features=features or {}, cache_dir=data.cache_dir, store=store
    )


@dataclass(frozen=True)
class FoldData:
    """The two datasets of a fold."""

    train: ClipDataset
    test: ClipDataset


@dataclass(frozen=True)
class OpenData:
    """A corpus with its cache; `open_data` makes it."""

    data: DataConfig
    corpus: Corpus
    store: WavStore | None

    @property
    def left_out(self) -> str | None:
        """The clips that the cache could not decode, and the classes that lost all of theirs; it logs them itself."""
        return left_out(self.corpus, self.store.faults) if self.store else None

    @property
    def notes(self) -> list[str]:
        """What a reader of the results should know: how the data was read, copies, what was scaled, padding."""
        every = self.dataset(self.corpus.clips, seed=0)
        found = [
            scaled(self.store.scaled) if self.store else None,
            None if self.corpus.listed or self.corpus.content else copies_across(self.corpus),
            padding_note(clip_lengths(every), num_samples=every.num_samples, sample_rate=every.sample_rate),
        ]
        return list(dict.fromkeys([*self.corpus.notes, *(text for text in found if text)]))

    def fold(self, fold: str, *, seed: int) -> FoldData:
        """Return the training and the test clips of one fold, none to test where the corpus has no folds.

        Args:
            fold: its name.
            seed: of the random crops.
        """
        train, test = self.corpus.split(fold)
        learnt = self.dataset(train, seed=seed)
        return FoldData(learnt, self.dataset(test, seed=seed) if test else learnt.first(0))

    def dataset(self, clips: Sequence[Clip], *, seed: int) -> ClipDataset:
        """Make a dataset of any clips of the corpus."""
        return ClipDataset(
            clips,
            num_classes=len(self.corpus.classes),
            sample_rate=self.data.sample_rate,
            clip_duration_s=self.data.clip_duration_s,
            pad=self.data.pad,
            store=self.store,
            seed=seed,
            max_bad_fraction=self.data.max_bad_fraction,
            keep_silent=self.data.keep_silent,
            mixed_shards=self.data.mixed_shards,
            weights=self.data.weights,
        )

    def statistics(
        self, train: ClipDataset, fbank: Callable[[Tensor], Tensor], *, settings: Mapping[str, Any]
    ) -> tuple[float, float]:
        """Call `resolve_stats` for a training set of this corpus."""
        return resolve_stats(self.data, train.clips, fbank=fbank, features=settings, store=self.store)


def open_data(data: DataConfig, corpus: Corpus) -> OpenData:
    """Open the cache of a corpus, built if need be; errors as in `open_or_build`."""
    return OpenData(data, corpus, prepare(data, corpus.clips, corpus.classes))
