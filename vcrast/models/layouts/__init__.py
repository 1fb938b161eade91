"""Read checkpoints of other projects and build the encoder that computes what they did."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vcrast.config.words import suggest
from vcrast.models.backbone import Backbone, build_backbone
from vcrast.models.block import NORM_EPS
from vcrast.models.layouts import vit
from vcrast.models.layouts.base import Foreign, Wishes
from vcrast.models.layouts.huggingface import configs_beside, is_huggingface, read_huggingface
from vcrast.models.layouts.mae_ast import FIRST, read_mae_ast
from vcrast.models.layouts.reading import find_file, read_tensors
from vcrast.models.pretrained import fill, load_vit
from vcrast.models.timm_weights import Vit, Weights

log = logging.getLogger(__name__)

KINDS = {
    "ast": "the AST of its authors", "ssast": "SSAST of its authors", "audiomae": "AudioMAE",
    "mae_ast": "MAE-AST (fairseq)", "huggingface": "the AST of transformers", "vit": "a vision transformer of timm",
}  # fmt: skip
BY_TIMM = {"ast": vit.read_ast, "ssast": vit.read_ssast, "audiomae": vit.read_audiomae, "vit": vit.read_vit}
GIVEN = ("num_frames", "num_mel_bins", "patch_stride")
"""Options that the program gives a backbone, not the file of its model."""


def recognise(tensors: Weights, where: str) -> str:
    """The key of `KINDS` whose names tensors have.

    Raises:
        ValueError: none of them, or a model of vcrast.
    """
    if is_huggingface(tensors):
        return "huggingface"
    if FIRST in tensors:
        return "mae_ast"
    if any(".attn.q.weight" in name for name in tensors):
        raise ValueError(
            f"{where}: has vcrast's own names; model.checkpoint takes it as it is, and its folder any verb"
        )
    if any(name.endswith(vit.KERNEL) for name in tensors):
        return vit.recognised(tensors, where)
    shown = ", ".join(list(tensors)[:3])
    raise ValueError(f"{where}: names such as {shown}, which are of none of {', '.join(KINDS)}")


def read_model(path: Path, wishes: Wishes) -> Foreign:
    """A checkpoint of another project.

    Args:
        path: a file, or a folder of Hugging Face's.
        wishes: of the user.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: damaged, a pickle of more than data, or as `read_layout`.
    """
    if wishes.kind is not None and wishes.kind not in KINDS:
        raise ValueError(f"--kind {wishes.kind}: {suggest(wishes.kind, KINDS)}")
    file = find_file(path)
    tensors, around = read_tensors(file)
    configs = configs_beside(file) if is_huggingface(tensors) else ({}, {})
    return read_layout(tensors, wishes, str(path), around=around, configs=configs)


def read_layout(
    tensors: Weights,
    wishes: Wishes,
    where: str,
    *,
    around: Mapping[str, Any] | None = None,
    configs: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> Foreign:
    """The tensors of a checkpoint in our terms.

    Args:
        tensors: by their names.
        wishes: of the user.
        where: beginning of messages.
        around: what else the checkpoint holds.
        configs: `config.json` and `preprocessor_config.json` of Hugging Face.

    Raises:
        ValueError: a layout that is not known, or tensors or sizes that do not go together.
    """
    found = recognise(tensors, where)
    kind = wishes.kind or found
    if kind != found and not {kind, found} <= BY_TIMM.keys():
        raise ValueError(f"{where}: has the names of {KINDS[found]}; leave --kind {kind} out")
    if wishes.patch_size is not None and kind != "mae_ast":
        raise ValueError(f"{where}: its weights tell the size of a patch; leave --patch-size out")
    if kind == "huggingface":
        return read_huggingface(tensors, wishes, where, *configs)
    if kind == "mae_ast":
        return read_mae_ast(tensors, wishes, where, around)
    return BY_TIMM[kind](tensors, wishes, where)


def build(
    foreign: Foreign, *, model: Mapping[str, Any], attention: Mapping[str, Any], linear: Mapping[str, Any], where: str
) -> tuple[Backbone, list[str]]:
    """The encoder of a checkpoint, filled, and what the user must know; logs what was taken over and what not.

    Args:
        foreign: what `read_model` gave.
        model: options of `configs/model`, for what the checkpoint does not decide.
        attention: options of the attention backend.
        linear: options of the linear layers.
        where: beginning of messages.

    Raises:
        ValueError: tensors that are missing, or of shapes that do not go together.
    """
    own = {key: value for key, value in foreign.options.items() if key not in GIVEN}
    given = {key: foreign.options[key] for key in GIVEN}
    with torch.random.fork_rng(devices=[]):  # weights that are overwritten must not move the caller's draws
        encoder = build_backbone(
            {**model, **own, "drop_path": 0.0}, **given, num_channels=1, attention=attention, linear=linear
        )
    if foreign.grid is None:
        notes = fill(encoder, foreign.weights, where, foreign.beside)
    else:
        eps = encoder.options["norm_eps"] if foreign.kind != "vit" else NORM_EPS
        whole = Vit(foreign.weights, encoder.options["num_heads"], foreign.grid, eps)
        notes = load_vit(encoder, foreign.weights, where, whole, beside=foreign.beside)
    if foreign.mask_token is not None:
        encoder.enable_mask_token()
        token = encoder.get_parameter("mask_token")
        if token.shape != foreign.mask_token.shape:
            raise ValueError(
                f"{where}: mask_embed of {len(foreign.mask_token)} numbers, the encoder is {len(token)} wide"
            )
        token.data.copy_(foreign.mask_token)
    return encoder, [*foreign.notes, *notes]
