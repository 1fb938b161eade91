"""MODELS: the contract of what encodes a filterbank, and the tokens it hands on."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vcrast.config.registry import MODELS


class Tokens(NamedTuple):
    """What a backbone makes of B clips.

    Attributes:
        values: (B, N, D) after the final norm; time-major where they lie on a grid.
        grid: (t, f) patches along time and frequency of the whole clip, before any were dropped.
        keep: (B, N) int64 places of `values` in the grid, ascending; None: all t * f of them.
        hidden: (B, N, D) each: the embedded patches, then the output of every layer; empty unless asked for.
        class_tokens: (B, K, D) tokens that stand for no patch, after the final norm; None where there are none.
    """

    values: Tensor
    grid: tuple[int, int]
    keep: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()
    class_tokens: Tensor | None = None


class Backbone(nn.Module, ABC):
    """An encoder of filterbanks; registered in MODELS, its options are its keywords.

    Builders are given `num_mel_bins` (F), `num_frames` (T), `num_channels`, `patch_stride` (None: the model's own),
    `drop_path` (by finetuning only: give it a default), and the options of `attention` and `linear`, which a model
    without them ignores. Another argument that cannot take effect is refused with a ValueError. The YAML must have
    `checkpoint: null`.

    Attributes:
        embed_dim: D.
        options: what `build_backbone` was given, plain data: an export is rebuilt from it.
        can_drop: tokens can leave the encoder (`keep`).
        can_mask: tokens can be replaced by a learned one (`mask`).
        checkpoint_blocks: set by the engine: blocks keep their input only and run again in the backward.
    """

    can_drop: ClassVar[bool] = False
    can_mask: ClassVar[bool] = False
    embed_dim: int

    def __init__(self) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}
        self.checkpoint_blocks = False

    @abstractmethod
    def grid(self, num_frames: int) -> tuple[int, int]:
        """(t, f): patches along time and frequency of a clip of `num_frames`."""

    def num_tokens(self, num_frames: int) -> int:
        """N of a clip of `num_frames`, when none is dropped."""
        time, frequency = self.grid(num_frames)
        return time * frequency

    @property
    def num_drop_path_draws(self) -> int:
        """Random numbers that a clip needs for drop path; 0 for none."""
        return 0

    @abstractmethod
    def forward(
        self,
        fbank: Tensor,
        *,
        keep: Tensor | None = None,
        mask: Tensor | None = None,
        drop_path_noise: Tensor | None = None,
        hidden: bool = False,
    ) -> Tokens:
        """Encode clips.

        Args:
            fbank: (B, T, F) normalised, or (B, C, T, F) of several channels.
            keep: (B, Nkeep) int64, ascending: the tokens that stay, all others leave the encoder; needs `can_drop`.
            mask: (B, N) bool: True where a learned token stands in place of the patch; needs `can_mask`.
            drop_path_noise: (B, num_drop_path_draws) uniform in [0, 1); None draws from torch's generator.
            hidden: hand on the outputs of all layers, too.
        """

    def pool(self, tokens: Tokens) -> Tensor:
        """(B, D): a clip's vector, the mean of its tokens, at least fp32."""
        return upcast(tokens.values).mean(dim=1)

    def read_out(self, tokens: Tokens) -> Tensor:
        """(B, `readout_dim`): what classifiers, probes and embeddings read of a clip, at least fp32.

        Objectives of pretraining read `pool` instead, which any tokens that are left can fill.
        """
        return self.pool(tokens)

    @property
    def readout_dim(self) -> int:
        """Length of `read_out`'s vectors."""
        return self.embed_dim

    def build_head(self, num_classes: int) -> nn.Module | None:  # noqa: ARG002 - for others
        """A classifier of its own, a `vcrast.models.classifier.TokenHead`; None: a linear one on `read_out`."""
        return None

    def from_timm(  # for others
        self,
        name: str,  # noqa: ARG002
        file: Path | None,  # noqa: ARG002
        where: str,  # noqa: ARG002
        *,
        kernels: str | None,  # noqa: ARG002
    ) -> dict[str, Tensor] | None:
        """Weights of the timm model `name`, by this encoder's names; None: it takes those of plain ViTs, or none.

        Args:
            name: as timm's.
            file: its weights; None: timm gets them.
            where: beginning of messages.
            kernels: of the colours: their `sum` or `mean`; None: as the model's authors.

        Raises:
            ValueError: another model, or weights that cannot be had.
        """
        return None

    def fit_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of such a model that was built for other clips, fitted to this one's; what cannot be is unchanged."""
        return weights

    def patches(self, fbank: Tensor) -> Tensor:  # noqa: ARG002 - none by default
        """(B, [C,] T, F) -> (B, N, pixels): what each token is made of, the target of a reconstruction.

        Raises:
            ValueError: tokens of this backbone are not patches.
        """
        raise ValueError(f"{type(self).__name__} does not tell the patch of a token; choose model=base, small or tiny")

    def group_matcher(self, coarse: bool = False) -> Mapping[str, Any]:  # noqa: ARG002 - timm's signature
        """Patterns that tell which layer a parameter belongs to, as timm's models give them; for layer decay.

        Raises:
            ValueError: the backbone does not say.
        """
        raise ValueError(f"{type(self).__name__} has no group_matcher, which layer_decay needs; set layer_decay=1")

    def enable_mask_token(self) -> None:
        """Make the learned token that `mask` puts in; before the optimiser is made.

        Not made by default: a parameter that never gets a gradient stalls distributed training.
        """
        raise ValueError(
            f"{type(self).__name__} cannot replace patches by a mask token; set views.patch_drop_mode=drop"
        )


def require(backbone: Backbone, *, drop: bool = False, mask: bool = False, by: str) -> None:
    """Refuse a backbone that cannot do what an objective asks.

    Args:
        backbone: as built.
        drop: whether tokens are to leave the encoder.
        mask: whether a learned token is to stand for some.
        by: what asks, as the user wrote it.

    Raises:
        ValueError: names the model, what it lacks and who needs it.
    """
    name = type(backbone).__name__
    if drop and not backbone.can_drop:
        raise ValueError(f"{by}: {name} cannot leave tokens out, it needs the whole grid; set views.patch_drop=0")
    if mask and not backbone.can_mask:
        raise ValueError(f"{by}: {name} has no mask token; set views.patch_drop=0")


OF_THE_CALLER = ("checkpoint", "checkpoint_kernels", "checkpoint_positions")
"""Options of a model that say what it is filled with, not how it is built."""


def build_backbone(options: Mapping[str, Any], **arguments: Any) -> Backbone:
    """Build the model that `model=...` names, randomly initialised; errors as in `Registry.build`.

    Args:
        options: of `configs/model`; `checkpoint` and what begins so is the caller's business.
        **arguments: see `Backbone`.
    """
    own = {key: value for key, value in options.items() if key not in OF_THE_CALLER}
    arguments = exchangeable(MODELS.find(own), str(own["name"]), arguments)
    backbone: Backbone = MODELS.build(own, **arguments)
    backbone.options = {**own, **arguments}
    return backbone


PLAIN = {"attention": ("softmax", "memory_efficient"), "linear": ("real",)}
"""What a backbone computes that has no exchangeable attention, or no exchangeable linear layers."""


def exchangeable(builder: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without the options of parts that the backbone does not exchange.

    Raises:
        ValueError: such a part was chosen, which would have no effect.
    """
    taken = dict(arguments)
    for part, plain in PLAIN.items():
        if part in inspect.signature(builder).parameters:
            continue
        chosen = taken.pop(part, {"name": plain[0]})["name"]
        if chosen not in plain:
            raise ValueError(f"{part}={chosen}: model={name} has no exchangeable {part}; leave it out")
    return taken


def upcast(values: Tensor) -> Tensor:
    """Turn fp16 and bf16 into fp32; fp32 and float64 stay."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
