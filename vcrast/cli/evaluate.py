"""`vcrast evaluate`: score a finished model on another labelled set."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcrast.cli.options import add_model_options, check_batch_size

if TYPE_CHECKING:
    from torch import Tensor

    from vcrast.config.schema import DataConfig
    from vcrast.data.clip import Clip
    from vcrast.data.corpus import Corpus
    from vcrast.evaluation.base import Measured
    from vcrast.evaluation.labels import Matched
    from vcrast.inference import Model

OF_THE_MODEL = ("sample_rate", "clip_duration_s", "pad", "mean", "std")
"""Settings of a dataset that say what a model is trained on: a finished one has its own."""
LISTED = 40  # classes that the terminal shows; metrics.json has all


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score a finished model on another labelled set",
        description="Score a model's classifier on labelled clips that it has not been trained on. Labels are matched "
        "with the model's classes by name; sample rate, clip length and padding are the model's, and longer clips are "
        "the mean over windows, as in predict. Writes metrics.json and predictions.csv.",
    )
    parser.add_argument("model", metavar="RUN", help="run folder or exported model, finetuned or with a probe")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value",
        help="the set, as for a run: data=folder data.root=DIR, data=manifest data.path=FILE data.label=COLUMN; all "
        "of its clips, or those of data.folds=[...]",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default evaluation-RUN-SET, here)")
    parser.add_argument(
        "--ignore-unknown", action="store_true", help="leave out labels that the model does not have; else refused"
    )
    add_model_options(parser, stages="finetuned or probe; the first of them that there is if left out")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score, print the table, write the files.

    Raises:
        ValueError: no dataset is named, a setting is wrong or the model's own, labels that the model does not have, a
            model without classifier, or too many unreadable clips.
        FileNotFoundError: no such model, or data.
    """
    from vcrast.data.open import open_corpus
    from vcrast.evaluation.labels import match

    check_words(arguments)
    model = load_classifier(arguments)
    data = data_settings(arguments.overrides, model)
    corpus = open_corpus(data, trains=False)
    for note in corpus.notes:
        say(note)
    if not corpus.classes:
        raise ValueError(f"data={data.name}: its clips have no labels to score against; see docs/data.md for how to")
    found = match(corpus, chosen_clips(corpus, data, arguments.overrides), model.labels)
    check_labels(found, model, ignore=arguments.ignore_unknown)
    clips, score, faults = scores(model, found.clips, data, batch_size=arguments.batch_size)
    label = labels_of(clips, len(model.labels))
    result = measure(score, label, model.labels, single=found.single)
    folder = arguments.out or Path(default_name(arguments.model, data))
    folder.mkdir(parents=True, exist_ok=True)
    told = {"model": str(arguments.model), "stage": arguments.stage, "meta": model.meta, "data": where(data)}
    several = model.multilabel and not found.single
    write(folder, told, result, found, clips, score, label, faults, classes=model.labels, several=several)
    show(result, len(clips), title=f"{arguments.model} on {where(data)}")
    print(f"{folder / 'metrics.json'}\n{folder / 'predictions.csv'}")
    return 0


def check_words(arguments: argparse.Namespace) -> None:
    """Refuse, before anything is read, words that cannot be meant."""
    check_batch_size(arguments.batch_size)
    words = arguments.overrides
    if not any(word.startswith("data=") for word in words):
        raise ValueError("name the set to score on: data=folder data.root=DIR, or data=manifest data.path=FILE")
    for word in words:
        key, equals, _ = word.partition("=")
        if not equals or key.partition(".")[0] != "data":
            raise ValueError(f"{word}: evaluate takes data=NAME and data.key=value, nothing else of a run")
        if key.removeprefix("data.") in OF_THE_MODEL:
            raise ValueError(f"{word}: the model has its own {key.removeprefix('data.')}; leave it out")


def load_classifier(arguments: argparse.Namespace) -> Model:
    """The model with a head: the finetuned one, or else the probe where there is one."""
    from vcrast.inference import load

    model = load(arguments.model, fold=arguments.fold, stage=arguments.stage, device=arguments.device)
    if model.head is None and arguments.stage is None:
        try:
            model = load(arguments.model, fold=arguments.fold, stage="probe", device=arguments.device)
        except ValueError:  # there is none: the message about the first one helps more
            model.require_head()
        arguments.stage = "probe"
        say("the run has not finetuned: its linear probe is scored")
    model.require_head()
    return model


