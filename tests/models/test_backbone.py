"""Check the contract of a backbone: pooling, hidden layers, layer of each weight."""

import pytest
import torch
from parts import make_ast
from torch import nn

from vcrast.config.registry import MODELS
from vcrast.models.backbone import Backbone, Tokens, build_backbone, require


class Plain(Backbone):
    """The least that a backbone is: one linear layer over frames, which can neither drop nor mask."""

    def __init__(self, *, num_mel_bins, width=3):
        super().__init__()
        self.embed_dim, self.proj = width, nn.Linear(num_mel_bins, width)

    def grid(self, num_frames):
        return num_frames, 1

    def forward(self, fbank, *, keep=None, mask=None, drop_path_noise=None, hidden=False):
        return Tokens(self.proj(fbank), self.grid(fbank.shape[-2]))


def test_a_clip_is_the_mean_of_its_tokens_in_at_least_fp32():
    values = torch.randn(2, 5, 4, dtype=torch.float64)
    plain = Plain(num_mel_bins=4)
    expected = torch.stack([sum(clip) / 5 for clip in values])
    torch.testing.assert_close(plain.pool(Tokens(values, (5, 1))), expected)
    rounded = values.bfloat16()
    found = plain.pool(Tokens(rounded, (5, 1)))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), rounded.double().mean(dim=1), rtol=1e-5, atol=1e-6)


def test_tokens_know_their_places():
    encoder, fbank = make_ast(), torch.randn(2, 18, 16)
    keep = torch.tensor([[0, 3, 7], [1, 2, 5]])
    assert encoder(fbank).grid == encoder.grid(18) == (4, 2)
    assert encoder(fbank).keep is None
    kept = encoder(fbank, keep=keep)
    assert kept.grid == (4, 2)
    assert torch.equal(kept.keep, keep)


@torch.no_grad()
def test_hidden_are_the_embedded_patches_and_every_blocks_output():
    encoder, fbank = make_ast(depth=3).eval(), torch.randn(2, 18, 16)
    assert encoder(fbank).hidden == ()
    tokens = encoder(fbank, hidden=True)
    expected = [encoder.embed(fbank)]
    for block in encoder.blocks:
        expected.append(block(expected[-1], None))
    assert len(tokens.hidden) == 4
    torch.testing.assert_close(list(tokens.hidden), expected)
    torch.testing.assert_close(tokens.values, encoder.norm(expected[-1]))
    keep = torch.tensor([[0, 3], [1, 5]])
    assert {layer.shape for layer in encoder(fbank, keep=keep, hidden=True).hidden} == {(2, 2, 16)}


def test_what_a_backbone_cannot_do_is_refused_with_who_asks():
    plain = Plain(num_mel_bins=4)
    require(plain, by="nothing")
    require(make_ast(), drop=True, mask=True, by="views.patch_drop=0.5")
    with pytest.raises(ValueError, match=r"views\.patch_drop=0\.5: Plain cannot leave tokens out"):
        require(plain, drop=True, by="views.patch_drop=0.5")
    with pytest.raises(ValueError, match=r"objective=mae: Plain has no mask token"):
        require(plain, mask=True, by="objective=mae")
    with pytest.raises(ValueError, match=r"Plain cannot replace patches .* set views\.patch_drop_mode=drop"):
        plain.enable_mask_token()
    with pytest.raises(ValueError, match=r"Plain has no group_matcher, .* set layer_decay=1"):
        plain.group_matcher()
    assert plain.num_drop_path_draws == 0


def test_a_mask_needs_its_token():
    with pytest.raises(ValueError, match=r"call enable_mask_token\(\)"):
        make_ast()(torch.randn(1, 18, 16), mask=torch.ones(1, 8, dtype=torch.bool))


def test_a_backbone_is_rebuilt_from_its_options(monkeypatch):
    monkeypatch.setitem(MODELS.builders, "plain", Plain)
    made = build_backbone({"name": "plain", "width": 5, "checkpoint": "weights.safetensors"}, num_mel_bins=4)
    assert made.options == {"name": "plain", "width": 5, "num_mel_bins": 4}
    assert build_backbone(made.options).proj.weight.shape == (5, 4)
    with pytest.raises(ValueError, match=r"model\.widht: model=plain has no such option"):
        build_backbone({"name": "plain", "widht": 5}, num_mel_bins=4)
    with pytest.raises(KeyError, match="plane"):
        build_backbone({"name": "plane"}, num_mel_bins=4)


def test_every_weight_of_the_ast_is_grouped_with_its_layer():
    from timm.models import group_parameters

    encoder = make_ast(depth=3, positions="learned")
    encoder.enable_mask_token()
    layers = group_parameters(encoder, encoder.group_matcher(), reverse=True)
    for name, layer in layers.items():
        first, _, rest = name.partition(".")
        expected = {"patch_embed": 0, "pos_embed": 0, "mask_token": 0, "norm": 4}.get(first)
        assert layer == (1 + int(rest.partition(".")[0]) if expected is None else expected), name
    assert layers.keys() == dict(encoder.named_parameters()).keys()
