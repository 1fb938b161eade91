import json

import pytest
import timm
import torch
from parts import make_ast
from safetensors.torch import save_file

from vcrast.models.pretrained import fill, load_encoder
from vcrast.models.timm_weights import ImageGrid, find_grid, from_timm

WHERE = "model.checkpoint=x"


def make_vit(size=(64, 112), patch=(16, 16), channels=1, name="vit_tiny_patch16_224", **options):
    """A narrow ViT of two blocks, every weight drawn: zeros and ones would hide a lost tensor."""
    torch.manual_seed(1)
    usual = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 0}
    vit = timm.create_model(name, in_chans=channels, img_size=size, patch_size=patch, **{**usual, **options})
    for weight in vit.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return vit.eval()


def make_encoder(size=(64, 112), patch=(16, 16), positions="learned", **options):
    usual = {
        "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 4.0, "patch_size": list(patch[::-1]),
        "positions": positions, "num_mel_bins": size[0], "num_frames": size[1],
    }  # fmt: skip
    return make_ast(**{**usual, **options}).eval()


def save_vit(vit, path):
    save_file({name: value.contiguous() for name, value in vit.state_dict().items()}, path)
    return path


@torch.no_grad()
def by_timm(vit, fbank):
    """(B, T, F) -> (B, N, D) by timm's own layers, the class and register tokens and the norm behind the mean aside."""
    image = fbank.transpose(1, 2).unsqueeze(1).expand(-1, vit.in_chans, -1, -1)  # (B, C, F, T)
    num_patches = vit.patch_embed.num_patches
    tokens = vit.patch_embed(image) + vit.pos_embed[:, vit.pos_embed.shape[1] - num_patches :]
    if not vit.num_prefix_tokens:
        torch.testing.assert_close(vit.norm(vit.blocks(tokens)), vit.forward_features(image))
    tokens = vit.fc_norm(vit.norm(vit.blocks(tokens)))
    return tokens.unflatten(1, vit.patch_embed.grid_size).transpose(1, 2).flatten(1, 2)


SHAPES = [
    ((128, 128), (16, 16)),
    ((128, 1024), (16, 16)),
    ((64, 256), (16, 16)),
    ((64, 256), (8, 16)),
    ((64, 112), (16, 8)),
]
KINDS = {
    "patches only": {"class_token": False, "global_pool": "", "fc_norm": False},
    "class token": {},
    "registers": {"reg_tokens": 4},
    "registers without positions": {"reg_tokens": 4, "no_embed_class": True},
    "distilled": {"name": "deit_tiny_distilled_patch16_224"},
    "norm behind the mean": {"global_pool": "avg", "class_token": False},
    "layer scale": {"init_values": 1e-5},
    "no bias of q, k, v": {"qkv_bias": False},
    "no bias of other layers": {"proj_bias": False},
    "colours": {"channels": 3},
}  # fmt: skip


def assert_equals_timm(tmp_path, vit, encoder):
    load_encoder(encoder, save_vit(vit, tmp_path / "vit.safetensors"))
    fbank = torch.randn(2, encoder.num_frames, encoder.num_mel_bins)
    with torch.no_grad():
        torch.testing.assert_close(encoder(fbank).values, by_timm(vit, fbank), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("size", "patch"), SHAPES)
def test_the_file_of_a_vit_of_any_shape_gives_timms_tokens(tmp_path, size, patch):
    assert_equals_timm(tmp_path, make_vit(size, patch, **KINDS["patches only"]), make_encoder(size, patch))


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_the_file_of_a_vit_of_any_kind_gives_timms_tokens(tmp_path, options):
    assert_equals_timm(tmp_path, make_vit(**options), make_encoder())


def test_a_norm_behind_the_mean_is_said(tmp_path):
    vit = make_vit(**KINDS["norm behind the mean"])
    (warning,) = load_encoder(make_encoder(), save_vit(vit, tmp_path / "v.safetensors"))
    assert "after the mean over the patches (fc_norm), here it comes before" in warning


def positions(length, **tokens):
    return {
        "pos_embed": torch.zeros(1, length, 8),
        **{name: torch.zeros(1, count, 8) for name, count in tokens.items()},
    }


