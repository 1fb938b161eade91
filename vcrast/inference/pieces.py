"""Cut sounds into pieces that get a result, and those into windows for batches."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vcrast.config.words import suggest
from vcrast.data.dataset import fit
from vcrast.data.padding import MUCH
from vcrast.data.windows import hop_starts, window_starts
from vcrast.features.fbank import Fbank

FILLED = {
    "silence": "silence behind them", "repeat": "the sounds repeated",
    "zeros": "zeros in the filterbank behind them, as the AST has it",
}  # fmt: skip
"""Ways to fill short sounds, in words."""
SHORTER = {
    "silence": "followed by silence", "repeat": "repeated", "zeros": "followed by zeros in the filterbank",
}  # fmt: skip
"""What becomes of short sounds."""
LEAST_S = 1e-6  # a frame that rounding has left of the window before


class Piece(NamedTuple):
    """A stretch of a sound that gets a result of its own.

    Attributes:
        sound: whose stretch it is.
        start_s: where it begins in the sound, s.
        end_s: where it ends, s.
        wav: (S,) of any length.
    """

    sound: str
    start_s: float
    end_s: float
    wav: Tensor


class Heard(NamedTuple):
    """Class probabilities of one window, {label: probability} from the likeliest down; its times are in s."""

    start_s: float
    end_s: float
    scores: dict[str, float]


class Cutter:
    """How a model's windows lie in sounds, and how short ones are filled.

    Args:
        num_samples: that the model hears at once.
        sample_rate: Hz.
        pad: `silence`, `repeat` or `zeros`, which marks by NaN what `Fbank.zero_filled` fills.
    """

    def __init__(self, num_samples: int, sample_rate: int, pad: str) -> None:
        if pad not in FILLED:
            raise ValueError(f"pad={pad!r}: {suggest(str(pad), (*FILLED, 'model'))}")
        self.num_samples, self.sample_rate, self.pad = num_samples, sample_rate, pad

    def whole(self, sound: str, wav: Tensor) -> Iterator[Piece]:
        """Yield a sound (S,) as one piece: its windows are averaged."""
        yield Piece(sound, 0.0, len(wav) / self.sample_rate, wav)

    def along(
        self, sound: str, wav: Tensor, *, window_s: float | None = None, hop_s: float | None = None
    ) -> Iterator[Piece]:
        """Yield the pieces of a sound (S,), one after the other, without copying it.

        Args:
            sound: its name.
            wav: its samples.
            window_s: length of a piece, s; None is what the model hears. The last one may be shorter.
            hop_s: between the beginnings of two pieces, s; None is `window_s`. With neither, they are the windows that
                the result of the whole sound is the mean of.

        Raises:
            ValueError: less than one sample.
        """
        for name, seconds in (("window_s", window_s), ("hop_s", hop_s)):
            if seconds is not None and not 1 <= seconds * self.sample_rate < float("inf"):
                raise ValueError(f"{name}={seconds:g}: must be at least one sample, in seconds")
        length = self.num_samples if window_s is None else round(window_s * self.sample_rate)
        if window_s is None and hop_s is None:
            starts = window_starts(len(wav), length)
        else:
            starts = hop_starts(len(wav), length, length if hop_s is None else hop_s * self.sample_rate)
        for start in starts:
            end = min(start + length, len(wav))
            yield Piece(sound, start / self.sample_rate, end / self.sample_rate, wav[start:end])

    def consecutive(self, sound: str, wav: Tensor) -> Iterator[Piece]:
        """Yield pieces of the model's length one after the other; the last one ends with the sound (S,)."""
        length = self.num_samples
        starts = list(range(0, len(wav) - length + 1, length)) or [0]
        if starts[-1] + length < len(wav):
            starts.append(len(wav) - length)
        for start in starts:
            end = min(start + length, len(wav))
            yield Piece(sound, start / self.sample_rate, end / self.sample_rate, wav[start:end])

    def windows(self, wav: Tensor) -> Iterator[Tensor]:
        """(S,) -> windows (num_samples,) spread evenly from beginning to end; a short sound is padded to one."""
        if len(wav) < self.num_samples:
            window = torch.from_numpy(fit(wav.numpy(), self.num_samples, self.pad))
            if self.pad == "zeros":
                window[len(wav) :] = torch.nan
            yield window
            return
        for start in window_starts(len(wav), self.num_samples):
            yield wav[start : start + self.num_samples]

    def fbank(self, features: Fbank, windows: Tensor) -> Tensor:
        """(B, num_samples) -> filterbanks of windows, the ends of short sounds filled as `pad` says."""
        return features.zero_filled(windows) if self.pad == "zeros" else features(windows)

    def heard(
        self, pieces: Iterable[Piece], batch_result: Callable[[Tensor], Tensor], *, batch_size: int
    ) -> Iterator[tuple[Piece, Tensor]]:
        """Yield each piece with the results (W, ...) of its windows, in order.

        Windows of several pieces share a batch; no more than a batch of windows is copied at a time, and pieces are
        taken only when they are needed.

        Args:
            pieces: of one sound or several.
            batch_result: (B, num_samples) -> (B, ...).
            batch_size: B.

        Raises:
            ValueError: a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        waiting: deque[tuple[Piece, int]] = deque()

        def every_window() -> Iterator[Tensor]:
            for piece in pieces:
                waiting.append((piece, len(window_starts(len(piece.wav), self.num_samples))))
                yield from self.windows(piece.wav)

        windows, rows = every_window(), list[Tensor]()
        while batch := list(itertools.islice(windows, batch_size)):
            rows += batch_result(torch.stack(batch))
            while waiting and len(rows) >= waiting[0][1]:
                piece, count = waiting.popleft()
                yield piece, torch.stack(rows[:count])
                rows = rows[count:]

    def padding_note(self, lengths: list[int]) -> str | None:
        """Say that most of what the model hears is padding; None where at most half is.

        Args:
            lengths: of the pieces, in samples.
        """
        share = sum(max(0, self.num_samples - length) for length in lengths) / self.num_samples / max(1, len(lengths))
        if share <= MUCH:
            return None
        median_s = sorted(lengths)[(len(lengths) - 1) // 2] / self.sample_rate
        return (
            f"{100 * share:.0f} % of the sounds' time is padding ({FILLED[self.pad]}): the model hears windows of "
            f"{self.num_samples / self.sample_rate:g} s, half of the sounds are no longer than {median_s:.2g} s; "
            f"results may be poor, compare with pad={'repeat' if self.pad == 'silence' else 'silence'}"
        )


def frames_of(heard: Iterable[tuple[Piece, Tensor]], duration_s: float) -> Iterator[tuple[Piece, Tensor]]:
    """Yield every frame of `Cutter.consecutive` pieces as a piece of its own, each moment of a sound once.

    Args:
        heard: pieces with the results (T', ...) of T' equal parts of a window; what is padding is left out.
        duration_s: of a window.
    """
    done_s = 0.0
    for piece, rows in heard:
        done_s = done_s if piece.start_s else 0.0  # a new sound
        for number, row in enumerate(rows):
            start_s = max(done_s, piece.start_s + number * duration_s / len(rows))
            end_s = min(piece.end_s, piece.start_s + (number + 1) * duration_s / len(rows))
            if end_s - start_s > LEAST_S:
                yield Piece(piece.sound, start_s, end_s, piece.wav), row
        done_s = piece.end_s
