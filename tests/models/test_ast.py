import re

import pytest
import torch
from parts import make_ast
from torch import nn
from torch.nn import functional as F

from vcrast.models.backbone import build_backbone
from vcrast.models.block import Block
from vcrast.models.patch_embed import PatchEmbed
from vcrast.models.projector import Projector

SOFTMAX, REAL = {"name": "softmax"}, {"name": "real"}


def small_encoder(**options):
    torch.manual_seed(0)
    return make_ast(**{"num_frames": 20, **options})


def test_patches_are_time_major_and_read_what_they_should():
    embed = PatchEmbed(embed_dim=3, patch_size=(4, 8), patch_stride=(2, 8)).double()
    fbank = torch.randn(2, 11, 17, dtype=torch.float64)
    tokens = embed(fbank)
    assert embed.grid(11, 17) == (4, 2)
    number = 0
    for time in range(4):
        for frequency in range(2):
            patch = fbank[:, 2 * time : 2 * time + 4, 8 * frequency : 8 * frequency + 8].flatten(1)
            expected = patch @ embed.proj.weight.flatten(1).T + embed.proj.bias
            torch.testing.assert_close(tokens[:, number], expected)
            number += 1
    assert number == tokens.shape[1]


def test_ast_token_counts():
    encoder = small_encoder(patch_size=[16, 16], num_mel_bins=128, num_frames=1024, patch_stride=[10, 10])
    assert encoder.grid(1024) == (101, 12)  # the AST's 12 x 101
    encoder.set_stride([16, 16])
    assert encoder.num_tokens(1024) == 512  # SSAST's pretraining
    assert encoder(torch.zeros(1, 64, 128)).values.shape == (1, 32, 16)


def test_options_build_the_same_encoder_again():
    encoder = small_encoder(positions="learned", drop_path=0.1)
    encoder.set_stride([3, 5])
    twin = build_backbone(encoder.options)
    twin.load_state_dict(encoder.state_dict())
    fbank = torch.randn(2, 20, 16)
    torch.testing.assert_close(twin.eval()(fbank).values, encoder.eval()(fbank).values)


def test_frame_patches():
    encoder = small_encoder(patch_size=[2, 16])
    assert encoder.grid(21) == (10, 1)


def test_dropped_tokens_keep_their_positions():
    encoder = small_encoder(depth=0)
    fbank, keep = torch.randn(2, 20, 16), torch.tensor([[0, 3, 9], [1, 2, 4]])
    whole, kept = encoder(fbank).values, encoder(fbank, keep=keep).values
    torch.testing.assert_close(kept[0], whole[0, [0, 3, 9]])
    torch.testing.assert_close(kept[1], whole[1, [1, 2, 4]])


def test_masked_tokens_become_the_mask_token_plus_position():
    encoder = small_encoder(depth=0)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[1, [1, 2, 4]] = False
    fbank = torch.randn(2, 20, 16)
    with pytest.raises(ValueError, match="enable_mask_token"):
        encoder(fbank, mask=mask)
    encoder.enable_mask_token()
    whole, masked = encoder(fbank).values, encoder(fbank, mask=mask).values
    grid = encoder.grid(20)
    table = encoder.pos_embed(grid, (4, 8), (4, 8), like=fbank)
    torch.testing.assert_close(masked[1, [1, 2, 4]], whole[1, [1, 2, 4]])
    torch.testing.assert_close(masked[1, 3], encoder.norm(encoder.mask_token + table[3]))
    assert masked.shape == whole.shape


def test_hidden_layers_on_request():
    encoder = small_encoder(depth=3)
    fbank = torch.randn(2, 20, 16)
    tokens = encoder(fbank, hidden=True)
    assert len(tokens.hidden) == 4
    assert tokens.grid == (5, 2)
    expected = tokens.hidden[0]
    for block, found in zip(encoder.blocks, tokens.hidden[1:], strict=True):
        expected = block(expected)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(tokens.values, encoder.norm(expected))
    assert encoder(fbank).hidden == ()


def test_mask_token_exists_only_when_used():
    encoder = small_encoder()
    encoder(torch.randn(1, 20, 16)).values.sum().backward()
    assert all(weight.grad is not None for weight in encoder.parameters())


