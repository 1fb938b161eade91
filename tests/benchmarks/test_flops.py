import pytest
import torch
from parts import make_ast
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import block_flops, encoder_flops, projector_flops, step_flops
from vcrast.models.projector import Projector


def make_encoder(patch_size, stride=None):
    return make_ast(
        embed_dim=24, depth=3, mlp_ratio=3.0, patch_size=patch_size, patch_stride=stride, num_mel_bins=32, num_frames=50
    )


def test_one_block_by_hand():
    # 5 tokens of width 2, ratio 4: four 2 x 2 products, two of 2 x 8, and q k^T and weights v of 5 x 5 x 2
    assert block_flops(2, 4.0, 5) == 2 * 5 * (4 * 4 + 2 * 16) + 2 * (2 * 5 * 5 * 2)


@pytest.mark.parametrize(("patch_size", "stride"), [([16, 16], None), ([2, 32], None), ([16, 16], [10, 10])])
def test_forward_equals_pytorchs_count(patch_size, stride):
    encoder = make_encoder(patch_size, stride)
    with FlopCounterMode(display=False) as counter:
        encoder(torch.randn(1, 50, 32))
    assert counter.get_total_flops() == encoder_flops(encoder, 50)


@pytest.mark.parametrize("num_kept", [None, 4])
def test_forward_and_backward_equal_pytorchs_count(num_kept):
    encoder, projector = make_encoder([16, 8]), Projector(24, [10, 11, 12])
    keep = None if num_kept is None else torch.arange(num_kept).repeat(2 * 3, 1)
    with FlopCounterMode(display=False) as counter:
        tokens = encoder(torch.randn(2 * 3, 50, 32), keep=keep)  # 3 clips, 2 views
        projector(encoder.pool(tokens)).sum().backward()
    counted = step_flops(encoder, [10, 11, 12], batch_size=3, num_frames=50, num_tokens=num_kept)
    assert counter.get_total_flops() == counted


def test_vit_base_needs_what_is_known_of_it():
    # 224 x 224 pixels, 196 patches: 17.5 GFLOP multiply-adds as usually quoted, less the class token and three colours
    options = {"embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0, "patch_size": [16, 16]}
    with torch.device("meta"):
        encoder = make_ast(**options, num_mel_bins=224, num_frames=224)
    assert encoder_flops(encoder, 224) / 2 == pytest.approx(17.5e9, rel=0.02)
    assert projector_flops(768, [4096] * 3) == 2 * (768 * 4096 + 2 * 4096**2)
