"""Compute mean and standard deviation of the filterbank over a training set, once."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vcrast.config.atomic import write_atomic
from vcrast.data.audio import SILENCE, AudioFault, read_wav
from vcrast.data.cache import corpus_key, default_cache_dir
from vcrast.data.clip import Clip
from vcrast.data.preflight import spread
from vcrast.data.store import WavStore

log = logging.getLogger(__name__)
MAX_CLIPS = 10_000
PIECE_S = 60.0  # of a long recording at a time: an hour's spectrogram need not fit in memory
WINDOW_S = 0.025


def fbank_stats(
    clips: Sequence[Clip],
    fbank: Callable[[Tensor], Tensor],
    *,
    sample_rate: int,
    store: WavStore | None = None,
    window_s: float = WINDOW_S,
) -> tuple[float, float]:
    """Compute mean and standard deviation of all filterbank values of the clips, whole and without padding.

    AST normalises with the statistics of the training set's filterbank values (Gong et al. 2021, arXiv:2104.01778,
    Sec. 2.1); padding would count as loud as its share of the clip. Unreadable and silent clips, and clips shorter
    than a window, are left out. More than 10,000 clips are sampled evenly: the mean's error is far below what
    normalisation notices.

    Args:
        clips: of the training set.
        fbank: (B, S) waveforms -> (B, T, F) log-mel values, not normalised.
        sample_rate: Hz.
        store: the cache, or None to decode the files.
        window_s: length of the filterbank's window.

    Raises:
        ValueError: no clip can be used, or the values are constant or not finite.
    """
    chosen = spread(clips, MAX_CLIPS)
    if len(chosen) < len(clips):
        log.info("data statistics: from %d of %d clips", len(chosen), len(clips))
    count, mean, squares = 0, 0.0, 0.0
    for clip in chosen:
        for piece in _pieces(clip, store, sample_rate):
            if piece.shape[-1] < round(window_s * sample_rate):
                continue
            values = fbank(piece).double()
            # Chan et al. 1979: merging means and sums of squares loses no digits, unlike E[x^2] - E[x]^2.
            n, delta = values.numel(), values.mean().item() - mean
            squares += (values - values.mean()).square().sum().item() + delta**2 * count * n / (count + n)
            mean += delta * n / (count + n)
            count += n
    std = math.sqrt(squares / count) if count else 0.0
    if not (std > 0 and math.isfinite(std)):
        raise ValueError(f"data statistics: {count} values with std {std}; set data.mean and data.std yourself")
    return mean, std


def cached_stats(
    clips: Sequence[Clip],
    fbank: Callable[[Tensor], Tensor],
    *,
    sample_rate: int,
    features: Mapping[str, Any],
    cache_dir: str | Path | None,
    store: WavStore | None = None,
) -> tuple[float, float]:
    """Call `fbank_stats` once: kept as JSON in the cache folder under the clips and the feature settings."""
    settings = json.dumps(dict(features), sort_keys=True, default=str)
    key = f"{corpus_key(spread(clips, MAX_CLIPS), sample_rate)} {len(clips)} {settings}"
    digest = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
    path = (Path(cache_dir) if cache_dir is not None else default_cache_dir()) / f"stats-{digest}.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return float(known["mean"]), float(known["std"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    window_s = float(features.get("window_ms", 1000 * WINDOW_S)) / 1000
    mean, std = fbank_stats(clips, fbank, sample_rate=sample_rate, store=store, window_s=window_s)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {"mean": mean, "std": std, "num_clips": len(clips), "features": settings}
        write_atomic(path, json.dumps(found))
    except OSError as error:
        log.info("data statistics: not kept in %s (%s)", path, error)
    return mean, std


def _pieces(clip: Clip, store: WavStore | None, sample_rate: int) -> list[Tensor]:
    """Read the clip as waveforms (1, S) of at most a minute; none if it cannot be read."""
    row = None if store is None else store.row(clip)
    if store is not None and row is None:
        return []
    try:
        if store is not None and row is not None:
            wav = store.read(row)
        else:
            wav = read_wav(
                clip.path, sample_rate=sample_rate, start_s=clip.start_s, duration_s=clip.duration_s, keep_silent=True,
                time_expansion=clip.time_expansion,
            )  # fmt: skip
    except AudioFault as fault:
        log.warning("data statistics: %s left out", fault)
        return []
    if float(np.abs(wav).max()) < SILENCE:  # a fault elsewhere, or kept: it would stand for the level of nothing
        return []
    return list(torch.from_numpy(wav)[None].split(round(PIECE_S * sample_rate), dim=1))