def test_drop_path_by_position_does_not_depend_on_the_cut():
    encoder = small_encoder(drop_path=0.5).train()
    fbank, noise = torch.randn(5, 20, 16), torch.rand(5, encoder.num_drop_path_draws)
    whole = encoder(fbank, drop_path_noise=noise).values
    parts = [encoder(fbank[cut], drop_path_noise=noise[cut]).values for cut in (slice(2), slice(2, 5))]
    torch.testing.assert_close(whole, torch.cat(parts))


def test_drop_path_drops_whole_clips_and_keeps_the_mean():
    block = Block(embed_dim=8, num_heads=2, mlp_ratio=2, drop_path=0.25, attention=SOFTMAX, linear=REAL).train()
    branch = torch.ones(4, 3, 8)
    chance = torch.tensor([[0.0, 0.9], [0.24, 0.9], [0.25, 0.9], [0.99, 0.9]])
    dropped = block.drop(branch, chance, 0)
    expected = torch.tensor([0, 0, 4 / 3, 4 / 3])[:, None, None].expand(4, 3, 8)
    torch.testing.assert_close(dropped, expected)
    assert torch.equal(block.eval().drop(branch, chance, 0), branch)


def test_drop_path_rises_with_depth():
    encoder = small_encoder(depth=5, drop_path=0.2)
    rates = torch.tensor([block.drop_path for block in encoder.blocks])
    torch.testing.assert_close(rates, torch.tensor([0, 0.05, 0.1, 0.15, 0.2]))


@pytest.mark.parametrize(("size", "millions"), [((768, 12), 85.3), ((384, 6), 21.4), ((192, 3), 5.4)])
def test_sizes_are_those_of_the_ast(size, millions):
    with torch.device("meta"):
        encoder = make_ast(
            embed_dim=size[0], depth=12, num_heads=size[1], mlp_ratio=4.0, patch_size=[16, 16], num_mel_bins=128,
            num_frames=512,
        )  # fmt: skip
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_linear_weights_start_at_std_002():
    layer = small_encoder(embed_dim=256, num_heads=4).blocks[0].fc1
    assert isinstance(layer, nn.Linear)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not layer.bias.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": [4, 32]}, "16 mel bins is smaller than one patch of 32"),
        ({"num_frames": 3}, "3 frames is smaller than one patch of 4"),
        ({"patch_size": [4]}, "two positive whole numbers"),
        ({"patch_stride": [0, 8]}, "two positive whole numbers"),
        ({"positions": "rotary"}, "choose from sincos, learned"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
    ],
)
def test_wrong_sizes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small_encoder(**options)


def test_wrong_mel_bins_are_named():
    with pytest.raises(ValueError, match="24 mel bins, the encoder was built for 16"):
        small_encoder()(torch.zeros(1, 20, 24))


def test_projector_has_three_linear_maps_and_thesis_size():
    with torch.device("meta"):
        projector = Projector(768, [4096, 4096, 4096])
    kinds = [type(layer).__name__ for layer in projector.layers]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert projector.layers[-1].bias is None
    assert sum(p.numel() for p in projector.parameters()) / 1e6 == pytest.approx(36.7, abs=0.06)


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_what_the_first_layer_reads(channels):
    encoder = small_encoder(patch_stride=[3, 5], num_channels=channels).double()
    fbank = torch.randn(2, channels, 20, 16, dtype=torch.float64).squeeze(1)
    patches, layer = encoder.patches(fbank), encoder.patch_embed.proj
    assert patches.shape == (2, encoder.num_tokens(20), channels * 4 * 8)
    torch.testing.assert_close(patches @ layer.weight.flatten(1).T + layer.bias, encoder.patch_embed(fbank))


