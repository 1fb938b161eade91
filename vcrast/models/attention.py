"""Multi-head self-attention with an exchangeable backend (ATTENTIONS).

A backend is a module that gets q, k, v, each (B, H, N, K), and returns (B, H, N, K). It owns no projection, so weights
learnt under one backend fit another. One whose result is linear in v may also have `weights(q, k)`, (B, H, N, N) with
weights(q, k) @ v equal to the result: what `vcrast explain` looks at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vcrast.config.registry import ATTENTIONS
from vcrast.models.linear import build_linear


class Attention(nn.Module):
    """Multi-head self-attention.

    q, k and v are three layers rather than one of triple width: a quaternion layer's output, cut in three, would mix
    its components, and LARS adapts each matrix by itself.

    Args:
        embed_dim: D.
        num_heads: H; each head has D / H channels.
        attention: options of the backend.
        linear: options of the linear layers.

    Raises:
        ValueError: D is not a multiple of H.
    """

    def __init__(
        self, *, embed_dim: int, num_heads: int, attention: Mapping[str, Any], linear: Mapping[str, Any]
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"model.embed_dim={embed_dim} is not a multiple of model.num_heads={num_heads}")
        self.num_heads = num_heads
        self.q, self.k, self.v, self.out = (build_linear(linear, embed_dim, embed_dim) for _ in range(4))
        self.mix = ATTENTIONS.build(attention, num_heads=num_heads, head_dim=embed_dim // num_heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        tokens = cast_once(tokens)
        q, k, v = (self.split(layer(tokens)) for layer in (self.q, self.k, self.v))
        return self.out(rearrange(self.mix(q, k, v), "b h n k -> b n (h k)"))

    def split(self, values: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, K)."""
        return rearrange(values, "b n (h k) -> b h n k", h=self.num_heads)


def cast_once(tokens: Tensor) -> Tensor:
    """The tokens in autocast's precision, where it is on.

    Each of q, k and v would cast the fp32 output of the norm by itself and keep its copy for the backward: two copies
    of (B, N, D) too many, a tenth of a block's memory.
    """
    kind = tokens.device.type
    wanted = torch.is_autocast_enabled(kind) and tokens.dtype == torch.float32  # autocast leaves float64 alone, too
    return tokens.to(torch.get_autocast_dtype(kind)) if wanted else tokens


@ATTENTIONS.register("softmax")
class SoftmaxAttention(nn.Module):
    """softmax(q k^T / sqrt(K)) v, written out: the reference that other backends are tested against."""

    def __init__(self, *, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = head_dim**-0.5

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, H, N, K) each -> (B, H, N, K); the softmax is at least fp32."""
        return self.weights(q, k).to(v.dtype) @ v

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, H, N, K) each -> (B, H, N, N), at least fp32; each row adds up to 1."""
        return softmax_weights(q, k, self.scale)


def softmax_weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T): (B, H, N, K) each -> (B, H, N, N), at least fp32."""
    # q is scaled before the product: in fp16 large logits overflow first.
    logits = (q * scale) @ k.transpose(-2, -1)
    return logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
