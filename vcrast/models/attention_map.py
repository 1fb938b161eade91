"""Map what a result was read from onto the patches: relevance or rollout of attention.

Both follow the attention weights A of each layer from the result back to the patches. They only see what the attention
weights show: a map says where the model looked, not that the sound there is the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcrast.models.attention import Attention
from vcrast.models.backbone import Backbone, Tokens, upcast
from vcrast.models.patch_embed import PatchEmbed

METHODS = ("relevance", "rollout")


def attention_layers(encoder: Backbone) -> list[Attention]:
    """The layers of an encoder whose attention weights can be had.

    Raises:
        ValueError: there are none, or their backend shows no weights.
    """
    layers = [module for module in encoder.modules() if isinstance(module, Attention)]
    name = encoder.options.get("name", type(encoder).__name__)
    if not layers or not isinstance(getattr(encoder, "patch_embed", None), PatchEmbed):
        raise ValueError(
            f"model={name}: cannot be explained: its attention does not lead from the result to patches of the whole "
            "clip (model=htsat attends within shifted windows and joins tokens); choose model=base, small or tiny"
        )
    hidden = next((layer for layer in layers if not hasattr(layer.mix, "weights")), None)
    if hidden is not None:
        chosen = encoder.options.get("attention", {}).get("name", type(hidden.mix).__name__)
        raise ValueError(f"attention={chosen}: cannot be explained: this backend has no `weights(q, k)` to show")
    return layers


@contextmanager
def attended(encoder: Backbone) -> Iterator[list[Tensor]]:
    """Collect the weights (B, H, N, N) of a forward, first layer first; its result is computed from them.

    Raises:
        ValueError: see `attention_layers`.
    """
    found: list[Tensor] = []

    def written_out(mix: Any, inputs: tuple[Tensor, Tensor, Tensor], _: Tensor) -> Tensor:
        q, k, v = inputs
        found.append(mix.weights(q, k))
        return found[-1].to(v.dtype) @ v

    hooks = [layer.mix.register_forward_hook(written_out) for layer in attention_layers(encoder)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def token_map(encoder: Backbone, fbank: Tensor, target: Callable[[Tokens], Tensor], method: str) -> Tensor:
    """(B, t, f): what each patch has to do with the result, at least 0.

    Args:
        encoder: in eval mode.
        fbank: (B, [C,] T, F) normalised.
        target: `Tokens` -> (B,), what relevance takes the gradient of; each clip's depends on that clip alone.
        method: of `METHODS`.
    """
    with torch.enable_grad(), attended(encoder) as weights:
        tokens = encoder(fbank.detach().requires_grad_())
    own = 0 if tokens.class_tokens is None else tokens.class_tokens.shape[1]
    shares = pooled_shares(encoder, tokens)
    if method == "rollout":
        found = rollout(shares, [each.detach() for each in weights])
    else:
        with torch.enable_grad():
            parts = [*weights, tokens.values]
            gradients = torch.autograd.grad(target(tokens).sum(), parts, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            pooled = (shares != 0).to(shares.dtype)
            rows = relevance(pooled, [each.detach() for each in weights], gradients[:-1])
            # Past all attention a token counts what it adds to the mean, where R's identity would count all alike.
            added = (upcast(tokens.values) * upcast(gradients[-1])).sum(dim=2).clamp(min=0)
            found = rows - pooled + F.pad(added, (own, 0))
    return found[:, own:].unflatten(1, tokens.grid)


def pooled_shares(encoder: Backbone, tokens: Tokens) -> Tensor:
    """(B, K + N): how much each token, class tokens first, counts in the clip's vector: 1 / N each in a mean."""
    with torch.enable_grad():
        values = tokens.values.detach().requires_grad_()
        own = None if tokens.class_tokens is None else tokens.class_tokens.detach().requires_grad_()
        pooled = encoder.pool(tokens._replace(values=values, class_tokens=own)).sum()
        parts = [values] if own is None else [own, values]
        gradients = torch.autograd.grad(pooled, parts, allow_unused=True, materialize_grads=True)
    return torch.cat([upcast(gradient).mean(dim=2) for gradient in gradients], dim=1)


def rollout(begin: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Attention rollout: begin (A_L ... A_1), each A half the mean over heads and half the identity.

    Args:
        begin: (B, N) what each token counts in the result.
        weights: (B, H, N, N) of each layer, first layer first. Estimates may be negative: what is below 0 is taken for
            0, and rows are brought to the sum 1, as they have it under a softmax.

    Returns:
        (B, N).

    Source: Abnar and Zuidema 2020, arXiv:2005.00928, Sec. 3.
    """
    rows = begin.unsqueeze(1)
    for layer in reversed(weights):
        mixed = layer.mean(dim=1).clamp(min=0)
        mixed = mixed / mixed.sum(dim=2, keepdim=True).clamp(min=torch.finfo(mixed.dtype).tiny)
        rows = rows.to(mixed.dtype) @ mixed / 2 + rows / 2
    return rows.squeeze(1)


def relevance(begin: Tensor, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Relevance: begin R; R is I at first, R + A' R after each layer, A' the mean over heads of (gradient A), above 0.

    Args:
        begin: (B, N): 1 for each token that the result is read from (in the paper the class token), else 0: how much
            each of them counts is in the gradients.
        weights: (B, H, N, N) A of each layer, first layer first.
        gradients: of the target for each of them.

    Returns:
        (B, N).

    Source: Chefer et al. 2021, arXiv:2103.15679, eq. 5 and 6.
    """
    rows = begin.unsqueeze(1)
    for layer, gradient in zip(reversed(weights), reversed(gradients), strict=True):
        # R is (I + A'_L) ... (I + A'_1): from the left no matrix is multiplied by another.
        rows = rows + rows.to(layer.dtype) @ (gradient * layer).clamp(min=0).mean(dim=1)
    return rows.squeeze(1)


def spread(patches: Tensor, encoder: nn.Module, num_frames: int) -> Tensor:
    """(B, t, f) of patches -> (B, T, F) of frames and mel bins: the mean over the patches that lie there.

    What no patch reads, at the ends, is 0.
    """
    embed: Any = encoder.patch_embed
    ones = torch.ones(1, 1, *embed.patch_size, dtype=patches.dtype, device=patches.device)
    stacked = torch.cat([patches, torch.ones_like(patches[:1])]).unsqueeze(1)
    sums = F.conv_transpose2d(stacked, ones, stride=embed.patch_stride).squeeze(1)
    means = sums[:-1] / sums[-1:].clamp(min=1)
    num_mel_bins: Any = encoder.num_mel_bins
    return F.pad(means, (0, num_mel_bins - means.shape[2], 0, num_frames - means.shape[1]))
