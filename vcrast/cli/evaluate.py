"""`vcrast evaluate`: score a finished model on another labelled set."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcrast.cli.members import Member, Scored, check_members, find_member, mean_name, mean_of, say, score_all
from vcrast.cli.options import add_model_options, check_batch_size

if TYPE_CHECKING:
    from torch import Tensor

    from vcrast.config.schema import DataConfig
    from vcrast.data.clip import Clip
    from vcrast.data.corpus import Corpus
    from vcrast.evaluation.base import Measured
    from vcrast.evaluation.labels import Matched

OF_THE_MODEL = ("sample_rate", "clip_duration_s", "pad", "mean", "std")
"""Settings of a dataset that say what a model is trained on: a finished one has its own."""
OF_THE_DATA = re.compile(r"data(\.\w+)*=")
LISTED = 40  # classes that the terminal shows; metrics.json has all


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score a finished model, or the mean of several, on another labelled set",
        description="Score a model's classifier on labelled clips that it has not been trained on. Labels are matched "
        "with the model's classes by name; sample rate, clip length and padding are the model's, and longer clips are "
        "the mean over windows, as in predict. Of several models with the same classes the mean of their scores is "
        "what is measured, beside each of them. Writes metrics.json and predictions.csv.",
    )
    parser.add_argument(
        "words", nargs="+", metavar="RUN... key=value",
        help="run folders or exported models, finetuned or with a probe; and the set, as for a run: data=folder "
        "data.root=DIR, data=manifest data.path=FILE data.label=COLUMN; all of its clips, or those of data.folds=[...]",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default evaluation-RUN-SET, here)")
    parser.add_argument(
        "--ignore-unknown", action="store_true", help="leave out labels that the model does not have; else refused"
    )
    add_model_options(parser, stages="finetuned, probe or epoch_N; the first of them that there is if left out")
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

    words, overrides = split_words(arguments.words)
    check_words(arguments, words, overrides)
    members = [find_member(word, fold=arguments.fold, stage=arguments.stage) for word in words]
    check_members(members)
    data = data_settings(overrides, members)
    corpus = open_corpus(data, trains=False)
    for note in corpus.notes:
        say(note)
    if not corpus.classes:
        raise ValueError(f"data={data.name}: its clips have no labels to score against; see docs/data.md for how to")
    classes = members[0].description["labels"]
    found = match(corpus, chosen_clips(corpus, data, overrides), classes)
    check_labels(found, classes, ignore=arguments.ignore_unknown)
    scored = score_all(members, found.clips, data, device=arguments.device, batch_size=arguments.batch_size)
    label, score = labels_of(scored.clips, len(classes)), mean_of(scored.scores)
    each = [measure(own, label, classes, single=found.single) for own in scored.scores]
    result = measure(score, label, classes, single=found.single)
    folder = arguments.out or Path(default_name(words, data))
    folder.mkdir(parents=True, exist_ok=True)
    told = {**told_of(members, each), "data": where(data)}
    several = members[0].description["multilabel"] and not found.single
    write(folder, told, result, found, scored, score, label, classes=classes, several=several)
    if len(members) == 1:
        show(result, len(scored.clips), title=f"{members[0].word} on {where(data)}")
    else:
        title = f"{mean_name(members)} of {len(members)} models on {where(data)}"
        show(
            result, len(scored.clips), title=title, members=dict(zip([one.name for one in members], each, strict=True))
        )
    print(f"{folder / 'metrics.json'}\n{folder / 'predictions.csv'}")
    return 0


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Models, and settings of the data: what has a `=`, unless a folder is called so."""
    settings = [word for word in words if OF_THE_DATA.match(word) or ("=" in word and not Path(word).exists())]
    return [word for word in words if word not in settings], settings


def told_of(members: Sequence[Member], each: Sequence[Measured]) -> dict[str, Any]:
    """What `metrics.json` says of the model, or of the members whose scores were averaged."""
    told = [{"model": one.word, "stage": one.stage, "meta": one.meta} for one in members]
    if len(members) == 1:
        return told[0]
    numbers = [{"metrics": finite(found.values), "undefined": found.undefined} for found in each]
    own = [{**one, **found} for one, found in zip(told, numbers, strict=True)]
    return {"model": f"{mean_name(members)} of {len(members)} models", "members": own}


