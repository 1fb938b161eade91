"""Load weights into an encoder: a file of ours, or a timm vision transformer."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vcrast.models.attention import Attention
from vcrast.models.backbone import Backbone
from vcrast.models.pos_embed import LearnedPositions, bilinear_weights

log = logging.getLogger(__name__)

Weights = dict[str, Tensor]

TIMM_NAMES = {"attn.proj.": "attn.out.", "mlp.fc1.": "fc1.", "mlp.fc2.": "fc2."}
TIMM_UNUSED = ("cls_token", "dist_token", "head.", "head_dist.", "fc_norm.", "pre_logits.")


def load_encoder(encoder: Backbone, source: str | Path) -> None:
    """Fill an encoder with trained weights.

    Args:
        encoder: of the same sizes as the weights; stride and clip length may differ.
        source: a `.safetensors` file, exported by us or holding a timm ViT, or `timm:MODEL`, which timm downloads.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a safetensors file, or weights that do not fit the encoder.
    """
    weights = read_timm(str(source).removeprefix("timm:")) if str(source).startswith("timm:") else read_file(source)
    if any(".attn.qkv." in name for name in weights):
        weights = from_timm(weights)
    fill(encoder, weights, source)
    log.info("encoder weights from %s", source)


def read_file(path: str | Path) -> Weights:
    """The encoder's part of a safetensors file; a head or projector beside it is left out."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"model.checkpoint={path}: no such file; give a .safetensors file or timm:MODEL")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"model.checkpoint={path}: not a readable safetensors file ({error})") from error
    own = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    return own or weights


def read_timm(name: str) -> Weights:
    """Pretrained weights of a timm vision transformer."""
    import timm

    if name not in timm.list_models():
        raise ValueError(f"model.checkpoint=timm:{name}: timm {timm.__version__} has no such model")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # no network, no such weights: the download's own errors are of many kinds
        raise ValueError(f"model.checkpoint=timm:{name}: could not get the weights ({error})") from error


def from_timm(weights: Weights, grid: tuple[int, int] | None = None) -> Weights:
    """Translate a timm ViT's weights to ours, the way the AST takes over ImageNet's.

    The image's height becomes frequency and its width time; the kernels of the colours are summed, so that a grey image
    gives what it gave (paper and thesis say averaged; the AST's code sums).

    Args:
        weights: of the ViT.
        grid: (height, width) of its patches; None means square.
    """
    ours: Weights = {}
    for name, value in weights.items():
        if name.startswith(TIMM_UNUSED):
            continue
        if name == "patch_embed.proj.weight":
            ours[name] = value.sum(dim=1, keepdim=True).transpose(2, 3).contiguous()
        elif name == "pos_embed":
            ours["pos_embed.table"] = image_positions(value, grid)
        elif ".attn.qkv." in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                ours[name.replace("qkv", letter)] = part.clone()
        else:
            for theirs, own in TIMM_NAMES.items():
                name = name.replace(theirs, own)
            ours[name] = value
    return ours


def image_positions(table: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
    """(1, prefix + height * width, D) -> (width, height, D), without the vectors of class tokens."""
    num_tokens = table.shape[1]
    height, width = grid or (math.isqrt(num_tokens), math.isqrt(num_tokens))
    return table[0, num_tokens - height * width :].unflatten(0, (height, width)).transpose(0, 1).contiguous()


def fill(encoder: Backbone, weights: Weights, source: str | Path) -> None:
    """Copy weights by name, after fitting learned positions to the encoder's grid.

    What belongs to an attention backend may be missing, superfluous or of another size, so that weights learnt under
    one backend load under another.

    Raises:
        ValueError: other names or shapes that differ.
    """
    own = encoder.state_dict()
    weights = dict(weights)
    if "mask_token" not in own:
        weights.pop("mask_token", None)  # of a pretraining that masked; this stage does not
    elif "mask_token" not in weights:
        weights["mask_token"] = own["mask_token"]
    if "pos_embed.table" in weights:
        table = weights.pop("pos_embed.table")
        if isinstance(getattr(encoder, "pos_embed", None), LearnedPositions):
            weights["pos_embed.table"] = fit_positions(table, own["pos_embed.table"].shape)
    weights = fit_backends(encoder, weights, source)
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is not in the encoder" for name in weights if name not in own]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, the encoder's {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise ValueError(f"{source}: does not fit this encoder: {shown}; choose the model and linear it was made with")
    encoder.load_state_dict(weights)


def fit_backends(encoder: Backbone, weights: Weights, source: str | Path) -> Weights:
    """The weights, with the encoder's own tensors where the file has none for its attention backends; logs which."""
    mixes = tuple(f"{name}.mix." for name, part in encoder.named_modules() if isinstance(part, Attention))
    built = {name: value for name, value in encoder.state_dict().items() if name.startswith(mixes)}
    given = {name: value for name, value in weights.items() if name.startswith(mixes)}
    fitting = {name for name in given if name in built and given[name].shape == built[name].shape}
    for names, what in ((given.keys() - fitting, "left out"), (built.keys() - fitting, "kept as built")):
        if names:
            log.info("%s: another attention backend; %s: %s", source, what, ", ".join(sorted(names)))
    rest = {name: value for name, value in weights.items() if name not in given}
    return {**rest, **built, **{name: given[name] for name in fitting}}


def fit_positions(table: Tensor, shape: torch.Size) -> Tensor:
    """Learned positions (t, f, D) on another grid: the middle of a larger one, a smaller one stretched, as AST's."""
    if table.shape[2] != shape[2] or table.shape == shape:
        return table
    time, frequency = (
        bilinear_weights(torch.arange(new, dtype=torch.float64) + max(0, old // 2 - new // 2), old).to(table)
        for old, new in zip(table.shape[:2], shape[:2], strict=True)
    )
    return torch.einsum("ti,fj,ijd->tfd", time, frequency, table)
