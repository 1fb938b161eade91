"""Read sounds given as arrays: which axis is time, what is full scale, channels to mono."""

from __future__ import annotations

import numpy as np

from vcrast.data.audio import mix_down
from vcrast.data.full_scale import to_full_scale

LAYOUTS = ("batch", "channels_first", "channels_last")
MOST_CHANNELS = 32
FEW_ROWS = 8  # up to so many rows may be channels, or clips
FULL_SCALE = {np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31, np.dtype(np.uint8): 2.0**7}
"""Integers as files hold them; of unsigned bytes 128 is zero."""


def mono_clips(samples: np.ndarray, layout: str | None = None) -> tuple[list[np.ndarray], bool, float]:
    """Split an array into mono clips, as the same samples in files would be read.

    Without a layout: one axis is a clip. Of two axes, a second of at most 32, shorter than the first, is channels, as
    `soundfile.read` gives them; a single row is a batch of one; more than 8 rows are a batch. From 2 to 8 rows may be
    torchaudio's channels or a batch, and are refused.

    Args:
        samples: floats, or int16, int32 or uint8.
        layout: `batch` (B, S), `channels_first` (C, S), `channels_last` (S, C), or None.

    Returns:
        (S,) float32 in [-1, 1] each; whether it is a batch; what floats beyond 1 were divided by.

    Raises:
        ValueError: a shape or a type that is no sound, NaN or infinite values, or the layout cannot be told.
    """
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"layout={layout!r}: choose from {', '.join(LAYOUTS)}")
    if samples.ndim not in (1, 2) or not samples.size:
        raise ValueError(f"samples have shape {samples.shape}: give (S,), (B, S), or (S, C) of several channels")
    chosen = "batch" if samples.ndim == 1 else layout or _layout(samples.shape)
    floats = _as_floats(samples)
    if not np.isfinite(floats).all():
        raise ValueError("samples hold NaN or infinite values; repair the recording")
    floats, scale = to_full_scale(floats)
    if samples.ndim == 1:
        return [floats], False, scale
    if chosen == "batch":
        return list(floats), True, scale
    if floats.shape[1 if chosen == "channels_last" else 0] > MOST_CHANNELS:
        raise ValueError(f"samples of shape {samples.shape} as {chosen}: more than {MOST_CHANNELS} channels")
    mono, _ = mix_down([floats if chosen == "channels_last" else floats.T])
    return [mono], False, scale


def _layout(shape: tuple[int, ...]) -> str:
    rows, columns = shape
    if columns <= MOST_CHANNELS and columns < rows:
        return "channels_last"
    if 2 <= rows <= FEW_ROWS:
        raise ValueError(
            f"samples of shape {shape} may be {rows} channels or {rows} clips: say layout='channels_first' (as "
            "torchaudio loads), or layout='batch'"
        )
    return "batch"


def _as_floats(samples: np.ndarray) -> np.ndarray:
    if np.issubdtype(samples.dtype, np.floating):
        return samples.astype(np.float32, copy=False)
    if samples.dtype not in FULL_SCALE:
        raise ValueError(
            f"samples are {samples.dtype}: give floats in [-1, 1], or int16, int32 or uint8 as files hold them"
        )
    shift = 128 if samples.dtype == np.uint8 else 0
    floats = (samples.astype(np.float64) - shift) / FULL_SCALE[samples.dtype]
    return floats.astype(np.float32)
