"""Hold what predict and embed share: options, the loop over sounds, notes at the end."""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from vcrast.cli.files import PATHS_HELP, Sounds
from vcrast.cli.options import add_model_options, check_batch_size
from vcrast.cli.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from vcrast.inference import Model
    from vcrast.inference.pieces import Piece
    from vcrast.models.backbone import Tokens

PADS = ("silence", "repeat", "zeros", "model")


def add_options(parser: argparse.ArgumentParser, *, stages: str) -> None:
    """Declare the options that both verbs have."""
    parser.add_argument("paths", nargs="+", metavar="SOUND", help=PATHS_HELP)
    along = parser.add_argument_group("long recordings")
    along.add_argument(
        "--windows", action="store_true", help="a result for each window, with its times in seconds, not for each sound"
    )
    along.add_argument(
        "--hop", type=float, metavar="SECONDS",
        help="from one window to the next (default: the windows that a sound's result is the mean of)",
    )  # fmt: skip
    along.add_argument(
        "--window", type=float, metavar="SECONDS",
        help="length of a window (default: what the model hears); shorter ones are padded, longer ones averaged",
    )  # fmt: skip
    how = parser.add_argument_group("model")
    add_model_options(how, stages=stages)
    how.add_argument(
        "--pad", choices=PADS, default="model",
        help="what fills short sounds: silence, the sound again, zeros in the filterbank, or as the model learnt",
    )  # fmt: skip


def check(arguments: argparse.Namespace) -> None:
    """Refuse, before anything is read, options out of their range.

    Raises:
        ValueError: names it.
    """
    check_batch_size(arguments.batch_size)
    for name in ("hop", "window"):
        seconds = getattr(arguments, name)
        if seconds is not None and not 0 < seconds < math.inf:
            raise ValueError(f"--{name} {seconds:g}: must be above 0, in seconds")


def in_windows(arguments: argparse.Namespace) -> bool:
    """Whether there is a result for each window."""
    return bool(arguments.windows or arguments.hop is not None or arguments.window is not None)


class Hearing:
    """The way of all sounds through the model, with what is told on the way.

    Args:
        model: as loaded.
        sounds: to hear.
        arguments: of the verb.
        windows: whether each window gets a result.
        frames: whether each frame of windows that follow each other does.
    """

    def __init__(
        self, model: Model, sounds: Sounds, arguments: argparse.Namespace, *, windows: bool, frames: bool = False
    ) -> None:
        self.model, self.sounds, self.arguments, self.windows, self.frames = model, sounds, arguments, windows, frames
        self.cutter = model.cutter(arguments.pad)
        self.lengths: list[int] = []
        self.read: list[str] = []
        self.last: list[int] = []  # of each sound that was read, the number of windows up to its end
        self.heard = 0
        self.progress = Progress(arguments.verb, len(sounds.names))

    def results(self, of_tokens: Callable[[Tokens], Tensor]) -> Iterator[tuple[Piece, Tensor]]:
        """Yield each piece with the mean of `of_tokens` over its windows."""

        def counted(tokens: Tokens) -> Tensor:
            self.heard += len(tokens.values)
            self._show()
            return of_tokens(tokens)

        try:
            for piece, rows in self.model.hear(
                self._pieces(), counted, cutter=self.cutter, batch_size=self.arguments.batch_size
            ):
                yield piece, rows.mean(dim=0)
        finally:
            self.progress.close()

    def finish(self) -> int:
        """Tell what was left out and how much is padding; returns the exit code: 1 where nothing could be read."""
        self.sounds.tell()
        if (note := self.cutter.padding_note(self.lengths)) is not None:
            print(f"note: {note.replace('pad=', '--pad ')}", file=sys.stderr)
        return 0 if self.read else 1

    def _pieces(self) -> Iterator[Piece]:
        from vcrast.data.windows import window_starts

        window, hop = self.arguments.window, self.arguments.hop
        for name, wav in self.sounds.read(self.model):
            if self.frames:
                pieces = self.cutter.consecutive(name, wav)
            elif self.windows:
                pieces = self.cutter.along(name, wav, window_s=window, hop_s=hop)
            else:
                pieces = self.cutter.whole(name, wav)
            own = list(pieces)
            self.lengths += [len(piece.wav) for piece in own]
            num_windows = sum(len(window_starts(len(piece.wav), self.cutter.num_samples)) for piece in own)
            self.read.append(name)
            self.last.append((self.last[-1] if self.last else 0) + num_windows)
            yield from own

    def _show(self) -> None:
        """A sound counts when its last window is computed; of the one that is not done, its part does."""
        done = bisect_right(self.last, self.heard)
        if done == len(self.last):
            self.progress.update(done + self.sounds.unread, "")
            return
        before = self.last[done - 1] if done else 0
        part = (self.heard - before) / (self.last[done] - before)
        self.progress.update(done + self.sounds.unread + part, self.read[done])


def described(text: str, *examples: str) -> dict[str, Any]:
    """Arguments of a parser whose help ends with examples."""
    return {
        "description": textwrap.fill(text, 100),
        "epilog": "\n".join(["examples:", *(f"  {line}" for line in examples)]),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }
