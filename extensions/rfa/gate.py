"""Sum over the tokens with decay, in chunks: linear in N, exponents never above 0.

With keep factors g in (0, 1), token t weighs what token j <= t wrote by (1 - g_j) g_(j+1) ... g_t. Inside a chunk the
weights are written out; what came before a chunk is one matrix, handed from chunk to chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 128


def gate_of(keys: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithm of g, and 1 - g, of every token; g = sigmoid(weight k + bias).

    The paper computes the gate from the layer's input; a backend sees only q, k and v, so it is the key here.

    Args:
        keys: (B, H, N, K), as projected: before they are normalised.
        weight: (H, K).
        bias: (H,).

    Returns:
        Two (B, H, N), each computed without cancellation.
    """
    raw = torch.einsum("bhnk,hk->bhn", keys, weight) + bias[:, None]
    return F.logsigmoid(raw), (-raw).sigmoid()


def causal(phi_q: Tensor, phi_k: Tensor, values: Tensor, log_keep: Tensor, write: Tensor) -> tuple[Tensor, Tensor]:
    """Every token over itself and those before it, as in Peng et al. 2021, arXiv:2103.02143, Sec. 3.2.

    Args:
        phi_q: (B, H, N, F) features.
        phi_k: (B, H, N, F).
        values: (B, H, N, C).
        log_keep: (B, H, N) log g.
        write: (B, H, N) 1 - g.

    Returns:
        (B, H, N, C) weighted sums, and (B, H, N, 1) the weights' total, which is 1 - g_1 ... g_t.
    """
    sums = decayed_sums(phi_q, phi_k, values, log_keep, write, include_self=True)
    return sums, -log_keep.cumsum(dim=-1).expm1().unsqueeze(-1)


def two_sided(phi_q: Tensor, phi_k: Tensor, values: Tensor, log_keep: Tensor, write: Tensor) -> tuple[Tensor, Tensor]:
    """Every token over all: the causal sum, plus the same sum of the reversed clip without the token itself.

    So token t weighs token j by (1 - g_j) g_(j+1) ... g_t if j <= t and by (1 - g_j) g_(j-1) ... g_t if j > t: the
    recency of the paper's gate, in both directions. Reversing the clip reverses the result. Arguments and result as in
    `causal`.
    """
    forward, total = causal(phi_q, phi_k, values, log_keep, write)
    turned = [x.flip(2) for x in (phi_q, phi_k, values, log_keep, write)]
    backward = decayed_sums(*turned, include_self=False).flip(2)
    # Without its own token, the reversed total 1 - g_t ... g_N lacks 1 - g_t.
    later = log_keep.flip(2).cumsum(dim=-1).flip(2) - log_keep
    return forward + backward, total - (log_keep.exp() * later.expm1()).unsqueeze(-1)


def decayed_sums(
    phi_q: Tensor, phi_k: Tensor, values: Tensor, log_keep: Tensor, write: Tensor, *, include_self: bool
) -> Tensor:
    """Sum over j <= t of (phi_q_t phi_k_j) (1 - g_j) g_(j+1) ... g_t values_j; j < t without `include_self`.

    Returns:
        (B, H, N, C).
    """
    num_tokens = values.shape[2]
    length = min(CHUNK, num_tokens)
    phi_q, phi_k, values = (in_chunks(x, length) for x in (phi_q, phi_k, values))
    log_keep, write = (in_chunks(x.unsqueeze(-1), length).squeeze(-1) for x in (log_keep, write))
    until = log_keep.cumsum(dim=-1)  # (B, H, chunks, length): log of the product from the chunk's beginning
    mask = torch.ones(length, length, dtype=torch.bool, device=values.device).tril(0 if include_self else -1)
    decay = (until.unsqueeze(-1) - until.unsqueeze(-2)).masked_fill(~mask, -torch.inf).exp() * write.unsqueeze(-2)
    inside = (phi_q @ phi_k.transpose(-2, -1) * decay) @ values
    end = until[..., -1:]
    written = (phi_k * (write * (end - until).exp()).unsqueeze(-1)).transpose(-2, -1) @ values
    before = states_before(written, end.exp().unsqueeze(-1))
    return (inside + (phi_q * until.exp().unsqueeze(-1)) @ before).flatten(2, 3)[:, :, :num_tokens]


def states_before(written: Tensor, kept: Tensor) -> Tensor:
    """What has been written when each chunk begins.

    Args:
        written: (B, H, chunks, F, C) by each chunk.
        kept: (B, H, chunks, 1, 1) of the earlier state, at each chunk's end.
    """
    state, states = torch.zeros_like(written[:, :, 0]), []
    for chunk in range(written.shape[2]):
        states.append(state)
        state = kept[:, :, chunk] * state + written[:, :, chunk]
    return torch.stack(states, dim=2)


def in_chunks(values: Tensor, length: int) -> Tensor:
    """(B, H, N, C) -> (B, H, chunks, length, C), zeros at the end: they are read by nobody and write nothing."""
    missing = -values.shape[2] % length
    return F.pad(values, (0, 0, 0, missing)).unflatten(2, (-1, length))
