"""Bring float samples beyond 1 to full scale, by one rule for files and arrays."""

from __future__ import annotations

import numpy as np

FULL_SCALES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 2.0**15, 2.0**16, 2.0**23, 2.0**24, 2.0**31, 2.0**32)
"""Full scale of floats: 1; a recording that went up to 30 dB over it; integers of 16, 24 and 32 bits in floats, or what
a codec has made of them, a little louder."""


def full_scale(peak: float) -> float:
    """Find the smallest full scale that holds a peak; of a peak that is not a number, 1.

    Raises:
        ValueError: no full scale does.

    >>> full_scale(0.7), full_scale(1.2), full_scale(20000.0)
    (1.0, 2.0, 32768.0)
    """
    if not np.isfinite(peak):
        return 1.0
    for scale in FULL_SCALES:
        if peak <= scale:
            return scale
    raise ValueError(f"floats up to {peak:.3g}, which is no full scale; divide them so that they lie in [-1, 1]")


def to_full_scale(wav: np.ndarray, peak: float | None = None) -> tuple[np.ndarray, float]:
    """Divide float samples by their full scale, a power of 2: nothing is rounded.

    Args:
        wav: any shape.
        peak: largest absolute value of the whole recording; None takes that of `wav`.

    Returns:
        Samples in [-1, 1], `wav` itself where they are there already, and what they were divided by.

    Raises:
        ValueError: larger than any full scale.
    """
    scale = full_scale(finite_peak(wav) if peak is None else peak)
    return (wav if scale == 1.0 else wav / wav.dtype.type(scale)), scale


def finite_peak(wav: np.ndarray) -> float:
    """Largest absolute value that is finite; 0 where there is none."""
    size = np.abs(wav)
    peak = float(size.max(initial=0.0))
    return peak if np.isfinite(peak) else float(size.max(where=np.isfinite(size), initial=0.0))


def limit(wav: np.ndarray) -> np.ndarray:
    """Clip samples to [-1, 1]: what a codec or the resampler overshoots. The same array if they are there already."""
    inside = not wav.size or (wav.max() <= 1.0 and wav.min() >= -1.0)
    return wav if inside else wav.clip(-1.0, 1.0)