def check_words(arguments: argparse.Namespace, models: Sequence[str], settings: Sequence[str]) -> None:
    """Refuse, before anything is read, words that cannot be meant."""
    check_batch_size(arguments.batch_size)
    if not models:
        raise ValueError("name a model to score: a run folder, or what `vcrast export` or `vcrast average` wrote")
    if not any(word.startswith("data=") for word in settings):
        raise ValueError("name the set to score on: data=folder data.root=DIR, or data=manifest data.path=FILE")
    for word in settings:
        key = word.partition("=")[0]
        if key.partition(".")[0] != "data":
            raise ValueError(f"{word}: evaluate takes data=NAME and data.key=value, nothing else of a run")
        if key.removeprefix("data.") in OF_THE_MODEL:
            raise ValueError(f"{word}: the model has its own {key.removeprefix('data.')}; leave it out")


def data_settings(words: Sequence[str], members: Sequence[Member]) -> DataConfig:
    """The settings of the dataset, with the first model's own in place of what a run would choose."""
    from vcrast.config.compose import compose

    data, first = compose(words).data, members[0].description
    data.sample_rate, data.clip_duration_s, data.pad = first["sample_rate"], first["clip_duration_s"], first["pad"]
    data.keep_silent = data.keep_silent or any(member.meta.get("keep_silent") for member in members)
    if data.time_expansion is None and not data.sources:  # 1 is that of a set recorded as it is
        data.time_expansion = members[0].meta.get("time_expansion")
    return data


def chosen_clips(corpus: Corpus, data: DataConfig, words: Sequence[str]) -> list[Clip]:
    """The clips of `data.folds` where the command names some, else all."""
    from vcrast.data.corpus import select_folds

    if not any(word.startswith("data.folds=") for word in words) or data.folds is None:
        return list(corpus.clips)
    folds = select_folds(corpus, data.folds)
    return [clip for clip in corpus.clips if clip.fold in folds]


def check_labels(found: Matched, classes: Sequence[str], *, ignore: bool) -> None:
    """Say which labels were matched by a similar name, and refuse those that the model does not have."""
    for label, name in found.renamed.items():
        say(f"label {label!r} is taken for the model's {name!r}")
    if found.unknown and not ignore:
        listed = ", ".join(f"{name} ({count})" for name, count in list(found.unknown.items())[:20])
        more = ", ..." if len(found.unknown) > 20 else ""
        known = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
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
    scored: Scored,
    score: Tensor,
    label: Tensor,
    *,
    classes: Sequence[str],
    several: bool,
) -> None:
    """Write `metrics.json` and `predictions.csv`; those of an earlier call are replaced.

    `several`: all labels from a threshold on are predicted, rather than the likeliest one.
    """
    from vcrast.config.atomic import write_atomic
    from vcrast.evaluation.predictions import write_predictions

    content = {
        **told,
        "num_clips": len(scored.clips),
        "metrics": finite(result.values),
        "undefined": result.undefined,
        **result.by_class,
        "left_out": {
            "unreadable": scored.faults, "without_label": found.num_unlabelled, "of_unknown_labels": found.num_unknown
        },
        "unknown_labels": dict(found.unknown),
        "renamed_labels": dict(found.renamed),
    }  # fmt: skip
    write_atomic(folder / "metrics.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    write_predictions(folder / "predictions.csv", scored.clips, score, label, classes, multilabel=several)


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers as JSON has them: None where one is undefined."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def show(result: Measured, num_clips: int, *, title: str, members: Mapping[str, Measured] | None = None) -> None:
    """Print the numbers, those of the members of a mean before it, then those of each class that has clips."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from vcrast.evaluation.base import undefined_lines
    from vcrast.evaluation.classifier import Classifier

    console = Console()
    console.print(f"[bold]{escape(title)}[/]: {num_clips} clips", highlight=False, soft_wrap=True)
    shown = {name: metric for name, metric in Classifier.metrics.items() if name in result.values}
    labels = [metric.label.removesuffix(", finetuned") for metric in shown.values()]
    rows = [
        [
            cell(None if name in each.undefined else each.values.get(name), metric.format)
            for name, metric in shown.items()
        ]
        for each in (*(members or {}).values(), result)
    ]
    if members:
        table = Table()
        table.add_column("", overflow="fold")
        for label in labels:
            table.add_column(label, no_wrap=True)
        for name, row in zip([*map(escape, members), "[bold]mean of scores[/]"], rows, strict=True):
            table.add_row(name, *row)
    else:
        table = Table(show_header=False)
        for pair in zip(labels, rows[0], strict=True):
            table.add_row(*pair)
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


def default_name(models: Sequence[str], data: DataConfig) -> str:
    """`evaluation-<run>-<set>`: one folder for each model and set; `<run>+2` for a mean with two more."""
    more = f"+{len(models) - 1}" if len(models) > 1 else ""
    return f"evaluation-{Path(models[0]).resolve().name}{more}-{Path(where(data)).resolve().stem}"
