"""Read a timm vision transformer and translate its weights to the AST's names."""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vcrast.config.words import suggest

log = logging.getLogger(__name__)

Weights = dict[str, Tensor]

NAMES = {"attn.proj.": "attn.out.", "mlp.fc1.": "fc1.", "mlp.fc2.": "fc2."}
LAYERS = ("attn.q", "attn.k", "attn.v", "attn.out", "fc1", "fc2")
PREFIX_TOKENS = ("cls_token", "dist_token", "reg_token")
SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")
PLAIN = ("vit_*", "deit*", "flexivit_*")
"""Names of timm under which its plain vision transformers lie."""
UNSUPPORTED = {
    r"^(layers|stages)\.|downsample": "stages of a hierarchical model, such as Swin's",
    r"rope|freqs": "rotary positions (rope)",
    r"relative_position|rel_pos": "relative positions",
    r"\.[qk]_norm\.": "normalised queries and keys (qk_norm)",
    r"^norm_pre\.": "a norm before the blocks (pre_norm)",
    r"\.attn\.norm\.|\.mlp\.norm\.": "norms inside attention or MLP",
    r"\.mlp\.(w\d+|fc1_[gx])\.": "gated MLPs (SwiGLU)",
    r"\.attn\.[qv]_bias$|\.gamma_[12]$": "BEiT's blocks",
    r"^blocks_token_only\.": "class-attention blocks",
    r"^blocks\.\d+\.(attns|ffns|in_proj|\d+)\b": "parallel blocks",
    r"^patch_embed\.(backbone|conv|norm)": "patches from a convolutional stem",
}
"""Patterns of names that tell what the AST does not compute, and what it is called."""


@dataclass(frozen=True)
class ImageGrid:
    """How the vectors of a ViT's position table lie in the image.

    Attributes:
        height: patches from top to bottom.
        width: patches from left to right.
        time_first: the height is time and the width frequency, as in AudioMAE; else the other way round.
    """

    height: int
    width: int
    time_first: bool = False

    def text(self) -> str:
        """Both counts with their axes."""
        axes = ("time", "frequency") if self.time_first else ("frequency", "time")
        return f"{self.height} x {self.width} patches ({axes[0]} x {axes[1]})"


@dataclass(frozen=True)
class Vit:
    """A ViT that timm built: its weights, and what they alone do not tell."""

    weights: Weights
    num_heads: int
    grid: ImageGrid
    eps: float