def data_settings(words: Sequence[str], model: Model) -> DataConfig:
    """The settings of the dataset, with the model's own in place of what a run would choose."""
    from vcrast.config.compose import compose

    data = compose(words).data
    data.sample_rate, data.clip_duration_s, data.pad = model.sample_rate, model.clip_duration_s, model.pad
    data.keep_silent = data.keep_silent or bool(model.meta.get("keep_silent"))
    return data


def chosen_clips(corpus: Corpus, data: DataConfig, words: Sequence[str]) -> list[Clip]:
    """The clips of `data.folds` where the command names some, else all."""
    from vcrast.data.corpus import select_folds

    if not any(word.startswith("data.folds=") for word in words) or data.folds is None:
        return list(corpus.clips)
    folds = select_folds(corpus, data.folds)
    return [clip for clip in corpus.clips if clip.fold in folds]


def check_labels(found: Matched, model: Model, *, ignore: bool) -> None:
    """Say which labels were matched by a similar name, and refuse those that the model does not have."""
    for label, name in found.renamed.items():
        say(f"label {label!r} is taken for the model's {name!r}")
    if found.unknown and not ignore:
        listed = ", ".join(f"{name} ({count})" for name, count in list(found.unknown.items())[:20])
        more = ", ..." if len(found.unknown) > 20 else ""
        known = ", ".join(model.labels[:20]) + (", ..." if len(model.labels) > 20 else "")
        raise ValueError(
            f"labels that the model does not have: {listed}{more}; it has {known}; rename them, or leave them out with "
            "--ignore-unknown"
        )
    if found.unknown:
        say(f"labels left out: {', '.join(found.unknown)}; {found.num_unknown} clips have no other")
    if found.num_unlabelled:
        say(f"{found.num_unlabelled} clips without a label left out")
    if not found.clips:
        raise ValueError("no clip has a label that the model has; nothing to score")


def scores(
    model: Model, clips: Sequence[Clip], data: DataConfig, *, batch_size: int
) -> tuple[list[Clip], Tensor, list[str]]:
    """Those of the clips that can be read, their probabilities (n, C), and the faults of the others.

    Raises:
        ValueError: more faults than `data.max_bad_fraction` allows.
    """
    import torch

    from vcrast.data.preflight import allowed_faults, fault_list

    places = {name: number for number, name in enumerate(model.labels)}
    read: list[Clip] = []
    faults: list[str] = []
    rows: list[Tensor] = []
    for some, wavs in batches(model, clips, faults, batch_size=batch_size, keep_silent=data.keep_silent):
        for named in model.predict(wavs, model.sample_rate, batch_size=batch_size):
            row = torch.empty(len(places))
            row[[places[name] for name in named]] = torch.tensor(list(named.values()))
            rows.append(row)
        read += some
    for fault in faults:
        say(f"left out: {fault}")
    if len(faults) > allowed_faults(len(clips), data.max_bad_fraction) or not rows:
        raise ValueError(
            f"{len(faults)} of {len(clips)} clips cannot be used, more than "
            f"data.max_bad_fraction={data.max_bad_fraction:g} allows{fault_list(faults)}"
        )
    return read, torch.stack(rows), faults


def batches(
    model: Model, clips: Sequence[Clip], faults: list[str], *, batch_size: int, keep_silent: bool
) -> Iterator[tuple[list[Clip], list[Tensor]]]:
    """Readable clips with their samples, about `batch_size` windows at a time; the reasons of others go to `faults`."""
    import torch

    from vcrast.data.audio import AudioFault, read_wav

    some: list[Clip] = []
    wavs: list[Tensor] = []
    for clip in clips:
        try:
            wav = read_wav(
                clip.path, sample_rate=model.sample_rate, start_s=clip.start_s, duration_s=clip.duration_s,
                keep_silent=keep_silent,
            )  # fmt: skip
        except AudioFault as fault:
            faults.append(f"{clip.where}: {fault.reason}")
            continue
        some.append(clip)
        wavs.append(torch.from_numpy(wav))
        if sum(max(len(each), model.num_samples) for each in wavs) >= batch_size * model.num_samples:
            yield some, wavs
            some, wavs = [], []
    if some:
        yield some, wavs


