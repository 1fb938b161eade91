"""Take arrays for sounds: axis of time, integers, full scale, one channel."""

from __future__ import annotations

import numpy as np

from vcrast.config.words import suggest
from vcrast.data.audio import BLOCK_FRAMES, mix_down, resample
from vcrast.data.full_scale import full_scale, limit

LAYOUTS = ("channels", "batch")
FEW = 8  # rows that may be channels of one sound as well as clips
MOST_CHANNELS = 32  # nobody has clips of so few samples
MOST_MICROPHONES = 1024  # the largest arrays that there are; more channels than that are samples
SLOWEST = 100.0  # Hz; a lower sample rate is one in kHz
FULL = {"i1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31, "u1": 2.0**7}
"""Full scale of integers, by kind and bytes; 8 bits without sign lie around 128, as in wav files."""


def split_sounds(samples: np.ndarray, *, layout: str | None = None, shortest: int = 1) -> tuple[list[np.ndarray], bool]:
    """Tell which sounds an array holds.

    (S,) is one sound. (S, C) with at most 32 columns is one sound of C channels, as `soundfile.read` gives it. (B, S)
    with one row, or more than 8, is B clips. Two to eight rows may be either, `torchaudio.load` gives the channels of
    one sound so: refused without `layout`.

    Args:
        samples: of any type.
        layout: `channels`: one sound, the shorter axis is its channels; `batch`: a clip in each row; None: see above.
        shortest: samples that a clip of a batch must have where `layout` does not say that it is one.

    Returns:
        The sounds, (S,) or (S, C) each, and whether they are several results rather than one.

    Raises:
        ValueError: a shape that cannot be, or may be two things; an unknown layout.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}: {suggest(str(layout), LAYOUTS)}")
    shape = tuple(samples.shape)
    if samples.size == 0 or samples.ndim not in (1, 2):
        raise ValueError(
            f"samples have shape {shape}: give (S,), (S, C) or (B, S), not empty; of more axes, a list of sounds"
        )
    if samples.ndim == 1:
        if layout == "batch":
            raise ValueError(f"samples have shape {shape}, layout=batch: a batch is (B, S); leave layout out for one")
        return [samples], False
    if layout == "channels":
        return [channels_last(samples)], False
    rows, columns = shape
    if layout == "batch" or rows == 1 < columns:
        return list(samples), True
    if columns == 1 or columns <= MOST_CHANNELS < rows:
        return [samples], False
    if columns < max(shortest, MOST_CHANNELS + 1):
        raise ValueError(
            f"samples have shape {shape}: neither (S, C) of at most {MOST_CHANNELS} channels nor (B, S) of clips that "
            f'last {shortest} samples or longer; say layout="channels" or layout="batch" if they are'
        )
    if rows <= FEW:
        raise ValueError(
            f"samples have shape {shape}, which may be one sound of {rows} channels (as torchaudio gives it) or "
            f'{rows} clips: say layout="channels" or layout="batch"'
        )
    return list(samples), True


def one_sound(samples: np.ndarray, *, layout: str | None = None) -> np.ndarray:
    """Take an array that stands for one sound, alone or in a list of several: the rules of `split_sounds`.

    Raises:
        ValueError: as there, or more than one sound.
    """
    sounds, _ = split_sounds(samples, layout=layout)
    if len(sounds) > 1:
        raise ValueError(
            f"samples have shape {tuple(samples.shape)}, {len(sounds)} sounds in place of one: call once for each, or "
            'give list(samples); layout="channels" if the rows are channels'
        )
    return sounds[0]


def channels_last(samples: np.ndarray) -> np.ndarray:
    """Turn (S, C) or (C, S) into (S, C): there are fewer channels than samples.

    Raises:
        ValueError: as many of one as of the other, or more channels than anybody records.
    """
    rows, columns = samples.shape
    if rows == columns > 1:
        raise ValueError(f"samples have shape {(rows, columns)}: as many channels as samples; cut or transpose them")
    if min(rows, columns) > MOST_MICROPHONES:
        raise ValueError(
            f"samples have shape {(rows, columns)}: {min(rows, columns)} channels cannot be, at most {MOST_MICROPHONES}"
        )
    return samples if rows >= columns else samples.T


def to_mono(sound: np.ndarray, from_rate: float, to_rate: int) -> tuple[np.ndarray, float]:
    """Turn samples into what a file that holds them is read as: see `read_wav`.

    Args:
        sound: (S,) or (S, C); floats, or integers as files hold them (int16, int32, uint8).
        from_rate: of the samples, Hz.
        to_rate: wanted, Hz.

    Returns:
        (S,) float32 in [-1, 1] at `to_rate`, and the full scale that they were divided by: 1 if they were in place.

    Raises:
        ValueError: other types, NaN or infinite samples, more than any full scale, or a rate that is none.
    """
    if not isinstance(from_rate, int | float | np.integer | np.floating) or not SLOWEST <= from_rate < np.inf:
        raise ValueError(f"sample_rate={from_rate!r}: must be a number in Hz, such as 44100")
    kind = f"{sound.dtype.kind}{sound.dtype.itemsize}"
    if sound.dtype.kind != "f" and kind not in FULL:
        raise ValueError(
            f"samples are {sound.dtype}: give floats in [-1, 1], or int16, int32 or uint8 as sound files hold them"
        )
    frames = sound if sound.ndim == 2 else sound[:, None]
    step = max(1, BLOCK_FRAMES // frames.shape[1])  # integers and float64 are converted a block at a time
    blocks = (frames[first : first + step] for first in range(0, len(frames), step))
    mono, peak = mix_down(_as_floats(block) for block in blocks)
    if not np.isfinite(mono).all():
        raise ValueError("samples hold NaN or infinite values; repair the recording")
    try:
        scale = full_scale(peak) if sound.dtype.kind == "f" else 1.0
    except ValueError as error:
        raise ValueError(f"samples are {error}") from None
    if scale != 1.0:
        mono = mono / np.float32(scale)
    wav = np.ascontiguousarray(resample(mono, from_rate, to_rate), dtype=np.float32)
    wav = limit(wav)
    return (wav if wav.flags.writeable else wav.copy()), scale


def _as_floats(block: np.ndarray) -> np.ndarray:
    """Turn integers into float32 in [-1, 1), as libsndfile does; other floats are rounded to float32."""
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):  # it is infinite then, and refused
            return block.astype(np.float32, copy=False)
    middle = 128.0 if block.dtype.kind == "u" else 0.0
    scale = FULL[f"{block.dtype.kind}{block.dtype.itemsize}"]
    return ((block.astype(np.float64) - middle) / scale).astype(np.float32)
