"""Read checkpoints with timm's names: AST's, SSAST's, AudioMAE's, vision transformers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from vcrast.models.block import NORM_EPS
from vcrast.models.layouts.base import (
    KERNEL,
    KNOWN,
    NUM_MEL_BINS,
    Foreign,
    Pair,
    Wishes,
    check_shapes,
    find_patches,
    heads_of,
    make_head,
    part,
)
from vcrast.models.timm_weights import ImageGrid, Weights, refuse_unsupported

ENCODER = re.compile(
    r"(cls_token|dist_token|reg_token|pos_embed$|patch_embed\.|blocks\.|norm\.|norm_pre\.|rope|layers\.)"
)
HEAD_EPS = 1e-5
"""Of the norm in the AST's and SSAST's classifiers, PyTorch's default."""
AS_PRETRAINED = ("cpredlayer", "gpredlayer", "p_input_fdim")
"""What SSAST's file has after pretraining, and no AST's."""


def split(tensors: Weights, where: str) -> tuple[Weights, Weights, bool]:
    """The encoder's tensors, those beside it, each without prefixes, and whether the encoder lay under `v`.

    Raises:
        ValueError: no encoder, or several.
    """
    prefixes = [name.removesuffix(KERNEL) for name in tensors if name == KERNEL or name.endswith(f".{KERNEL}")]
    if len(prefixes) != 1:
        found = f"several encoders ({', '.join(prefixes)})" if prefixes else "no patch_embed.proj.weight"
        raise ValueError(f"{where}: has {found}; give the checkpoint of one model")
    prefix = prefixes[0]
    in_v = prefix == "v." or prefix.endswith(".v.")
    outer = prefix.removesuffix("v.") if in_v else prefix
    own = {name: value for name, value in part(tensors, prefix).items() if ENCODER.match(name)}
    kept = {prefix + name for name in own}
    rest = {name.removeprefix(prefix).removeprefix(outer): value for name, value in tensors.items() if name not in kept}
    check_shapes(own, ["pos_embed", "blocks.0.mlp.fc1.weight"], where)
    refuse_unsupported(own, where)
    return own, rest, in_v


def recognised(tensors: Weights, where: str) -> str:
    """Which of the layouts of this file tensors have; errors as in `split`."""
    own, rest, in_v = split(tensors, where)
    channels, height = own[KERNEL].shape[1:3]
    if in_v:
        pretrained = "mask_embed" in rest or any(name.startswith(AS_PRETRAINED) for name in rest)
        return "ssast" if pretrained or height >= 64 else "ast"
    decoder = any(name.startswith("decoder_") for name in rest)
    return "audiomae" if channels == 1 and (decoder or "fc_norm.weight" in rest or "head.weight" in rest) else "vit"


def sizes(own: Weights, size: Pair, wishes: Wishes, where: str) -> dict[str, Any]:
    """Options of the AST that the shapes tell."""
    width = own[KERNEL].shape[0]
    blocks = {match[1] for name in own if (match := re.match(r"blocks\.(\d+)\.", name))}
    hidden = own["blocks.0.mlp.fc1.weight"]
    return {
        "name": "ast", "embed_dim": width, "depth": len(blocks), "num_heads": heads_of(width, wishes, where),
        "mlp_ratio": hidden.shape[0] / width, "patch_size": list(size), "positions": "learned",
        "class_tokens": sum(name in own for name in ("cls_token", "dist_token")), "norms": "pre", "norm_eps": NORM_EPS,
        "readout": "pool",
    }  # fmt: skip


def num_patches(own: Weights) -> int:
    """N of the positions, class tokens aside."""
    return own["pos_embed"].shape[1] - sum(own[name].shape[1] for name in ("cls_token", "dist_token") if name in own)