def labels_of(clips: Sequence[Clip], num_classes: int) -> Tensor:
    """(n, C) multi-hot."""
    import torch

    label = torch.zeros(len(clips), num_classes)
    for row, clip in enumerate(clips):
        label[row, list(clip.labels)] = 1.0
    return label


def measure(score: Tensor, label: Tensor, classes: Sequence[str], *, single: bool) -> Measured:
    """What the classifier's evaluation of a run measures; accuracies where each clip has one label."""
    from vcrast.evaluation.base import Predictions, measured
    from vcrast.evaluation.classifier import Classifier

    return measured(Classifier(), Predictions(score, label, multilabel=not single), classes)


def write(
    folder: Path,
    told: dict[str, Any],
    result: Measured,
    found: Matched,
    clips: Sequence[Clip],
    score: Tensor,
    label: Tensor,
    faults: Sequence[str],
    *,
    classes: Sequence[str],
    several: bool,
) -> None:
    """Write `metrics.json` and `predictions.csv`; those of an earlier call are replaced.

    `several`: all labels from a threshold on are predicted, rather than the likeliest one.
    """
    import math

    from vcrast.config.atomic import write_atomic
    from vcrast.evaluation.predictions import write_predictions

    content = {
        **told,
        "num_clips": len(clips),
        "metrics": {name: value if math.isfinite(value) else None for name, value in result.values.items()},
        "undefined": result.undefined,
        **result.by_class,
        "left_out": {
            "unreadable": list(faults), "without_label": found.num_unlabelled, "of_unknown_labels": found.num_unknown
        },
        "unknown_labels": dict(found.unknown),
        "renamed_labels": dict(found.renamed),
    }  # fmt: skip
    write_atomic(folder / "metrics.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    write_predictions(folder / "predictions.csv", clips, score, label, classes, multilabel=several)


def show(result: Measured, num_clips: int, *, title: str) -> None:
    """Print the numbers, then those of each class that has clips."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from vcrast.evaluation.base import undefined_lines
    from vcrast.evaluation.classifier import Classifier

    console = Console()
    console.print(f"[bold]{escape(title)}[/]: {num_clips} clips", highlight=False, soft_wrap=True)
    table = Table(show_header=False)
    for name, metric in Classifier.metrics.items():
        if name in result.values:
            value = None if name in result.undefined else result.values[name]
            table.add_row(metric.label.removesuffix(", finetuned"), cell(value, metric.format))
    console.print(table)
    counts = {name: count for name, count in result.by_class.get("class_clips", {}).items() if count}
    columns = [name for name in ("class_accuracy", "class_AP", "class_auc") if name in result.by_class]
    table = Table("class", "clips", *(name.removeprefix("class_").replace("auc", "AUC") for name in columns))
    for name, count in list(counts.items())[:LISTED]:
        form = ["percent" if column == "class_accuracy" else "fixed" for column in columns]
        own = [cell(result.by_class[column][name], each) for column, each in zip(columns, form, strict=True)]
        table.add_row(escape(name), str(count), *own)
    console.print(table)
    if len(counts) > LISTED:
        print(f"... and {len(counts) - LISTED} more classes in metrics.json")
    for line in undefined_lines(result.undefined):
        say(line)


def cell(value: float | None, form: str) -> str:
    """A number of the table, or the mark of an undefined one."""
    from vcrast.config.metric import FORMATS
    from vcrast.runs.report.headline import MISSING

    return MISSING if value is None else FORMATS[form](value)


def where(data: DataConfig) -> str:
    """The dataset as a reader knows it: the file or folder, or else its name."""
    return data.path or data.root or data.name


def default_name(model: str, data: DataConfig) -> str:
    """`evaluation-<run>-<set>`: one folder for each model and set."""
    return f"evaluation-{Path(model).resolve().name}-{Path(where(data)).resolve().stem}"


def say(text: str) -> None:
    """A note, beside the results."""
    print(f"note: {text}", file=sys.stderr)
