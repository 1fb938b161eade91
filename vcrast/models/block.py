"""Transformer block, its norms before or after each branch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcrast.models.attention import Attention
from vcrast.models.linear import build_linear

NORM_EPS = 1e-6  # of timm's ViT, on which the AST builds; PyTorch's default is 1e-5


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); in training each branch is dropped for some clips.

    With `post_norm` norm(x + attention(x)), then norm(x + mlp(x)), as in the first transformers.

    Args:
        embed_dim: D.
        num_heads: H.
        mlp_ratio: hidden width of the MLP over D.
        drop_path: probability of dropping a branch for a clip, in [0, 1).
        attention: options of the attention backend.
        linear: options of the linear layers.
        norm_eps: what the norms add to the variance.
        post_norm: norms behind the branches rather than before them.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: float,
        attention: Mapping[str, Any],
        linear: Mapping[str, Any],
        norm_eps: float = NORM_EPS,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        hidden = round(embed_dim * mlp_ratio)
        self.drop_path, self.post_norm = drop_path, post_norm
        self.norm1 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.attn = Attention(embed_dim=embed_dim, num_heads=num_heads, attention=attention, linear=linear)
        self.norm2 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.fc1 = build_linear(linear, embed_dim, hidden)
        self.fc2 = build_linear(linear, hidden, embed_dim)

    def forward(self, tokens: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D).

        Args:
            tokens: (B, N, D).
            noise: (B, 2) uniform in [0, 1), which decides what drop path drops. Drawn here from torch's generator if
                not given; then it depends on how the batch is cut into micro-batches.
        """
        if self.drop_path > 0 and self.training and noise is None:
            noise = torch.rand(len(tokens), 2, device=tokens.device)
        if self.post_norm:
            tokens = self.norm1(tokens + self.drop(self.attn(tokens), noise, 0))
            return self.norm2(tokens + self.drop(self.mlp(tokens), noise, 1))
        tokens = tokens + self.drop(self.attn(self.norm1(tokens)), noise, 0)
        return tokens + self.drop(self.mlp(self.norm2(tokens)), noise, 1)

    def mlp(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(tokens)))

    def drop(self, branch: Tensor, noise: Tensor | None, column: int) -> Tensor:
        """The branch, in training after `drop_path` by a column of the noise."""
        if not self.training or noise is None:
            return branch
        return drop_path(branch, noise[:, column], self.drop_path)


def drop_path(branch: Tensor, noise: Tensor | None, rate: float) -> Tensor:
    """Zero the branch of unlucky clips and scale up the others, so that the mean stays.

    Args:
        branch: (B, ..., D).
        noise: (B,) uniform in [0, 1); None drops nothing.
        rate: probability of a clip's being dropped, in [0, 1).

    Source: Huang et al. 2016, arXiv:1603.09382.
    """
    if rate == 0 or noise is None:
        return branch
    scale = (noise >= rate).to(branch.dtype) / (1 - rate)
    return branch * scale.view(-1, *[1] * (branch.ndim - 1))