def read_ast(tensors: Weights, wishes: Wishes, where: str, kind: str = "ast") -> Foreign:
    """The AST's `.pth`, or SSAST's: `module.v.` over timm's names, kernels and positions frequency-major.

    Raises:
        ValueError: sizes that do not go together, or positions whose grid is not told.
    """
    own, rest, _ = split(tensors, where)
    size = own[KERNEL].shape[3], own[KERNEL].shape[2]
    inputs = {name: rest.get(f"p_input_{name}") for name in ("fdim", "tdim")}
    told = {name: int(value) for name, value in inputs.items() if value is not None and value.numel() == 1}
    frames = [told["tdim"]] if "tdim" in told else list(KNOWN)
    known = replace(wishes, num_mel_bins=wishes.num_mel_bins or told.get("fdim"))
    patches = find_patches(num_patches(own), size, known, where, frames=frames)
    options = {
        **sizes(own, size, wishes, where), "pool": "class" if kind == "ast" else "mean",
        "positions_stride": list(patches.stride), "patch_stride": list(patches.stride),
        "num_frames": patches.num_frames, "num_mel_bins": patches.num_mel_bins,
    }  # fmt: skip
    if kind == "ast" and not options["class_tokens"]:
        raise ValueError(f"{where}: has no class token, which an AST has; say --kind ssast or --kind audiomae")
    norm, last = part(rest, "mlp_head.0."), part(rest, "mlp_head.1.")
    has_head = {"weight", "bias"} == set(norm) and "weight" in last
    mask = rest.get("mask_embed")
    used = ("mlp_head.",) if has_head else ()
    notes = []
    if kind == "ast" and has_head:
        notes = ["read as an AST, whose vector is the mean of its class tokens; if SSAST finetuned it: --kind ssast"]
    return Foreign(
        kind, options, own, ImageGrid(patches.grid[1], patches.grid[0]),
        head=make_head([(norm, HEAD_EPS), (last, None)], own[KERNEL].shape[0], where) if has_head else None,
        mask_token=None if mask is None else mask.flatten(),
        beside={name: value for name, value in rest.items() if not name.startswith((*used, "mask_embed", "p_"))},
        notes=notes,
    )  # fmt: skip


def read_ssast(tensors: Weights, wishes: Wishes, where: str) -> Foreign:
    """SSAST's `.pth`, pretrained or finetuned: a clip's vector is the mean of its patches; errors as in `read_ast`."""
    return read_ast(tensors, wishes, where, "ssast")


def read_audiomae(tensors: Weights, wishes: Wishes, where: str) -> Foreign:
    """AudioMAE's: timm's names, time-major; finetuned the norm comes behind the mean of the patches (`fc_norm`).

    Its fixed positions, class token's included, are carried as learned ones; the decoder is left out. Errors as in
    `read_ast`.
    """
    own, rest, _ = split(tensors, where)
    size = own[KERNEL].shape[2], own[KERNEL].shape[3]
    patches = find_patches(num_patches(own), size, wishes, where)
    options = {
        **sizes(own, size, wishes, where), "positions_stride": list(patches.stride),
        "patch_stride": list(patches.stride), "num_frames": patches.num_frames, "num_mel_bins": patches.num_mel_bins,
    }  # fmt: skip
    norm, last = part(rest, "fc_norm."), part(rest, "head.")
    layers = [(norm, NORM_EPS), (last, None)] if norm and last else [(last, None)] if last else []
    options |= {"pool": "mean", "norms": "pre" if "norm.weight" in own else "open"}
    if layers and not norm and "cls_token" in own:
        options["pool"] = "class"
    used = ("fc_norm.", "head.") if norm and last else ("head.",)
    return Foreign(
        "audiomae", options, own, ImageGrid(*patches.grid, time_first=True),
        head=make_head(layers, own[KERNEL].shape[0], where) if layers else None,
        beside={name: value for name, value in rest.items() if not layers or not name.startswith(used)},
    )  # fmt: skip


def read_vit(tensors: Weights, wishes: Wishes, where: str) -> Foreign:
    """A vision transformer of timm, taken over as the AST does it: kernels summed, positions cut or stretched.

    Raises:
        ValueError: positions that are no square of patches, or parts that the AST does not have.
    """
    own, rest, _ = split(tensors, where)
    size = own[KERNEL].shape[3], own[KERNEL].shape[2]
    options = {
        **sizes(own, size, wishes, where), "num_frames": wishes.num_frames or 1024,
        "num_mel_bins": wishes.num_mel_bins or NUM_MEL_BINS,
    }  # fmt: skip
    stride = list(wishes.patch_stride or size)
    options |= {
        "positions_stride": stride,
        "patch_stride": stride,
        "pool": "class" if options["class_tokens"] else "mean",
    }
    registers = own["reg_token"].shape[1] if "reg_token" in own else 0
    count = next((n for n in (num_patches(own) - registers, num_patches(own)) if n > 0 and round(n**0.5) ** 2 == n), 0)
    if not count:
        raise ValueError(
            f"{where}: {num_patches(own)} positions are no square of patches; "
            "use model.checkpoint=timm:NAME@FILE, by which timm tells its grid"
        )
    side = round(count**0.5)
    weights = {**own, **{name: value for name, value in rest.items() if name.startswith("fc_norm.")}}
    beside = {name: value for name, value in rest.items() if name not in weights}
    notes = ["an image model: its vectors mean nothing for sounds until it is finetuned"]
    return Foreign("vit", options, weights, ImageGrid(side, side), beside=beside, notes=notes, zero_filled=False)
