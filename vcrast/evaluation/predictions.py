"""Write what a model said of every clip as CSV: labels, prediction and all scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from vcrast.config.atomic import write_atomic
from vcrast.data.clip import Clip

COLUMNS = ("path", "start", "duration", "label", "predicted", "correct")
BETWEEN = ";"  # of several labels in one cell, as manifests have them
THRESHOLD = 0.5  # a label is predicted from this score on, where a clip may have several


def write_predictions(
    path: Path, clips: Sequence[Clip], score: Tensor, label: Tensor, classes: Sequence[str], *, multilabel: bool
) -> None:
    """Write a line per clip, UTF-8; a file of that name is replaced.

    Args:
        path: of the file.
        clips: n of them.
        score: (n, C) in [0, 1], written with as many digits as fp32 has.
        label: (n, C) multi-hot.
        classes: C names; the column of a class's scores is `score_` and its name.
        multilabel: predicted are all classes from a score of `THRESHOLD` on, and correct is who has just the right
            ones; otherwise the class of the highest score.

    Raises:
        OSError: the disk is full.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*COLUMNS, *(f"score_{name}" for name in classes)])
    rows.writerows(lines(clips, score, label, classes, multilabel=multilabel))
    # A file's name may be no UTF-8; its bytes then appear as \udcXX.
    write_atomic(path, text.getvalue().encode("utf-8", "backslashreplace"))


def lines(
    clips: Sequence[Clip], score: Tensor, label: Tensor, classes: Sequence[str], *, multilabel: bool
) -> Iterator[list[str]]:
    """The cells of each clip; arguments as in `write_predictions`."""
    scores, labels = score.float().cpu().numpy(), label.cpu().numpy() > 0
    for clip, own, true in zip(clips, scores, labels, strict=True):
        said = own >= THRESHOLD
        if not multilabel:
            said[:] = False
            said[own.argmax()] = True
        truth, guess = (BETWEEN.join(classes[number] for number in each.nonzero()[0]) for each in (true, said))
        right = str(int((said == true).all()))
        length = "" if clip.duration_s is None else str(clip.duration_s)
        yield [clip.path, str(clip.start_s), length, truth, guess, right, *own.astype(str)]
