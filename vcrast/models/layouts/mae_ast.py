"""Read MAE-AST's checkpoints: fairseq's names, norms behind the branches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vcrast.models.layouts.base import KNOWN, NUM_MEL_BINS, Foreign, Pair, Wishes, check_shapes, heads_of
from vcrast.models.timm_weights import Weights

FIRST = "encoder.layers.0.self_attn.k_proj.weight"
PATCHES = "post_extract_proj"
EPS = 1e-5  # PyTorch's default, which fairseq leaves
NAMES = {
    "self_attn.q_proj.": "attn.q.", "self_attn.k_proj.": "attn.k.", "self_attn.v_proj.": "attn.v.",
    "self_attn.out_proj.": "attn.out.", "self_attn_layer_norm.": "norm1.", "final_layer_norm.": "norm2.",
    "fc1.": "fc1.", "fc2.": "fc2.",
}  # fmt: skip


def read_mae_ast(tensors: Weights, wishes: Wishes, where: str, around: Mapping[str, Any] | None = None) -> Foreign:
    """MAE-AST's encoder: post-norm blocks, fixed 1-D sinusoids over the tokens, input standardised by a BatchNorm.

    The sinusoids are carried as learned positions of a clip of `num_frames`; the statistics of the BatchNorm, halved
    as it does, are the pair of mean and std. Decoder and pretext heads are left out.

    Args:
        tensors: by fairseq's names.
        wishes: of the user.
        where: beginning of messages.
        around: what the checkpoint has beside them: the settings of its training, if any.

    Raises:
        ValueError: lacks a part, or has one that the AST does not compute.
    """
    setup = settings(around or {})
    if setup.get("layer_norm_first"):
        raise ValueError(f"{where}: trained with layer_norm_first, which MAE-AST was not; this layout is not known")
    if f"{PATCHES}.weight" not in tensors or "encoder.layer_norm.weight" not in tensors:
        lacking = [name for name in (f"{PATCHES}.weight", "encoder.layer_norm.weight") if name not in tensors]
        raise ValueError(f"{where}: fairseq's names, but no {' and no '.join(lacking)}; not MAE-AST's layout")
    kernel = tensors[f"{PATCHES}.weight"]
    if "layer_norm.weight" in tensors:
        raise ValueError(f"{where}: norms each patch before it is embedded (layer_norm), which an AST does not")
    size = patch_size(kernel, wishes, setup, where)
    num_frames, num_mel_bins = wishes.num_frames or next(iter(KNOWN)), wishes.num_mel_bins or NUM_MEL_BINS
    grid, width = (num_frames // size[0], num_mel_bins // size[1]), kernel.shape[0]
    weights = {
        "patch_embed.proj.weight": kernel.reshape(width, 1, *size),
        "patch_embed.proj.bias": tensors.get(f"{PATCHES}.bias", kernel.new_zeros(width)),
        "pos_embed.table": sinusoids(grid[0] * grid[1], width).reshape(*grid, width),
        **renamed(tensors, where),
    }
    check_shapes(weights, ["blocks.0.fc1.weight"], where)
    options = {
        "name": "ast", "embed_dim": width, "num_heads": heads_of(width, wishes, where),
        "depth": len({name.split(".")[1] for name in weights if name.startswith("blocks.")}),
        "mlp_ratio": len(weights["blocks.0.fc1.weight"]) / width, "patch_size": list(size),
        "positions": "learned", "positions_stride": list(size), "patch_stride": list(size), "class_tokens": 0,
        "pool": "mean", "readout": "pool", "norms": "post", "norm_eps": EPS, "num_frames": num_frames,
        "num_mel_bins": num_mel_bins,
    }  # fmt: skip
    taken = (f"{PATCHES}.", "encoder.", "batch_norm.")
    front, notes = statistics(tensors)
    return Foreign(
        "mae_ast", options, weights, None, front={"window": "povey", **front}, notes=notes, zero_filled=False,
        beside={name: value for name, value in tensors.items() if not name.startswith(taken)},
    )  # fmt: skip


def renamed(tensors: Weights, where: str) -> Weights:
    """The encoder's blocks and first norm by our names.

    Raises:
        ValueError: a part of a block that an AST does not have.
    """
    own = {}
    for name, value in tensors.items():
        if not name.startswith("encoder."):
            continue
        inside = name.removeprefix("encoder.")
        number, _, layer = inside.removeprefix("layers.").partition(".")
        found = next((ours + layer[len(theirs) :] for theirs, ours in NAMES.items() if layer.startswith(theirs)), None)
        if inside.startswith("layer_norm."):
            own[f"embed_norm.{inside.removeprefix('layer_norm.')}"] = value
        elif found is not None and inside.startswith("layers."):
            own[f"blocks.{number}.{found}"] = value
        else:
            raise ValueError(f"{where}: {name} is a part that an AST does not have; not MAE-AST's layout")
    return own


def settings(around: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's settings among what fairseq saves along, {} where they are not plain."""
    found = around.get("cfg")
    inside = found.get("model") if isinstance(found, Mapping) else None
    return inside if isinstance(inside, Mapping) else {}


def patch_size(kernel: Tensor, wishes: Wishes, setup: Mapping[str, Any], where: str) -> Pair:
    """(frames, mel bins) of a patch, of which the weights tell only the product: 256 of either model.

    Raises:
        ValueError: another product than that of the size.
    """
    told = setup.get("ast_kernel_size_time"), setup.get("ast_kernel_size_chan")
    size = wishes.patch_size or ((int(told[0]), int(told[1])) if told[0] and told[1] else (16, 16))
    if kernel.ndim != 2 or not kernel.numel() or kernel.shape[1] != size[0] * size[1]:
        raise ValueError(
            f"{where}: {PATCHES} {tuple(kernel.shape)} is not of patches of {list(size)}; say --patch-size"
        )
    return size


def statistics(tensors: Weights) -> tuple[dict[str, float], list[str]]:
    """Mean and std that standardise as the input's BatchNorm does, and notes."""
    mean, variance = tensors.get("batch_norm.running_mean"), tensors.get("batch_norm.running_var")
    if mean is None or variance is None or mean.numel() != 1 or variance.numel() != 1:
        return {}, ["has no mean and variance of its input (batch_norm); say --mean and --std of its data"]
    return {"mean": float(mean), "std": (float(variance) + EPS) ** 0.5}, []


def sinusoids(length: int, dim: int) -> Tensor:
    """(length, dim) of sines in the even columns and cosines in the odd ones.

    Source: Vaswani et al. 2017, arXiv:1706.03762, Sec. 3.5.
    """
    rates = 10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()
