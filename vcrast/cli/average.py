"""`vcrast average`: the mean of the weights of several models, as one model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "average",
        help="the mean of the weights of several models",
        description="Average the weights of models of one architecture, front end, classes and fold, such as the "
        "epochs that finetune.keep_epochs keeps (the AST: epochs 6-25 of the balanced AudioSet, 1-5 of all of it). "
        "DIR is an exported model, which every other verb, vcrast.load and model.checkpoint take. Models that were "
        "not trained from one start have no useful mean: `vcrast evaluate` scores them together.",
    )
    parser.add_argument("models", nargs="+", metavar="RUN", help="run folders or exported models")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; created if missing")
    parser.add_argument("--epochs", metavar="N-M", help="of each run these kept epochs: 6-25, 1,3,5, or all")
    parser.add_argument("--fold", help="which fold's models; the first if left out")
    parser.add_argument("--stage", help="finetuned, pretrained, probe or epoch_N; the first of them if left out")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the mean, and print what was written.

    Raises:
        FileNotFoundError: no such model, or an epoch that was not kept.
        ValueError: options that exclude each other, a folder that must not be written, or models that do not go
            together.
    """
    from vcrast.cli.export import refuse_harm
    from vcrast.models.averaging import average
    from vcrast.models.export import DESCRIPTION, WEIGHTS, read_description, write_export

    folders = chosen(arguments)
    digests = [read_description(folder)["weights_sha256"] for folder in folders]
    refuse_harm(arguments.out, folders, same=lambda there: members_of(there) == digests)
    tensors, description, notes = average(folders)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    write_export(arguments.out, tensors, description)
    print("\n".join([f"mean of {len(folders)} models:", *(f"  {folder}" for folder in folders)]))
    for name in (WEIGHTS, DESCRIPTION):
        print(arguments.out / name)
    return 0


def chosen(arguments: argparse.Namespace) -> list[Path]:
    """The exported models that the words mean.

    Raises:
        FileNotFoundError: no such model, or an epoch that was not kept.
        ValueError: `--epochs` beside `--stage`, or fewer than two models.
    """
    from vcrast.inference.loading import find_epochs, find_model
    from vcrast.models.kept_epochs import in_words, parse_epochs

    fold, stage = arguments.fold, arguments.stage
    if arguments.epochs is None:
        folders = [find_model(word, fold=fold, stage=stage) for word in arguments.models]
        if len(folders) == 1:
            kept = in_words(find_epochs(arguments.models[0], fold=fold))
            hint = (
                f"--epochs {kept} takes those that it keeps" if kept else "a run keeps epochs by finetune.keep_epochs"
            )
            raise ValueError(f"{arguments.models[0]}: a mean needs two models or more; {hint}")
        return folders
    if stage is not None:
        raise ValueError(f"--stage {stage} --epochs {arguments.epochs}: choose one; epochs are of finetuning")
    epochs = parse_epochs(arguments.epochs, f"--epochs {arguments.epochs}")
    return [folder for word in arguments.models for folder in find_epochs(word, fold=fold, epochs=epochs).values()]


def members_of(description: Any) -> list[str] | None:
    """The hashes of the models that a mean was made of; None for another model."""
    members = description["meta"].get("averaged")
    return None if members is None else [member["weights_sha256"] for member in members]
