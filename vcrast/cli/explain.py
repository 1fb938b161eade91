"""`vcrast explain`: where in a sound's spectrogram the model's result comes from."""

from __future__ import annotations

import argparse
import io
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcrast.cli.files import PATHS_HELP
from vcrast.cli.formats import free_path
from vcrast.cli.hearing import PADS, described
from vcrast.cli.options import add_model_options, check_batch_size

if TYPE_CHECKING:
    from vcrast.inference.explain import Explanation

ENDINGS = {"page": ".html", "npz": ".npz", "json": ".json"}
AT_ONCE = 4


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "explain",
        help="sounds -> what the model looked at, over the spectrogram",
        **described(
            "Maps over the spectrogram of each sound: from which times and frequencies attention carries the result. "
            "Sounds that cannot be read are named on stderr and left out; exit code 1 if none is good.",
            "vcrast explain RUN dog.wav",
            "vcrast explain RUN street.wav --class siren --out maps",
            "vcrast explain RUN recordings/ --method rollout --format npz --out maps",
        ),
    )
    parser.add_argument("model", metavar="RUN", help="run folder or exported model")
    parser.add_argument("paths", nargs="+", metavar="SOUND", help=PATHS_HELP)
    what = parser.add_argument_group("what is explained").add_mutually_exclusive_group()
    what.add_argument(
        "--class", dest="label", metavar="NAME",
        help="a class (default: the likeliest; the embedding where there is no classifier)",
    )  # fmt: skip
    what.add_argument("--embedding", action="store_true", help="the embedding, although there is a classifier")
    parser.add_argument(
        "--method", default="relevance", metavar="M",
        help="relevance: gradient times attention (default); rollout: attention alone",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=ENDINGS, default="page", help="page: a PNG and an HTML page with player (default)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("explained"), metavar="DIR", help="folder of the files (default: explained)"
    )
    how = parser.add_argument_group("model")
    add_model_options(
        how, stages="finetuned, pretrained, probe or epoch_N; the first of them that there is if left out"
    )
    how.add_argument("--pad", choices=PADS, default="model", help="what fills short sounds, as for predict")
    parser.set_defaults(run=run, verb="explain", batch_size=AT_ONCE)


def run(arguments: argparse.Namespace) -> int:
    """Write the map of every sound, and print the paths.

    Raises:
        ValueError: an option out of its range, or a model that cannot be explained.
        FileNotFoundError: no such model, sound or folder.
    """
    check_batch_size(arguments.batch_size)
    from vcrast.cli.files import Sounds
    from vcrast.cli.progress import Progress
    from vcrast.inference import load
    from vcrast.inference.explain import check

    sounds = Sounds(arguments.paths)
    model = load(arguments.model, fold=arguments.fold, stage=arguments.stage, device=arguments.device)
    check(model, arguments.label, arguments.embedding, arguments.method)
    arguments.out.mkdir(parents=True, exist_ok=True)
    progress, used, written = Progress(arguments.verb, len(sounds.names)), set[Path](), 0
    try:
        for name, wav in sounds.read(model):
            found = model.explain(
                wav, model.sample_rate, label=arguments.label, embedding=arguments.embedding, method=arguments.method,
                pad=arguments.pad, batch_size=arguments.batch_size,
            )  # fmt: skip
            path = free_path(arguments.out, sounds.below[name], ENDINGS[arguments.format], used)
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, found, name=name, arguments=arguments, model=repr(model))
            written += 1
            with progress.aside():
                print(path)
                if not found.values.any():
                    print(f"note: {name}: the map is empty, nothing in it speaks for the result", file=sys.stderr)
            progress.update(written + sounds.unread, "")
    finally:
        progress.close()
    sounds.tell()
    return 0 if written else 1


def write(path: Path, found: Explanation, *, name: str, arguments: argparse.Namespace, model: str) -> None:
    """Write one map, aside and renamed."""
    if arguments.format == "page":
        from vcrast.runs.report.explained import write_explanation

        words = [arguments.model, name, "--method", found.method]
        words += ["--embedding"] if found.label is None else ["--class", found.label]
        write_explanation(
            path, found, name=name, model="; ".join(line.strip("<> ") for line in model.splitlines()),
            command=shlex.join(["vcrast", "explain", *words]),
        )  # fmt: skip
        return
    import numpy as np

    from vcrast.config.atomic import write_atomic

    if arguments.format == "json":
        content: dict[str, Any] = {key: getattr(found, key) for key in ("method", "label", "score")}
        content |= {key: getattr(found, key).tolist() for key in ("times_s", "frequencies_hz", "values")}
        write_atomic(path, json.dumps({"path": name, **content}, ensure_ascii=False))
        return
    score = np.nan if found.score is None else found.score
    with io.BytesIO() as file:
        np.savez_compressed(
            file, values=found.values, times_s=found.times_s, frequencies_hz=found.frequencies_hz,
            spectrogram=found.spectrogram, windows_s=found.windows_s, path=name, method=found.method,
            label=found.label or "", score=score,
        )  # fmt: skip
        write_atomic(path, file.getvalue())
