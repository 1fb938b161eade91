"""From `configs/model`, `attention` and `linear` to an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vcrast.config.schema import ModelConfig
from vcrast.models.ast import Encoder


def build_encoder(
    model: ModelConfig,
    *,
    attention: Mapping[str, Any],
    linear: Mapping[str, Any],
    num_mel_bins: int,
    num_frames: int,
    patch_stride: Sequence[int] | None,
    drop_path: float,
    num_channels: int = 1,
) -> Encoder:
    """A randomly initialised encoder; weights are loaded by `vcrast.models.pretrained.load_encoder`.

    Args:
        model: sizes; its `drop_path` and `checkpoint` are the caller's business, since stages differ in them.
        attention: options of the attention backend.
        linear: options of the linear layers.
        num_mel_bins: F of the filterbanks.
        num_frames: T of the clips.
        patch_stride: (frames, mel bins) between patches; None means the patch size.
        drop_path: of the stage.
        num_channels: C of the filterbanks.
    """
    return Encoder(
        embed_dim=model.embed_dim,
        depth=model.depth,
        num_heads=model.num_heads,
        mlp_ratio=model.mlp_ratio,
        patch_size=list(model.patch_size),
        patch_stride=None if patch_stride is None else list(patch_stride),
        positions=model.positions,
        num_mel_bins=num_mel_bins,
        num_frames=num_frames,
        drop_path=drop_path,
        num_channels=num_channels,
        attention=attention,
        linear=linear,
    )
