"""Check that blocks copy no tokens in memory and cast no more than autocast must."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vcrast.config.compose import compose
from vcrast.models.block import Block

CLIPS, TOKENS, DIM, DEPTH = 3, 11, 48, 2
MOVES = ("clone", "copy_", "_to_copy", "cat", "stack", "repeat", "index", "gather", "constant_pad_nd")


class Moves(TorchDispatchMode):
    """Counts the operations that give every token's channels a new place or another precision and compute nothing."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        for value in tree_leaves(found):
            if isinstance(value, torch.Tensor) and name in MOVES and of_all_tokens(value):
                self.seen[name] += 1
        return found


def of_all_tokens(value):
    """Whether a tensor has every token's channels; no weight has a side of 11 or 33."""
    return value.numel() >= CLIPS * TOKENS * DIM and not {TOKENS, CLIPS * TOKENS}.isdisjoint(value.shape)


def moves(backend, *, autocast, change=lambda block: None):
    """Those of the forward and of the backward of two blocks."""
    attention = dict(compose([f"attention={backend}"]).attention)
    if backend == "memory_efficient":
        attention["kernel"] = "sdpa"  # as on a GPU: on a CPU in bf16 the formula is written out
    sizes = {"embed_dim": DIM, "num_heads": 3, "mlp_ratio": 4.0, "drop_path": 0.0}
    blocks = [Block(**sizes, attention=attention, linear={"name": "real"}) for _ in range(DEPTH)]
    for block in blocks:
        change(block)
    tokens = torch.randn(CLIPS, TOKENS, DIM, requires_grad=True)
    with Moves() as forward:
        mixed = tokens
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            for block in blocks:
                mixed = block(mixed)
    weights = torch.randn(CLIPS, TOKENS, DIM)
    with Moves() as backward:
        mixed.backward(weights)
    return forward.seen, backward.seen


def test_no_copy_for_a_layout():
    # Heads are split and joined by strides, which the fused kernels take as they are, in both directions.
    assert moves("memory_efficient", autocast=False) == (Counter(), Counter())


def test_autocast_casts_each_norm_once():
    forward, backward = moves("memory_efficient", autocast=True)
    # Forward: the output of each of the two norms. Backward: the gradient of each norm's output, and that of each
    # branch, which leaves the fp32 residual stream.
    assert forward == {"_to_copy": 2 * DEPTH}
    assert backward == {"_to_copy": 4 * DEPTH}


@pytest.mark.parametrize("autocast", [False, True])
def test_a_copy_would_be_seen(autocast):
    def copying(block):
        split = block.attn.split
        block.attn.split = lambda values: split(values).contiguous()

    forward, _ = moves("memory_efficient", autocast=autocast, change=copying)
    assert forward["clone"] == 4 * DEPTH  # of q, k and v, and then of the mix, whose strides follow theirs


def test_the_written_out_formula_copies():
    forward, _ = moves("softmax", autocast=False)
    assert forward["clone"] > 0