def is_vit(weights: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names of a timm vision transformer."""
    return any(".attn.qkv." in name for name in weights)


def read_timm(name: str, where: str, *, num_mel_bins: int | None = None, file: Path | None = None) -> Vit:
    """Get a pretrained vision transformer from timm, which downloads it or takes it from its cache.

    Args:
        name: as timm's: `vit_tiny_patch16_224`, with a tag of its weights, or `hf-hub:ORG/NAME`.
        where: beginning of messages.
        num_mel_bins: F of the encoder, which tells the frequency axis of a model that was made for spectrograms.
        file: its weights; no network is asked then.

    Raises:
        ValueError: no such model, weights that cannot be had, or a model that the AST cannot stand for.
    """
    import timm

    check_name(name, where, weights=file is None)
    if not name.startswith(SOURCES):
        with torch.device("meta"):  # what cannot be loaded is refused before it is downloaded
            check_vit(timm.create_model(name, num_classes=0), where)
    vit = create(name, where, pretrained=file is None)
    if file is not None:
        fill_vit(vit, file, where)
    check_vit(vit, where)
    block = vit.blocks[0]
    height, width = vit.patch_embed.img_size
    time_first = height != width and height != num_mel_bins and (width == num_mel_bins or height > width)
    rows, columns = vit.patch_embed.grid_size
    grid = ImageGrid(rows, columns, time_first)
    return Vit(vit.state_dict(), block.attn.num_heads, grid, block.norm1.eps)


def create(name: str, where: str, *, pretrained: bool, **options: Any) -> Any:
    """A model of timm's without a classifier.

    Raises:
        ValueError: weights that cannot be had.
    """
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except Exception as error:  # no network, no such weights: the download's own errors are of many kinds
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        reason = first.partition(". ")[0]
        raise ValueError(
            f"{where}: could not get the weights ({reason}); without a network, fetch them elsewhere and copy the "
            "cache (HF_HOME)"
        ) from error


def fill_vit(vit: Any, file: Path, where: str) -> None:
    """Fill a vision transformer of timm's from a file; errors as in `fill_model`."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    fill_model(vit, file, where, partial(checkpoint_filter_fn, adapt_layer_scale=True))


def fill_model(vit: Any, file: Path, where: str, translate: Callable[[Weights, Any], Weights]) -> None:
    """Fill a model of timm's from a file, read as timm reads its own: .safetensors, .pth and the like.

    Of a pickle only data is read.

    Args:
        vit: the model.
        file: of its weights.
        where: beginning of messages.
        translate: timm's function that makes the model's names and shapes of the file's tensors.

    Raises:
        ValueError: not such a file, or one of another model.
    """
    from timm.models import load_state_dict

    try:
        tensors = translate(load_state_dict(str(file)), vit)
        missing = vit.load_state_dict(tensors, strict=False).missing_keys
    except Exception as error:  # damaged, a pickle of more than data, other shapes: errors are of many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "size mismatch" in line), lines[0] if lines else type(error).__name__)
        raise ValueError(f"{where}: not weights of this model ({reason.partition('. ')[0]})") from None
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{where}: not weights of this model (no {missing[0]}{more}); name the model that they are of")


def check_name(name: str, where: str, *, weights: bool = True) -> None:
    """Refuse a name that timm does not have, or has no weights for; what lies on a hub is not asked for.

    Args:
        name: as in `read_timm`.
        where: beginning of messages.
        weights: whether timm has to have weights of it.

    Raises:
        ValueError: names those that are close.
    """
    import timm

    if name.startswith(SOURCES):
        if not name.partition(":")[2]:
            raise ValueError(f"{where}: name a model after the colon, as hf-hub:ORG/NAME")
        return
    base, _, tag = name.partition(".")
    tagged = timm.list_pretrained([f"{base}.*", base])
    if not timm.is_model(base):
        known = timm.list_models(list(PLAIN))
        near = difflib.get_close_matches(base, known, n=5, cutoff=0.5)
        hint = suggest(base, near) if near else "see timm.list_models('vit_*')"
        raise ValueError(f"{where}: timm {timm.__version__} has no such model; {hint}")
    if tag and name not in tagged:
        hint = suggest(name, tagged) if tagged else "it has none"
        raise ValueError(f"{where}: timm {timm.__version__} has no weights {tag} of {base}; {hint}")
    if weights and not tag and not tagged and base in timm.list_models():
        near = difflib.get_close_matches(base, timm.list_pretrained(list(PLAIN)), n=3, cutoff=0.5)
        hint = f"; {suggest(base, near)}" if near else ""
        raise ValueError(f"{where}: timm {timm.__version__} has this model, but no trained weights for it{hint}")


def check_vit(vit: nn.Module, where: str) -> None:
    """Refuse a model that computes something other than the AST's blocks.

    Raises:
        ValueError: says what.
    """
    from timm.layers import PatchEmbed
    from timm.models.vision_transformer import Block, VisionTransformer

    if not isinstance(vit, VisionTransformer):
        raise ValueError(f"{where}: is a {type(vit).__name__}, not a plain vision transformer; choose a vit_ or deit_")
    refuse_unsupported(vit.state_dict(), where)
    block: Any = vit.blocks[0]
    if type(block) is not Block:
        raise ValueError(f"{where}: has {type(block).__name__}s, which this encoder does not compute; choose another")
    if type(vit.patch_embed) is not PatchEmbed:
        raise ValueError(f"{where}: makes patches by {type(vit.patch_embed).__name__}, not by one linear map")
    act = getattr(block.mlp, "act", None)
    if not isinstance(act, nn.GELU) or act.approximate != "none":
        raise ValueError(f"{where}: its MLPs use {type(act).__name__}, this encoder's use GELU; choose another")


def refuse_unsupported(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors of parts that the AST does not have.

    Raises:
        ValueError: says which parts.
    """
    found = [words for pattern, words in UNSUPPORTED.items() if any(re.search(pattern, name) for name in weights)]
    first, second = (weights.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if first is not None and second is not None and first.shape[0] != second.shape[1]:
        found.append("gated MLPs (SwiGLU)")
    if found:
        swin = "" if "relative positions" not in found else ", or for a Swin's model=htsat and timm:NAME@FILE"
        raise ValueError(
            f"{where}: has {', '.join(found)}, which this encoder does not compute; choose a plain ViT{swin}"
        )


def from_timm(weights: Weights, grid: ImageGrid | None = None, *, kernels: str | None = None) -> Weights:
    """Translate a timm ViT's weights to ours, the way the AST takes over ImageNet's.

    The image's height becomes frequency and its width time, unless the grid says otherwise; the kernels of the colours
    are summed, so that a grey image gives what it gave (paper and thesis say averaged; the AST's code sums) or, if
    asked for, averaged, which is a third of that. Layer
    scales are multiplied into the layer before, biases that the ViT does without become 0: both change no output. A
    norm that the ViT has behind its mean (`fc_norm`) becomes the norm before ours.

    Args:
        weights: of the ViT.
        grid: of its positions; None leaves them as they are, for an encoder that has no use for them.
        kernels: `sum`, which None means, or `mean`.

    Returns:
        The encoder's tensors, and under their own names those that no encoder has, such as the head.
    """
    ours: Weights = {}
    for name, value in weights.items():
        if name == "patch_embed.proj.weight":
            kernel = value.mean(dim=1, keepdim=True) if kernels == "mean" else value.sum(dim=1, keepdim=True)
            ours[name] = (kernel if grid and grid.time_first else kernel.transpose(2, 3)).contiguous()
        elif name == "pos_embed" and grid is not None:
            ours["pos_embed.table"] = image_positions(value, grid)
        elif ".attn.qkv." in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                ours[name.replace("qkv", letter)] = part.clone()
        elif not name.startswith("mask_token"):  # MAE's belongs to its decoder
            for theirs, own in NAMES.items():
                name = name.replace(theirs, own)
            ours[name] = value
    if "norm.weight" not in ours and "fc_norm.weight" in ours:
        ours |= {f"norm.{end}": ours.pop(f"fc_norm.{end}") for end in ("weight", "bias")}
    return fold_layer_scale(add_biases(ours))


def move_class_tokens(weights: Weights, ours: Weights, count: int, grid: ImageGrid | None, where: str) -> None:
    """Put the ViT's class token, and its distillation token, each plus its position, among the encoder's tensors.

    Args:
        weights: of the ViT.
        ours: what `from_timm` made of them; changed.
        count: K of the encoder.
        grid: of the positions; None takes them for one of each token and each patch, as timm makes them.
        where: beginning of messages.

    Raises:
        ValueError: the ViT has fewer than K.
    """
    there = [name for name in ("cls_token", "dist_token") if name in weights]
    if len(there) < count:
        raise ValueError(f"{where}: has {len(there)} class tokens, here {count}; set model.class_tokens={len(there)}")
    tokens = torch.cat([ours.pop(name)[0] for name in there[:count]])
    if "pos_embed" in weights:
        table = weights["pos_embed"][0]
        has_prefix = grid is None or len(table) > grid.height * grid.width
        tokens = tokens + table[:count] if has_prefix else tokens
    ours["class_token"] = tokens


def add_biases(weights: Weights) -> Weights:
    """The weights, with a bias of 0 for each linear layer of a block that has none."""
    layers = tuple(f"{layer}.weight" for layer in LAYERS)
    zeros = {
        name.removesuffix("weight") + "bias": value.new_zeros(len(value))
        for name, value in weights.items()
        if name.startswith("blocks.") and name.endswith(layers)
    }
    return {**zeros, **weights}


def fold_layer_scale(weights: Weights) -> Weights:
    """The weights, with each `ls1.gamma` and `ls2.gamma` multiplied into the layer that it scales."""
    folded = dict(weights)
    for name in weights:
        for scale, layer in (("ls1.gamma", "attn.out"), ("ls2.gamma", "fc2")):
            if name.startswith("blocks.") and name.endswith(scale):
                gamma, block = folded.pop(name), name.removesuffix(scale)
                folded[f"{block}{layer}.weight"] = folded[f"{block}{layer}.weight"] * gamma[:, None]
                folded[f"{block}{layer}.bias"] = folded[f"{block}{layer}.bias"] * gamma
    return folded


def said_of(weights: Mapping[str, Tensor], eps: float, own: float) -> list[str]:
    """What of a ViT, whose norms add `eps` where this encoder's add `own`, is not taken over as it was."""
    notes = []
    if "fc_norm.weight" in weights and "norm.weight" not in weights:
        notes.append("its norm came after the mean over the patches (fc_norm), here it comes before")
    if eps != own:
        notes.append(f"its norms add {eps:g} to the variance, this encoder's {own:g}")
    return notes


def image_positions(table: Tensor, grid: ImageGrid) -> Tensor:
    """(1, prefix + height * width, D) -> (t, f, D), without the vectors of class tokens."""
    num_patches = grid.height * grid.width
    image = table[0, table.shape[1] - num_patches :].unflatten(0, (grid.height, grid.width))
    return (image if grid.time_first else image.transpose(0, 1)).contiguous()


def find_grid(weights: Mapping[str, Tensor], own: tuple[int, int], where: str) -> tuple[ImageGrid, str]:
    """The grid of a ViT's positions, of which a file tells only the number.

    In this order: the encoder's own grid, a square, rows of the encoder's height. The table may or may not have vectors
    for class and register tokens.

    Args:
        weights: of the ViT, `pos_embed` (1, L, D) among them.
        own: (t, f) of the encoder's positions.
        where: beginning of messages.

    Returns:
        The grid, and a warning where it could be another one, else "".

    Raises:
        ValueError: none of these fits.
    """
    length = weights["pos_embed"].shape[1]
    num_prefix = sum(weights[name].shape[1] for name in PREFIX_TOKENS if name in weights)
    counts = [length - num_prefix, length] if num_prefix else [length]
    time, frequency = own
    for count in counts:
        if count == time * frequency:
            square = math.isqrt(count) ** 2 == count and time != frequency
            doubt = f", but could be a square of {math.isqrt(count)}; load an image model by name" if square else ""
            return ImageGrid(frequency, time), doubt and f"its {count} positions are read as this run's grid{doubt}"
    for count in counts:
        if count > 0 and math.isqrt(count) ** 2 == count:
            return ImageGrid(math.isqrt(count), math.isqrt(count)), ""
    for count in counts:
        if count > 0 and count % frequency == 0:
            return ImageGrid(frequency, count // frequency), (
                f"its {count} positions fit neither this run's grid of {frequency} x {time} patches nor a square and "
                f"are taken for {frequency} x {count // frequency} (frequency x time); load the model by name if not"
            )
    raise ValueError(
        f"{where}: {counts[0]} positions, which fit neither this run's {frequency} x {time} patches (frequency x "
        "time), nor a square, nor rows of that height; load the model by name (timm:NAME), which tells its grid"
    )