@pytest.mark.parametrize(
    ("weights", "own", "expected", "doubt"),
    [
        (positions(512), (64, 8), (8, 64), False),
        (positions(513, cls_token=1), (64, 8), (8, 64), False),
        (positions(514, cls_token=1, dist_token=1), (64, 8), (8, 64), False),
        (positions(512, cls_token=1, reg_token=4), (64, 8), (8, 64), False),  # no vectors for these tokens
        (positions(197, cls_token=1), (64, 8), (14, 14), False),
        (positions(198, cls_token=1, dist_token=1), (64, 8), (14, 14), False),
        (positions(64), (8, 8), (8, 8), False),
        (positions(257, cls_token=1), (32, 8), (8, 32), True),  # or an image of 16 x 16
        (positions(401, cls_token=1), (64, 8), (20, 20), False),
        (positions(800), (64, 8), (8, 100), True),
    ],
)
def test_the_grid_is_told_from_the_number_of_positions(weights, own, expected, doubt):
    grid, text = find_grid(weights, own, WHERE)
    assert (grid.height, grid.width, grid.time_first, bool(text)) == (*expected, False, doubt)


def test_a_number_of_positions_without_a_grid_is_refused():
    with pytest.raises(
        ValueError, match=r"1001 positions, which fit neither this run's 8 x 64.*load the model by name"
    ):
        find_grid(positions(1002, cls_token=1), (64, 8), WHERE)


def test_positions_under_sincos_are_dropped_aloud(tmp_path):
    vit = make_vit()
    (warning,) = load_encoder(make_encoder(positions="sincos"), save_vit(vit, tmp_path / "v.safetensors"))
    assert "not used under model.positions=sincos" in warning


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qk_norm": True}, "qk_norm"),
        ({"pre_norm": True}, "a norm before the blocks"),
        ({"scale_mlp_norm": True}, "norms inside attention or MLP"),
        ({"mlp_layer": timm.layers.SwiGLU}, "SwiGLU"),
        ({"mlp_layer": timm.layers.GluMlp}, "SwiGLU"),
        ({"block_fn": timm.models.vision_transformer.ParallelThingsBlock}, "parallel blocks"),
    ],
)
def test_parts_that_this_encoder_lacks_are_named(tmp_path, options, message):
    path = save_vit(make_vit(**options), tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=f"has .*{message}.*, which this encoder does not compute") as error:
        load_encoder(make_encoder(), path)
    assert "\n" not in str(error.value)


def test_several_channels_are_refused(tmp_path):
    path = save_vit(make_vit(), tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match="set features=fbank"):
        load_encoder(make_encoder(num_channels=4), path)


def publish(folder, vit, **arguments):
    """A model as it lies on a hub."""
    folder.mkdir()
    save_vit(vit, folder / "model.safetensors")
    size = {"img_size": list(vit.patch_embed.img_size), "patch_size": list(vit.patch_embed.patch_size)}
    given = {"embed_dim": 24, "depth": 2, "num_heads": 3, "in_chans": vit.in_chans, **size, **arguments}
    content = {
        "architecture": "vit_tiny_patch16_224", "num_classes": 0, "num_features": 24, "global_pool": "token",
        "model_args": given, "pretrained_cfg": {"num_classes": 0, "input_size": [vit.in_chans, *size["img_size"]]},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    return f"local-dir:{folder}"


@pytest.mark.parametrize("prefix", ["hf-hub:ORG/NAME", "timm:hf-hub:ORG/NAME"])
def test_a_model_of_a_hub_tells_its_grid(tmp_path, monkeypatch, prefix):
    vit = make_vit((128, 512))  # 256 positions: a file alone would be taken for this run's 8 x 32, or a square
    place, create, asked = publish(tmp_path / "hub", vit), timm.create_model, []

    def from_folder(name, **options):
        asked.append(name)
        return create(place, **options)

    monkeypatch.setattr(timm, "create_model", from_folder)
    encoder = make_encoder((128, 512))
    assert load_encoder(encoder, prefix) == []
    assert asked == ["hf-hub:ORG/NAME"]
    fbank = torch.randn(2, 512, 128)
    with torch.no_grad():
        torch.testing.assert_close(encoder(fbank).values, by_timm(vit, fbank), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_model_that_was_made_with_time_as_height_keeps_its_axes(tmp_path):
    vit = make_vit((512, 128), **KINDS["patches only"])  # as AudioMAE: frames from top to bottom
    encoder = make_encoder((128, 512))
    arguments = {"class_token": False, "global_pool": ""}
    load_encoder(encoder, f"timm:{publish(tmp_path / 'hub', vit, **arguments)}")
    fbank = torch.randn(2, 512, 128)
    torch.testing.assert_close(encoder(fbank).values, vit.forward_features(fbank[:, None]), atol=1e-4, rtol=1e-4)


def test_other_heads_of_equal_width_are_refused(tmp_path):
    source = f"timm:{publish(tmp_path / 'hub', make_vit())}"
    with pytest.raises(ValueError, match=r"3 heads\), this run builds .* 6 heads\); set model\.num_heads=3,"):
        load_encoder(make_encoder(num_heads=6), source)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tinny_patch16_224", r"no such model; did you mean vit_tiny_patch16_224\?"),
        (
            "vit_tiny_patch16_224.augreg_in22k",
            r"no weights augreg_in22k .* did you mean vit_tiny_patch16_224.augreg_in21k",
        ),
        ("zzz", r"no such model; see timm\.list_models"),
        ("vit_small_patch16_36x1_224", "no trained weights for it"),
        ("resnet18", "is a ResNet, not a plain vision transformer"),
        ("vit_base_patch32_clip_quickgelu_224", "a norm before the blocks"),
        ("vit_base_patch16_rpn_224.sw_in1k", "has ResPostBlocks"),
        ("eva02_tiny_patch14_224", "is a Eva"),
        ("hf-hub:", "name a model after the colon"),
    ],
)
def test_names_are_checked_before_anything_is_downloaded(name, message, monkeypatch):
    create = timm.create_model

    def offline(*given, pretrained=False, **options):
        assert not pretrained, "a download"
        return create(*given, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=message) as error:
        load_encoder(make_encoder(), f"timm:{name}")
    assert "\n" not in str(error.value)


