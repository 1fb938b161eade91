"""Check the memory model of docs/t4.md against what PyTorch keeps."""

from pathlib import Path

import pytest
import torch
from shipped import shipped_options

from benchmarks.memory import HALF, block_bytes, footprint, row, table, view_bytes
from vcrast.models.backbone import build_backbone
from vcrast.training.plan import GIB

ROOT = Path(__file__).resolve().parents[2]
FUSED = shipped_options("attention/memory_efficient")


def make(embed_dim=48, depth=2, num_heads=3, mlp_ratio=4.0):
    model = shipped_options("model/base", embed_dim=embed_dim, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio)
    encoder = build_backbone(
        model, attention=FUSED, linear={"name": "real"}, num_mel_bins=128, num_frames=64, num_channels=1,
        patch_stride=None,
    )  # fmt: skip
    return model, encoder


def saved_bytes(encoder, fbank):
    """Bytes kept for the backward under fp16: (activations, half-precision copies of weights)."""
    weights = {weight.untyped_storage().data_ptr() for weight in encoder.parameters()}
    shapes = {tuple(weight.shape) for weight in encoder.parameters()}
    shapes |= {shape[::-1] for shape in shapes if len(shape) == 2}  # a linear layer keeps its weight transposed
    kept = {}

    def pack(value):
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage, tuple(value.shape))  # held, so that no address is used twice
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value), torch.autocast("cpu", torch.float16):
        encoder.pool(encoder(fbank))
    copies = sum(storage.nbytes() for storage, shape in kept.values() if shape in shapes)
    return sum(storage.nbytes() for storage, _ in kept.values()) - copies, copies


@pytest.mark.parametrize("sizes", [{}, {"depth": 1, "mlp_ratio": 2.0}, {"embed_dim": 64, "num_heads": 4, "depth": 3}])
def test_activations_are_counted_to_the_byte(sizes):
    # A second copy of any activation, such as one cast each for q, k and v, would show here.
    model, encoder = make(**sizes)
    found, copies = saved_bytes(encoder, torch.randn(5, 64, 128))
    assert found == 5 * view_bytes(model, 64, encoder.num_tokens(64))
    assert copies == HALF * sum(weight.numel() for weight in encoder.parameters() if weight.ndim > 1)


def test_the_count_notices_a_second_copy(monkeypatch):
    monkeypatch.setattr("vcrast.models.attention.cast_once", lambda tokens: tokens)
    model, encoder = make()
    found, _ = saved_bytes(encoder, torch.randn(1, 64, 128))
    extra = model["depth"] * 2 * encoder.num_tokens(64) * model["embed_dim"] * HALF
    assert found == view_bytes(model, 64, encoder.num_tokens(64)) + extra


def test_vit_base_by_hand():
    # 36 bytes a channel: 8 of the residual stream, 4 of the norms, 8 of q, k, v and their mix, 16 of the MLP
    assert block_bytes(768, 12, 4.0, 256) == 256 * (36 * 768 + 16 + 48)
    model = shipped_options("model/base")
    assert view_bytes(model, 512, 256) / 2**20 == pytest.approx(82, abs=0.5)


def test_weights_and_optimiser_by_hand():
    model = shipped_options("model/base")
    found = footprint(model, num_frames=512, batch_size=1, projector_dims=[4096] * 3, patch_drop=0.0)
    # 85.26 M in the encoder (no class token), 36.7 M in the projector, 16 bytes each
    assert found.base / GIB == pytest.approx(16 * (85.26e6 + 36.72e6) / GIB, rel=2e-3)
    assert found.graph_fixed == pytest.approx(2 * 85.1e6, rel=2e-3)


def test_dropping_half_the_tokens_fits_twice_the_clips():
    dropped = row("base", num_frames=1024, batch_size=48, patch_drop=0.5)
    full = row("base", num_frames=512, batch_size=48)
    assert dropped[6] == full[6] == "whole"


def test_the_document_shows_this_table():
    lines = (ROOT / "docs" / "t4.md").read_text().splitlines()
    shown = [line for line in lines if line.startswith(("| base", "| small", "| tiny", "| model"))]
    computed = [line for line in table() if not line.startswith("| ---")]
    assert shown == computed
