"""Read what a caller has given as sounds: paths and arrays, at the model's rate."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vcrast.data.arrays import one_sound, split_sounds, to_mono
from vcrast.data.audio import Decoded, read_scaled
from vcrast.features.fbank import Fbank
from vcrast.inference.sounds import as_array, called, is_array

log = logging.getLogger(__name__)

TWO_ARGUMENTS = "samples and their rate are two arguments: embed(samples, sample_rate)"
Clip = str | Path | np.ndarray | Tensor


class Reading:
    """The part of a model that reads sounds, and says once what it assumes of them.

    Attributes:
        features: the front end.
        sample_rate: of the waveforms, Hz.
        meta: of the run: whether silent files are kept, and the time expansion.
    """

    features: Fbank
    sample_rate: int
    meta: Mapping[str, Any]
    _said: set[str]

    def read(
        self, wav: Clip | Sequence[Clip], sample_rate: float | None = None, *, layout: str | None = None
    ) -> tuple[list[Tensor], bool]:
        """Sounds as mono float32 (S,) at the model's rate on the CPU, and whether several were given."""
        sounds, several = self._sounds(wav, sample_rate, layout)
        return list(sounds), several

    def read_file(self, path: str) -> Decoded:
        """A file's samples at the model's rate, and the full scale that they were divided by; errors as `read_wav`."""
        return read_scaled(
            path, sample_rate=self.sample_rate, keep_silent=bool(self.meta.get("keep_silent")),
            time_expansion=self.meta.get("time_expansion") or 1.0,
        )  # fmt: skip

    def _sounds(
        self, wav: Clip | Sequence[Clip], sample_rate: float | None, layout: str | None
    ) -> tuple[Iterator[Tensor], bool]:
        """Sounds as mono (S,) at the model's rate, read when they are asked for, and whether they are several."""
        if isinstance(wav, str | Path):
            return map(self._file, [wav]), False
        if is_array(wav):
            arrays, several = split_sounds(as_array(wav), layout=layout, shortest=self.features.window_samples)
            return (self._samples(array, sample_rate) for array in arrays), several
        if not isinstance(wav, Sequence) or not len(wav):
            raise ValueError(
                f"a sound is a path or an array, or a list of at least one of them; not {called(wav)}; {TWO_ARGUMENTS}"
            )
        for each in wav:
            if not isinstance(each, str | Path) and not is_array(each):
                raise ValueError(f"a list of sounds must hold paths and arrays, not {called(each)}; {TWO_ARGUMENTS}")
        return (self._one(each, sample_rate, layout) for each in wav), True

    def _one(self, wav: Clip, sample_rate: float | None, layout: str | None) -> Tensor:
        if isinstance(wav, str | Path):
            return self._file(wav)
        return self._samples(one_sound(as_array(wav), layout=layout), sample_rate)

    def _file(self, path: str | Path) -> Tensor:
        if Path(path).is_dir():
            raise ValueError(f"{path}: a folder; give a list of its sounds, or use `vcrast predict` and `vcrast embed`")
        found = self.read_file(str(path))
        self._say_scale(found.scale, str(path))
        return torch.from_numpy(found.wav)

    def _samples(self, sound: np.ndarray, sample_rate: float | None) -> Tensor:
        """One sound (S,) or (S, C) as what a file with these samples is read as."""
        if sample_rate is None:
            self._say_once(f"no sample_rate given: {self.sample_rate} Hz assumed, the model's", about="rate")
        wav, scale = to_mono(sound, self.sample_rate if sample_rate is None else sample_rate, self.sample_rate)
        self._say_scale(scale, "an array")
        return torch.from_numpy(wav)

    def _say_scale(self, scale: float, where: str) -> None:
        if scale != 1.0:
            self._say_once(f"{where}: samples beyond 1, divided by their full scale {scale:g}", about="full scale")

    def _say_once(self, text: str | None, *, about: str) -> None:
        if text is not None and about not in self._said:
            self._said.add(about)
            log.warning(text)