def test_a_tag_reaches_timm_and_a_failed_download_is_one_line(monkeypatch):
    create, asked = timm.create_model, []

    def offline(name, *, pretrained=False, **options):
        if pretrained:
            asked.append((name, options["num_classes"]))
            raise OSError("\nno route to the hub\nlong story")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"could not get the weights \(no route to the hub\).*HF_HOME") as error:
        load_encoder(make_encoder(), "timm:vit_tiny_patch16_224.augreg_in21k")
    assert "\n" not in str(error.value)
    assert asked == [("vit_tiny_patch16_224.augreg_in21k", 0)]


@torch.no_grad()
def test_translated_tensors_keep_what_no_encoder_has():
    vit = make_vit(num_classes=5)
    encoder = make_encoder()
    ours = from_timm(vit.state_dict(), ImageGrid(4, 7))
    assert {name for name in ours if name not in encoder.state_dict()} == {"cls_token", "head.weight", "head.bias"}
    assert fill(encoder, ours, WHERE) == []


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (1, {}),
        (1, {"no_embed_class": True}),
        (1, {"reg_tokens": 4}),
        (1, {"name": "deit_tiny_distilled_patch16_224"}),
        (2, {"name": "deit_tiny_distilled_patch16_224"}),
    ],
)
@torch.no_grad()
def test_class_tokens_are_taken_over_with_their_positions(tmp_path, count, options):
    vit, encoder = make_vit(**options), make_encoder(class_tokens=count, pool="class")
    load_encoder(encoder, save_vit(vit, tmp_path / "vit.safetensors"))
    fbank = torch.randn(2, encoder.num_frames, encoder.num_mel_bins)
    if vit.num_prefix_tokens > count:  # what is left out here must not be there in timm's either
        tokens = vit.patch_embed(fbank.transpose(1, 2).unsqueeze(1))
        tokens = vit._pos_embed(tokens)
        tokens = vit.norm(vit.blocks(torch.cat([tokens[:, :count], tokens[:, vit.num_prefix_tokens :]], dim=1)))
    else:
        tokens = vit.forward_features(fbank.transpose(1, 2).unsqueeze(1))
    torch.testing.assert_close(encoder(fbank).class_tokens, tokens[:, :count], atol=1e-4, rtol=1e-4)


def test_class_tokens_that_a_vit_lacks_are_refused(tmp_path):
    path = save_vit(make_vit(), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"has 1 class tokens, here 2; set model\.class_tokens=1"):
        load_encoder(make_encoder(class_tokens=2), path)
    own = tmp_path / "own.safetensors"
    save_file(make_encoder(class_tokens=1).state_dict(), own)
    with pytest.raises(ValueError, match=r"1 class tokens, here 0; set model\.class_tokens=1"):
        load_encoder(make_encoder(), own)
