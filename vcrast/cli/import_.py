"""`vcrast import`: a checkpoint of another project as a model of this one."""

from __future__ import annotations

import argparse
import csv
import logging
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcrast.models.layouts.base import Foreign, Wishes

log = logging.getLogger(__name__)

Options = Mapping[str, Any]
SAMPLE_RATE = 16000  # of recipes, Hz
LAYOUTS = ("ast", "ssast", "audiomae", "mae_ast", "huggingface", "vit")


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "import",
        help="weights of AST, SSAST, AudioMAE, MAE-AST, Hugging Face or timm as a model",
        description="Make a model of a checkpoint of another project, classifier and labels included where it has "
        "them. DIR is what every other verb, vcrast.load and model.checkpoint take. The layout is recognised; the "
        "checkpoint is read as data only. What it does not tell of the front end is the AST's by its number of frames.",
    )
    parser.add_argument("source", type=Path, metavar="FILE|FOLDER", help=".pth, .pt, .bin, .safetensors, or a folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; created if missing")
    parser.add_argument("--kind", choices=LAYOUTS, help="the layout, where it is not recognised as you know it")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line, or AudioSet's .csv")
    several = "a sound may have several classes: sigmoid, not softmax; of 527 it may"
    parser.add_argument("--multilabel", action=argparse.BooleanOptionalAction, help=several)
    group = parser.add_argument_group("where the file does not tell, or you know better")
    group.add_argument("--frames", type=int, metavar="T", help="of a clip, 100 a second: 1024, 512 or 128 by default")
    group.add_argument("--patch-size", metavar="T,F", help="frames and mel bins (mae_ast alone)")
    group.add_argument("--patch-stride", metavar="T,F", help="frames and mel bins between patches: 10,10")
    group.add_argument("--heads", type=int, metavar="H", help="of attention; 64 channels each by default")
    group.add_argument("--mel-bins", type=int, metavar="F", help="128 by default")
    group.add_argument("--rate", type=int, metavar="HZ", help="of the waveforms, 16000 by default")
    group.add_argument("--mean", type=float, help="of the data's log-mel energies; with --std")
    group.add_argument("--std", type=float)
    fill = "what fills shorter clips; zeros in the filterbank, as the AST, if left out (silence: mae_ast, vit)"
    group.add_argument("--pad", choices=("zeros", "silence", "repeat"), help=fill)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the model and print what was written.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a checkpoint that cannot be read, or a folder that must not be written.
    """
    from vcrast.cli.export import refuse_harm
    from vcrast.cli.options import show_log
    from vcrast.config.compose import compose
    from vcrast.models.export import DESCRIPTION, WEIGHTS, export, file_sha256, to_plain
    from vcrast.models.layouts import KINDS, build, read_model
    from vcrast.models.layouts.reading import find_file

    show_log()
    wishes = wishes_of(arguments)
    source, where = arguments.source.expanduser(), str(arguments.source)
    digest = file_sha256(find_file(source))
    refuse_harm(arguments.out, [source], same=lambda there: there["meta"].get("source_sha256") == digest)
    foreign = read_model(source, wishes)
    usual = compose(["model=base", "features=fbank"])
    log.info("%s: read as %s (--kind %s)", where, KINDS[foreign.kind], foreign.kind)
    encoder, notes = build(
        foreign, model=to_plain(usual.model, "model"), attention=to_plain(usual.attention, "attention"),
        linear=to_plain(usual.linear, "linear"), where=where,
    )  # fmt: skip
    for note in notes:
        log.warning("note: %s: %s", where, note)
    features = front_end(foreign, wishes, to_plain(usual.features, "features"), where)
    labels, multilabel = classes_of(foreign, wishes, where)
    pad = arguments.pad or ("zeros" if foreign.zero_filled else "silence")
    export(
        arguments.out, encoder=encoder, features=features, labels=labels, multilabel=multilabel, head=foreign.head,
        sample_rate=features["sample_rate"], clip_duration_s=duration_s(features, foreign.options["num_frames"]),
        pad=pad, meta={"imported": where, "kind": foreign.kind, "source_sha256": digest},
    )  # fmt: skip
    words = run_words(encoder.options, to_plain(usual.model, "model"), features, to_plain(usual.features, "features"))
    log.info("%s: a run takes it by %s", where, shlex.join([f"model.checkpoint={arguments.out}", *words]))
    for name in (WEIGHTS, DESCRIPTION):
        print(arguments.out / name)
    return 0


def run_words(model: Options, usual: Options, features: Options, usual_features: Options) -> list[str]:
    """The settings under which a run builds such an encoder and front end, besides what is usual."""
    from vcrast.models.description import SIZES, option_with

    named = option_with(model)
    own = [f"model.{key}={model[key]}" for key in SIZES if key in model and model[key] != usual[key]]
    sizes = [f"model={named}"] if named else own
    others = ("patch_size", "positions", "positions_stride", "class_tokens", "pool", "readout", "norms", "norm_eps")
    words = [f"model.{key}={worded(model[key])}" for key in others if model[key] != usual[key]]
    if model["patch_stride"] != model["patch_size"]:
        words.append(f"finetune.patch_stride={worded(model['patch_stride'])}")
    if features["sample_rate"] != SAMPLE_RATE:
        words.append(f"data.sample_rate={features['sample_rate']}")
    changed = [key for key in usual_features if features[key] != usual_features[key]]
    return [*sizes, *words, *(f"features.{key}={features[key]}" for key in changed)]


def worded(value: Any) -> str:
    """A value as the command line takes it."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def wishes_of(arguments: argparse.Namespace) -> Wishes:
    """What the words say of the checkpoint.

    Raises:
        FileNotFoundError: no file of labels.
        ValueError: numbers that cannot be meant, or one of mean and std.
    """
    from vcrast.models.layouts.base import Wishes

    for option in ("frames", "heads", "rate", "mel_bins"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')} {value}: must be at least 1")
    if (arguments.mean is None) != (arguments.std is None):
        raise ValueError(f"--mean {arguments.mean} --std {arguments.std}: give both, or neither")
    return Wishes(
        kind=arguments.kind, num_frames=arguments.frames, num_heads=arguments.heads, num_mel_bins=arguments.mel_bins,
        patch_size=pair("--patch-size", arguments.patch_size),
        patch_stride=pair("--patch-stride", arguments.patch_stride),
        sample_rate=arguments.rate, mean=arguments.mean, std=arguments.std, multilabel=arguments.multilabel,
        labels=None if arguments.labels is None else read_labels(arguments.labels),
    )  # fmt: skip


def pair(option: str, text: str | None) -> tuple[int, int] | None:
    """`10,10` as two numbers.

    Raises:
        ValueError: something else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"\[?\s*(\d+)\s*,\s*(\d+)\s*\]?", text)
    if found is None or "0" in found.groups():
        raise ValueError(f"{option} {text}: give two positive whole numbers, frames and mel bins: {option} 10,10")
    return int(found[1]), int(found[2])


def read_labels(path: Path) -> list[str]:
    """Class names: AudioSet's `class_labels_indices.csv` (index, mid, display_name), or one a line.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no names, one twice, or indices that do not count up.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--labels {path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--labels {path}: not text in UTF-8 ({error.reason})") from None
    names = [line.strip() for line in lines if line.strip()]
    rows = csv.DictReader(lines)
    if "display_name" in (rows.fieldnames or ()):
        cells = list(rows)
        if [row.get("index") for row in cells if "index" in row] not in ([], [str(n) for n in range(len(cells))]):
            raise ValueError(f"--labels {path}: its index does not count up from 0; sort it")
        names = [str(row["display_name"]) for row in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not names or twice is not None:
        raise ValueError(f"--labels {path}: {'no names' if twice is None else f'has {twice!r} twice'}")
    return names


def front_end(foreign: Foreign, wishes: Wishes, usual: dict[str, Any], where: str) -> dict[str, Any]:
    """Keywords of `Fbank`: the user's, else the file's, else the AST's for its number of frames; logs which.

    Raises:
        ValueError: no such front end.
    """
    from vcrast.features.fbank import Fbank
    from vcrast.models.layouts.base import KNOWN, SAMPLE_RATE

    num_frames, told = foreign.options["num_frames"], foreign.front
    known = KNOWN.get(num_frames, next(iter(KNOWN.values())))
    if wishes.mean is not None:
        mean, std, origin = wishes.mean, wishes.std, "as you say"
    elif "mean" in told:
        mean, std, origin = told["mean"], told["std"], "as the file says"
    else:
        mean, std, origin = known.mean, known.std, f"of {known.data}, as the AST has it; --mean and --std set others"
    features = {
        **usual, "num_mel_bins": foreign.options["num_mel_bins"], "window": told.get("window", usual["window"]),
        "sample_rate": wishes.sample_rate or told.get("sample_rate", SAMPLE_RATE), "mean": mean, "std": std,
    }  # fmt: skip
    Fbank(**features)  # refuses what cannot be
    pair = "values as they are" if mean is None else f"mean {mean:.7g}, std {std:.7g}"
    log.info(
        "%s: front end: %d Hz, %d mel bins, %s window of %g ms, %d frames (%.6g s); %s (%s)", where,
        features["sample_rate"], features["num_mel_bins"], features["window"], features["window_ms"], num_frames,
        duration_s(features, num_frames), pair, origin,
    )  # fmt: skip
    return features


def duration_s(features: dict[str, Any], num_frames: int) -> float:
    """How long a sound of `num_frames` may be, in s, to the millisecond: none that has no more is cut into windows."""
    shift, window = (int(features["sample_rate"] * features[key] * 0.001) for key in ("frame_shift_ms", "window_ms"))
    return float((num_frames * shift + window - 1) * 1000 // features["sample_rate"] / 1000)


def classes_of(foreign: Foreign, wishes: Wishes, where: str) -> tuple[list[str], bool]:
    """Class names of the outputs, and whether a sound may have several; logs both.

    Raises:
        ValueError: another number of names than of outputs, or names of a model without classifier.
    """
    from vcrast.models.layouts.base import MULTILABEL

    if foreign.head is None:
        if wishes.labels is not None or wishes.multilabel is not None:
            raise ValueError(f"{where}: has no classifier; leave --labels and --multilabel out")
        log.info("%s: no classifier: finetune it, or embed", where)
        return [], False
    count = len(list(foreign.head.parameters())[-1])
    labels = wishes.labels or foreign.labels or [f"class {number}" for number in range(count)]
    if len(labels) != count:
        raise ValueError(f"{where}: {count} classes, but --labels names {len(labels)}")
    multilabel = next((m for m in (wishes.multilabel, foreign.multilabel) if m is not None), count in MULTILABEL)
    named = "" if wishes.labels or foreign.labels else "; the file does not name them: --labels FILE"
    how = "any number a sound (sigmoid)" if multilabel else "one a sound (softmax)"
    other = "--no-multilabel" if multilabel else "--multilabel"
    log.info("%s: classifier of %d classes, %s, %s changes it: %s, ...%s", where, count, how, other, labels[0], named)
    return list(labels), bool(multilabel)