@pytest.mark.parametrize(("count", "pool"), [(1, "mean"), (1, "class"), (2, "class")])
def test_class_tokens_are_seen_and_see(count, pool):
    torch.manual_seed(0)
    encoder = make_ast(class_tokens=count, pool=pool).double().eval()
    fbank = torch.randn(3, 18, 16, dtype=torch.float64)
    tokens = encoder(fbank, hidden=True)
    embedded = torch.cat([encoder.class_token.expand(3, -1, -1), encoder.embed(fbank)], dim=1)
    expected = embedded
    for block in encoder.blocks:
        expected = block(expected)
    torch.testing.assert_close(tokens.values, encoder.norm(expected)[:, count:])
    torch.testing.assert_close(tokens.class_tokens, encoder.norm(expected)[:, :count])
    torch.testing.assert_close(tokens.hidden[-1], expected[:, count:])
    vector = tokens.class_tokens if pool == "class" else tokens.values
    torch.testing.assert_close(encoder.pool(tokens), vector.mean(dim=1))


def test_class_tokens_stay_when_patches_are_dropped():
    encoder = make_ast(class_tokens=2, pool="class").double().eval()
    fbank, keep = torch.randn(2, 18, 16, dtype=torch.float64), torch.tensor([[0, 3, 5], [1, 2, 7]])
    tokens = encoder(fbank, keep=keep)
    assert (tokens.values.shape[1], tokens.class_tokens.shape[1]) == (3, 2)
    loss = encoder.pool(tokens).square().sum()
    loss.backward()
    assert encoder.class_token.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_tokens": 3}, "model.class_tokens=3: choose 0, 1"),
        ({"pool": "max"}, "model.pool=max: choose from mean, class"),
        ({"pool": "class"}, "there is no class token; set model.class_tokens=1"),
    ],
)
def test_wrong_class_tokens_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_ast(**options)


def test_norms_behind_the_branches_by_hand():
    encoder = make_ast(norms="post", norm_eps=1e-3, depth=2).double().eval()
    fbank = torch.randn(2, 18, 16, dtype=torch.float64)
    tokens = encoder.embed_norm(encoder.embed(fbank))
    for block in encoder.blocks:
        tokens = block.norm1(tokens + block.attn(tokens))
        tokens = block.norm2(tokens + block.fc2(F.gelu(block.fc1(tokens))))
    torch.testing.assert_close(encoder(fbank).values, tokens)
    assert {part.eps for part in encoder.modules() if isinstance(part, torch.nn.LayerNorm)} == {1e-3}
    assert "norm.weight" not in encoder.state_dict()


def test_open_norms_are_those_before_the_branches_alone():
    encoder = make_ast(norms="open").double().eval()
    usual = make_ast().double().eval()
    usual.load_state_dict(encoder.state_dict(), strict=False)
    fbank = torch.randn(2, 18, 16, dtype=torch.float64)
    torch.testing.assert_close(usual.norm(encoder(fbank).values), usual(fbank).values)


def test_learned_positions_of_overlapping_patches_are_theirs_and_read_off_in_between():
    encoder = make_ast(positions="learned", positions_stride=[3, 5], patch_stride=[3, 5]).eval()
    assert encoder.pos_embed.table.shape == (5, 2, 16)  # of 18 frames and 16 bins, patches of 4 and 8
    like = torch.zeros(1)
    assert torch.equal(encoder.pos_embed((5, 2), (4, 8), (3, 5), like), encoder.pos_embed.table.flatten(0, 1))
    shorter = encoder.pos_embed((3, 2), (4, 8), (3, 5), like)
    assert torch.equal(shorter, encoder.pos_embed.table[:3].flatten(0, 1))
    touching = encoder.pos_embed((4, 2), (4, 8), (4, 8), like).unflatten(0, (4, 2))
    table = encoder.pos_embed.table
    torch.testing.assert_close(touching[1, 0], table[1, 0] * 2 / 3 + table[2, 0] / 3)  # frame 4 lies at 4 / 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norms": "none"}, "model.norms=none: choose from pre, open, post"),
        ({"norm_eps": 0.0}, "model.norm_eps=0.0: must lie between 0 and 1"),
        ({"positions_stride": [2, 2]}, r"model.positions_stride=\[2, 2\]: without effect under model.positions=sincos"),
        ({"positions": "learned", "positions_stride": [0, 2]}, "positions_stride"),
    ],
)
def test_norms_and_positions_that_there_are_not_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_ast(**options)
