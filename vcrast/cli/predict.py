"""`vcrast predict`: the likeliest labels of sounds, or of their windows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcrast.cli.formats import FORMATS, TRACKS, Prediction, choose_format, open_writer
from vcrast.cli.hearing import add_options, check, described, in_windows

if TYPE_CHECKING:
    from vcrast.inference import Model

TOP = 3
LIKELY = 0.5  # what a label track takes for there, where a sound may have several labels


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "predict",
        help="sounds -> labels and probabilities",
        **described(
            "The likeliest labels of each sound, or of each window of long recordings. Sounds that cannot be read are "
            "named on stderr and left out; exit code 1 if none is good.",
            "vcrast predict RUN dog.wav",
            "vcrast predict RUN recordings/ --out labels.csv",
            "vcrast predict RUN night.flac --hop 1 --threshold 0.5 --format audacity --out night.txt",
            "vcrast predict RUN street.wav --frames --threshold 0.5 --csv",
            "vcrast predict RUN https://example.org/dog.mp3 --all --json",
            "ffmpeg -i film.mkv -f wav - | vcrast predict RUN - --windows",
        ),
    )
    parser.add_argument("model", metavar="RUN", help="run folder or exported model, finetuned or with a probe")
    add_options(parser, stages="finetuned, probe or epoch_N; the first of them that there is if left out")
    parser.add_argument(
        "--frames", action="store_true",
        help="a result for each frame within the windows, of a classifier that knows them (model=htsat)",
    )  # fmt: skip
    shown = parser.add_argument_group("output")
    shown.add_argument("--top", type=int, metavar="N", help=f"labels of each (default {TOP}); 0: all of them")
    shown.add_argument("--all", action="store_true", help="all labels")
    shown.add_argument("--threshold", type=float, metavar="P", help="only labels of at least this probability")
    formats = shown.add_mutually_exclusive_group()
    formats.add_argument("--format", choices=FORMATS, help="text (default), or as the ending of --out says")
    formats.add_argument(
        "--json", action="store_const", const="jsonl", dest="format", help="a JSON object in each line: path and scores"
    )
    formats.add_argument(
        "--csv", action="store_const", const="csv", dest="format", help="rows of path, start, end, label, score"
    )
    shown.add_argument(
        "--out", type=Path, metavar="FILE",
        help=".txt, .jsonl, .json or .csv instead of stdout; for label tracks a folder, or a .txt of one sound",
    )  # fmt: skip
    parser.set_defaults(run=run, verb="predict")


def run(arguments: argparse.Namespace) -> int:
    """Write the labels of every sound or window.

    Raises:
        ValueError: an option out of its range, or a model without classifier.
        FileNotFoundError: no such model, sound or folder.
    """
    check(arguments)
    check_choice(arguments)
    from vcrast.cli.files import Sounds
    from vcrast.cli.hearing import Hearing
    from vcrast.cli.members import load_classifier
    from vcrast.inference.pieces import frames_of
    from vcrast.models.classifier import check_frames

    sounds = Sounds(arguments.paths)
    kind = choose_format(arguments.format, arguments.out, num_sounds=len(sounds.names))
    model = load_classifier(arguments)
    if arguments.frames:
        check_frames(model.head)
    windows = in_windows(arguments) or arguments.frames or kind in TRACKS
    top, threshold = choice(arguments, model, kind)
    hearing = Hearing(model, sounds, arguments, windows=windows, frames=arguments.frames)
    writer = open_writer(
        kind, arguments.out, below=sounds.below, windows=windows, top_hz=model.sample_rate / 2
    )  # fmt: skip
    try:
        results = hearing.results(model.frame_probabilities if arguments.frames else model.probabilities)
        for piece, row in frames_of(results, model.clip_duration_s) if arguments.frames else results:
            likely = {label: score for label, score in model.named(row, top).items() if score >= threshold}
            with hearing.progress.aside():
                writer.write(Prediction(piece.sound, piece.start_s, piece.end_s, likely))
    finally:
        writer.close()
    return hearing.finish()


def check_choice(arguments: argparse.Namespace) -> None:
    """Refuse choices of labels that cannot be meant.

    Raises:
        ValueError: names the option.
    """
    if arguments.frames and in_windows(arguments):
        raise ValueError(
            "--frames: gives results within windows, which follow each other; leave --windows, --window and --hop out"
        )
    if arguments.top is not None and arguments.top < 0:
        raise ValueError(f"--top {arguments.top}: must be at least 1, or 0 for all labels")
    if arguments.top and arguments.all:
        raise ValueError(f"--top {arguments.top} --all: choose one")
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        raise ValueError(f"--threshold {arguments.threshold:g}: must lie in [0, 1]")


def choice(arguments: argparse.Namespace, model: Model, kind: str) -> tuple[int | None, float]:
    """How many labels are shown at most (None: all), and their least probability.

    A threshold alone shows all labels above it. A label track has the likeliest label of each window, or, where a sound
    may have several, those that are likelier than not.
    """
    top, threshold = (0 if arguments.all else arguments.top), arguments.threshold
    several = kind in TRACKS and model.multilabel
    if threshold is None:
        threshold = LIKELY if several and top is None else 0.0
    if top is None:
        top = (0 if several else 1) if kind in TRACKS else TOP if arguments.threshold is None else 0
    return top or None, threshold
