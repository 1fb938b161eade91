"""Check weights of timm's Swin in HTS-AT: the same tokens, fitted windows, refusals."""

import pytest
import timm
import torch
from parts import make_ast, make_htsat
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from vcrast.models.pretrained import load_encoder
from vcrast.models.swin_weights import fit_windows
from vcrast.models.transfer import Transfer

SIZES = {"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "mlp_ratio": 2.0}


@register_model
def swin_toy(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **options):
    return SwinTransformer(**{**SIZES, "window_size": 4, **options})


@pytest.fixture
def swin(tmp_path):
    """A Swin of three colours with random weights, and the file they lie in."""
    torch.manual_seed(0)
    found = timm.create_model("swin_toy", num_classes=5)
    for weight in found.parameters():
        nn.init.normal_(weight, mean=0.1, std=0.3)
    path = tmp_path / "swin.safetensors"
    save_file({name: value.contiguous() for name, value in found.state_dict().items()}, path)
    return found.eval(), path


@pytest.mark.parametrize("kernels", [None, "mean", "sum"])
def test_a_grey_image_gives_the_tokens_of_the_image_model(swin, kernels):
    model, path = swin
    encoder = make_htsat(num_chunks=1, num_frames=16).eval()
    assert load_encoder(encoder, f"timm:swin_toy@{path}", transfer=Transfer(kernels=kernels)) == []
    fbank = torch.randn(2, 16, 16)
    grey = encoder.fold(fbank).detach() / (1 if kernels == "sum" else 3)
    expected = model.forward_features(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(encoder(fbank).values, encoder.unfold(expected), rtol=1e-4, atol=1e-4)
    assert (encoder.mel_scale == 2).all()


def test_tables_of_relative_positions_are_fitted_to_other_windows(swin):
    model, path = swin
    encoder = make_htsat(window_size=6)
    load_encoder(encoder, f"timm:swin_toy@{path}")
    ours, theirs = (each.layers[0].blocks[1].attn for each in (encoder, model))
    assert (ours.window_size, theirs.window_size) == ((6, 6), (4, 4))
    small, large = (
        each.relative_position_bias_table.reshape(2 * each.window_size[0] - 1, -1) for each in (theirs, ours)
    )
    torch.testing.assert_close(large[5, 5], small[3, 3])  # no distance stays no distance
    torch.testing.assert_close(large[0, 0], small[0, 0])  # and the largest the largest


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({"num_heads": [2, 2], "depths": [2, 1]}, "swin_toy", r"set model\.depths=\[2,2\] model\.num_heads=\[1,2\]"),
        ({}, "vit_tiny_patch16_224", "is a VisionTransformer, and model=htsat a Swin transformer"),
        ({}, "swin_toys", "has no such model"),
    ],
)
def test_another_model_is_refused_in_one_line(swin, options, name, message):
    with pytest.raises(ValueError, match=message) as error:
        load_encoder(make_htsat(**options), f"timm:{name}@{swin[1]}")
    assert "\n" not in str(error.value)


def test_a_file_alone_or_another_encoder_says_what_to_give(swin, tmp_path):
    with pytest.raises(ValueError, match="for a Swin's model=htsat and timm:NAME@FILE"):
        load_encoder(make_htsat(), swin[1])
    with pytest.raises(ValueError, match="is a SwinTransformer, not a plain vision transformer"):
        load_encoder(make_ast(), f"timm:swin_toy@{swin[1]}")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not weights of this model"):
        load_encoder(make_htsat(), f"timm:swin_toy@{tmp_path / 'other.safetensors'}")


@pytest.mark.parametrize(("old", "new"), [((4, 4), (4, 2)), ((4, 2), (4, 4)), ((3, 3), (3, 3)), ((5, 5), (2, 2))])
def test_a_distance_keeps_its_bias_by_loops(old, new):
    table = torch.arange((2 * old[0] - 1) * (2 * old[1] - 1) * 2.0).reshape(-1, 2)
    found = fit_windows(table, new).reshape(2 * new[0] - 1, 2 * new[1] - 1, 2)
    for down in range(1 - new[0], new[0]):
        for right in range(1 - new[1], new[1]):
            near = [max(1 - most, min(most - 1, far)) for far, most in zip((down, right), old, strict=True)]
            place = (near[0] + old[0] - 1) * (2 * old[1] - 1) + near[1] + old[1] - 1
            assert found[down + new[0] - 1, right + new[1] - 1].tolist() == table[place].tolist()


def test_a_table_of_unknown_windows_is_left_alone():
    table = torch.zeros(22, 1)
    assert fit_windows(table, (4, 4)) is table
