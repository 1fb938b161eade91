"""Classify a clip: by its vector, or by a classifier that reads its tokens along time."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from einops import rearrange
from torch import Tensor, nn

from vcrast.models.backbone import Backbone, Tokens, upcast


class TokenHead(nn.Module, ABC):
    """A classifier that a backbone brings along (`Backbone.build_head`); it knows the classes of every frame.

    Attributes:
        num_classes: C.
    """

    num_classes: int

    @abstractmethod
    def frames(self, tokens: Tokens) -> Tensor:
        """(B, T', C) logits of T' equal parts of the clip, in time order."""

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, C) logits of the clip: the mean over its frames."""
        return self.frames(tokens).mean(dim=1)


class TokenSemanticHead(TokenHead):
    """HTS-AT's: a convolution over three steps in time and all of frequency gives the classes of each step.

    Args:
        embed_dim: D.
        num_rows: f, tokens along frequency.
        num_classes: C.

    Source: Chen et al. 2022, arXiv:2202.00874, Sec. 2.2.
    """

    def __init__(self, embed_dim: int, num_rows: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv = nn.Conv2d(embed_dim, num_classes, (num_rows, 3), padding=(0, 1))

    def frames(self, tokens: Tokens) -> Tensor:
        """(B, t, C) logits of each of t steps in time."""
        image = rearrange(tokens.values, "b (t f) d -> b d f t", f=tokens.grid[1])
        return rearrange(self.conv(image), "b c 1 t -> b t c")


def classify(encoder: Backbone, head: nn.Module, tokens: Tokens) -> Tensor:
    """(B, C) logits, at least fp32, of clips that `encoder` has made these tokens of."""
    with torch.autocast(tokens.values.device.type, enabled=False):
        logits: Tensor = head(in_full(tokens) if isinstance(head, TokenHead) else upcast(encoder.read_out(tokens)))
        return logits


def classify_frames(head: nn.Module | None, tokens: Tokens) -> Tensor:
    """(B, T', C) logits of each frame, at least fp32.

    Raises:
        ValueError: the classifier reads the mean of all tokens and knows no times.
    """
    with torch.autocast(tokens.values.device.type, enabled=False):
        return check_frames(head).frames(in_full(tokens))


def check_frames(head: nn.Module | None) -> TokenHead:
    """The classifier; errors as in `classify_frames`."""
    if not isinstance(head, TokenHead):
        raise ValueError(NO_FRAMES)
    return head


NO_FRAMES = (
    "this model's classifier reads the mean of a clip's tokens and knows no times within it; finetune a model=htsat, "
    "or have a result for each window (--hop SECONDS; in Python predict_windows)"
)


def in_full(tokens: Tokens) -> Tokens:
    """The tokens with values of at least fp32."""
    return tokens._replace(values=upcast(tokens.values))
