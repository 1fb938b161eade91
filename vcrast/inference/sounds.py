"""Tell what a caller has given as a sound: a path, an array, or neither."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def is_array(wav: object) -> bool:
    """Whether it holds samples."""
    return isinstance(wav, np.ndarray | Tensor) or hasattr(wav, "__array__")


def as_array(wav: Any) -> np.ndarray:
    """A tensor or anything like an array, on the CPU."""
    if isinstance(wav, Tensor):
        wav = wav.detach().cpu()
        wav = wav.float() if wav.dtype == torch.bfloat16 else wav  # which NumPy does not have
        return np.asarray(wav.numpy())
    return np.asarray(wav)


def called(wav: object) -> str:
    """A thing that is no sound, as a message names it."""
    if isinstance(wav, Mapping):
        return f"a mapping (of {', '.join(map(str, list(wav)[:4]))})"
    if isinstance(wav, Iterator):
        return f"{type(wav).__name__}: make a list of it"
    return "an empty list" if isinstance(wav, Sequence) and not len(wav) else f"{type(wav).__name__} {wav!r:.40}"
