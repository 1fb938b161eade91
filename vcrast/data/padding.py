"""Measure how much of what a model hears is padding, and say when it is too much."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vcrast.data.dataset import ClipDataset
from vcrast.data.preflight import spread

MUCH = 0.5  # of the clips' time; more is said
SELDOM = 0.01  # of the clips; a model that was padded no more often has not learnt what padding is
MAX_HEADERS = 1000  # files opened where there is no cache that knows their lengths


def clip_lengths(clips: ClipDataset) -> list[int]:
    """List the clips' lengths in samples; without a cache of a sample of them, unreadable ones left out."""
    chosen = range(len(clips)) if clips.store is not None else spread(range(len(clips)), MAX_HEADERS)
    return [length for length in map(clips.length, chosen) if length]


def padding_note(lengths: Sequence[int], *, num_samples: int, sample_rate: int) -> str | None:
    """Say that most of the clips' time is padding, and which length would fit.

    Args:
        lengths: of the clips, in samples.
        num_samples: that the model hears.
        sample_rate: Hz.

    Returns:
        One line, or None where at most half of the time is padding.
    """
    share = float(np.mean([max(0, num_samples - length) / num_samples for length in lengths])) if lengths else 0.0
    if share <= MUCH:
        return None
    fitting = max(0.1, math.ceil(10 * float(np.quantile(lengths, 0.95)) / sample_rate) / 10)
    return (
        f"{100 * share:.0f} % of the clips' time is padding: half of them are no longer than "
        f"{float(np.median(lengths)) / sample_rate:.2g} s, data.clip_duration_s is {num_samples / sample_rate:g}; "
        f"data.clip_duration_s={fitting:g} holds 95 % of them, {num_samples / sample_rate / fitting:.0f} times cheaper"
    )


def padding_in_use(clips: ClipDataset) -> str:
    """Choose how a model trained on these clips pads shorter ones: as in training, if it was padded there at all.

    A model that has never heard silence behind a sound does not know what to make of it (of 80 clips it knew, 40 were
    right when half of each was silence, 80 when the sound was repeated).
    """
    padded = [length < clips.num_samples for length in clip_lengths(clips)]
    return clips.pad if padded and sum(padded) > SELDOM * len(padded) else "repeat"
