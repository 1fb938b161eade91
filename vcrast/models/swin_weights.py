"""Read a timm Swin transformer for HTS-AT: its sizes checked, its windows fitted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vcrast.models.timm_weights import SOURCES, check_name, create, fill_model


def read_swin(
    name: str, file: Path | None, where: str, *, image: tuple[int, ...], options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Weights of a Swin transformer on another image, tables of relative positions interpolated to its windows.

    Args:
        name: as timm's.
        file: its weights; None: timm downloads them or takes them from its cache.
        where: beginning of messages.
        image: pixels from top to bottom and from left to right.
        options: of the encoder.

    Raises:
        ValueError: no such model, one that is no Swin or of other sizes, or weights that cannot be had.
    """
    import timm
    from timm.models.swin_transformer import checkpoint_filter_fn

    check_name(name, where, weights=file is None)
    if not name.startswith(SOURCES):
        with torch.device("meta"):  # what cannot be loaded is refused before it is downloaded
            check_swin(timm.create_model(name, num_classes=0), where, options)
    window = options["window_size"]
    swin = create(name, where, pretrained=file is None, img_size=image, window_size=window)
    if file is not None:
        fill_model(swin, file, where, checkpoint_filter_fn)
    check_swin(swin, where, options)
    found: dict[str, Tensor] = swin.state_dict()
    return found


def check_swin(model: Any, where: str, options: Mapping[str, Any]) -> None:
    """Refuse a model that is no Swin, or of other sizes than the encoder.

    Raises:
        ValueError: says which settings fit it.
    """
    from timm.models.swin_transformer import SwinTransformer

    if type(model) is not SwinTransformer:
        raise ValueError(f"{where}: is a {type(model).__name__}, and model=htsat a Swin transformer; choose a swin_")
    swin: Any = model
    blocks = [stage.blocks for stage in swin.layers]
    theirs = {
        "embed_dim": swin.embed_dim,
        "depths": [len(stage) for stage in blocks],
        "num_heads": [stage[0].attn.num_heads for stage in blocks],
        "mlp_ratio": blocks[0][0].mlp.fc1.out_features / swin.embed_dim,
        "patch_size": [*reversed(swin.patch_embed.patch_size)],
    }
    settings = [
        f"model.{key}={str(value).replace(' ', '')}"
        for key, value in theirs.items()
        if value != (options[key] if isinstance(options[key], int | float) else list(options[key]))
    ]
    if settings:
        raise ValueError(f"{where}: is of other sizes than this run's encoder; set {' '.join(settings)}")


def join_colours(weights: Mapping[str, Tensor], how: str) -> dict[str, Tensor]:
    """The weights, with the kernels of the colours joined to one: their `sum` or `mean`."""
    name = "patch_embed.proj.weight"
    kernel = weights[name]
    joined = kernel.mean(dim=1, keepdim=True) if how == "mean" else kernel.sum(dim=1, keepdim=True)
    return {**weights, name: joined}


def fit_windows(table: Tensor, window: tuple[int, int]) -> Tensor:
    """Biases of relative positions for windows of another size: a distance in tokens keeps its bias.

    Smaller windows have no use for the largest distances, in larger ones those have the bias of the largest known.

    Args:
        table: (places, heads), of windows that differ from `window` in their width alone, or of square ones; others are
            returned as they are.
        window: tokens from top to bottom and from left to right.
    """
    rows, side, count = 2 * window[0] - 1, math.isqrt(len(table)), len(table)
    old_rows = side if side * side == count else rows
    if count == rows * (2 * window[1] - 1) or count % old_rows or count % 2 == 0:
        return table
    old = (old_rows, count // old_rows)
    found = table.unflatten(0, old)
    for axis, (before, size) in enumerate(zip(old, window, strict=True)):
        distances = torch.arange(1 - size, size, device=table.device).clamp(-(before // 2), before // 2)
        found = found.index_select(axis, distances + before // 2)
    return found.flatten(0, 1)
