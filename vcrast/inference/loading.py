"""Rebuild a trained model from its exported folder, on the device asked for."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from vcrast.features.fbank import Fbank
from vcrast.inference.model import Model
from vcrast.models.backbone import build_backbone
from vcrast.models.export import (
    DESCRIPTION,
    STAGES,
    UNFINISHED,
    build_head,
    fill,
    find_export,
    read_description,
    read_weights,
    stages_of,
)
from vcrast.models.kept_epochs import Epochs, among, epoch_number, in_words, last_named
from vcrast.runs.unfinished import recover
from vcrast.training.device import existing_device

log = logging.getLogger(__name__)


def find_model(run: str | Path, *, fold: str | int | None = None, stage: str | None = None) -> Path:
    """The exported folder that `run` means, made first from the last checkpoint of a pretraining that has not ended.

    Arguments and errors as in `load`; how far such a pretraining has come is said as a warning.
    """
    told = recover(Path(run), fold=None if fold is None else str(fold))
    folder = find_export(Path(run), fold=fold, stage=stage)
    for text in told if folder.name == UNFINISHED else ():
        log.warning("%s: %s", run, text)
    return folder


def find_epochs(run: str | Path, *, fold: str | int | None = None, epochs: Epochs | None = None) -> dict[int, Path]:
    """The exported folders of epochs that finetuning has kept, in order.

    Args:
        run: a run folder.
        fold: as in `load`.
        epochs: which ones; None is all, and none where there are none.

    Raises:
        FileNotFoundError: no such folder, or one of them was not kept.
        ValueError: no such fold.
    """
    folder = Path(run)
    name, stages = ("", {}) if (folder / DESCRIPTION).is_file() else stages_of(folder, fold)
    found = {number: path for stage, path in stages.items() if (number := epoch_number(stage)) is not None}
    if epochs is None:
        return found
    if not found:
        raise FileNotFoundError(f"{run}: keeps no epochs; a run does with finetune.keep_epochs=6-25")
    if last_named(epochs) is None:
        return found
    absent = next((number for span in epochs for number in span if number not in found), None)
    if absent is not None:
        raise FileNotFoundError(f"{run}: epoch {absent} of fold {name} was not kept; there are {in_words(found)}")
    return {number: path for number, path in found.items() if among(number, epochs)}


def stage_of(folder: Path) -> dict[str, str]:
    """What a model's `meta` has of its stage, or epoch: the name of its folder, where it lies in a run."""
    return {"stage": folder.name} if folder.name in STAGES or epoch_number(folder.name) is not None else {}


def load(
    run: str | Path, *, fold: str | int | None = None, stage: str | None = None, device: str | torch.device = "cpu"
) -> Model:
    """A trained model, ready to embed and predict.

    Only data is read: no pickle, and no code but this package's and its extensions'.

    Args:
        run: a run folder, or a folder that `vcrast export` wrote.
        fold: which fold's model; None is the first.
        stage: `finetuned`, `pretrained`, `probe` or `unfinished`, None is the first of them that there is; `epoch_6`
            where finetuning has kept its epochs.
        device: where it computes: cpu, cuda, cuda:1, mps.

    Raises:
        FileNotFoundError: no such folder, or nothing exported yet.
        ValueError: no such fold or stage, damaged files, or a device that this machine lacks.
    """
    device = existing_device("device", device)
    folder = find_model(run, fold=fold, stage=stage)
    found = read_description(folder)
    tensors = read_weights(folder, found["weights_sha256"])
    try:
        encoder = build_backbone(found["model"])
        features = Fbank(**found["features"])
        head = None if found["head"] is None else build_head(found["head"], encoder)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        reason = error.args[0] if error.args else error  # text of a KeyError is quoted
        raise ValueError(f"{folder / 'model.json'}: does not describe a model ({reason}); export it again") from None
    if "encoder.mask_token" in tensors:
        encoder.enable_mask_token()
    fill(encoder, tensors, "encoder.", folder)
    if head is not None:
        fill(head, tensors, "head.", folder)
    return Model(
        encoder, features, head, labels=tuple(found["labels"]), multilabel=found["multilabel"],
        clip_duration_s=found["clip_duration_s"], pad=found["pad"], device=device,
        meta={**found["meta"], **stage_of(folder)},
    )  # fmt: skip
