"""Check the layouts of AST, SSAST and AudioMAE against forwards written from the papers."""

import argparse
import re

import pytest
import timm
import torch
from foreign_weights import blocks_by_hand, drawn, in_float64, linear, norm, patches_by_hand, scores, vit_tensors
from parts import make_ast
from safetensors.torch import save_file

from vcrast.cli.main import main
from vcrast.inference import load
from vcrast.models.layouts import read_model
from vcrast.models.layouts.base import Wishes
from vcrast.models.pretrained import load_encoder

DEIT = {"head.weight": (10, 128), "head.bias": (10,), "head_dist.weight": (10, 128), "head_dist.bias": (10,)}


def head(num_classes, width=128):
    shapes = {"mlp_head.0.weight": (width,), "mlp_head.0.bias": (width,), "mlp_head.1.weight": (num_classes, width),
              "mlp_head.1.bias": (num_classes,)}  # fmt: skip
    return drawn(shapes)


def save_ast(path, num_frames=128, num_classes=35, stride=10, prefix="module."):
    """The AST of its authors, of two blocks: DataParallel's prefix, timm's names under `v`."""
    times = (num_frames - 16) // stride + 1
    vit = {**vit_tensors((112 // stride + 1) * times, (1, 16, 16)), **drawn(DEIT)}
    tensors = {f"{prefix}v.{name}": value for name, value in vit.items()}
    tensors |= {f"{prefix}{name}": value for name, value in head(num_classes).items()}
    torch.save(tensors, path)
    return in_float64({name.removeprefix(prefix).removeprefix("v."): value for name, value in tensors.items()})


def ast_by_hand(weights, fbank, stride=10):
    """Gong et al. 2021, Sec. 2.1: the spectrogram's image, class tokens first, their mean, norm and linear."""
    tokens = patches_by_hand(weights, fbank.T, (stride, stride))
    tokens = torch.cat([weights["cls_token"][0], weights["dist_token"][0], tokens]) + weights["pos_embed"][0]
    tokens = norm(weights, "norm", blocks_by_hand(weights, tokens, num_heads=2), 1e-6)
    vector = (tokens[0] + tokens[1]) / 2
    return linear(weights, "mlp_head.1", norm(weights, "mlp_head.0", vector, 1e-5))


def imported(source, *words):
    out = source.parent / "out"
    assert main(["import", str(source), "--out", str(out), *words]) == 0
    return load(out)


def in_double(model):
    model.encoder.double(), model.head and model.head.double()
    return model


@pytest.mark.parametrize(("num_frames", "num_classes", "stride"), [(128, 35, 10), (512, 50, 10), (1024, 527, 16)])
def test_an_ast_gives_the_papers_scores(tmp_path, num_frames, num_classes, stride, caplog):
    weights = save_ast(tmp_path / "ast.pth", num_frames, num_classes, stride)
    with caplog.at_level("INFO"):
        model = in_double(imported(tmp_path / "ast.pth"))
    fbank = torch.randn(2, num_frames, 128, dtype=torch.float64)
    expected = torch.stack([ast_by_hand(weights, clip, stride) for clip in fbank])
    torch.testing.assert_close(scores(model, fbank), expected)
    assert len(model.labels) == num_classes
    assert model.multilabel is (num_classes == 527)
    assert model.features.num_frames(model.num_samples) == num_frames
    assert "left out: head (10 classes), head_dist (10 classes)" in caplog.text


def test_the_front_end_is_the_asts_by_its_number_of_frames(tmp_path):
    pairs = {128: (-6.845978, 5.5654526), 512: (-6.6268077, 5.358466), 1024: (-4.2677393, 4.5689974)}
    for num_frames, pair in pairs.items():
        save_ast(tmp_path / "ast.pth", num_frames)
        model = imported(tmp_path / "ast.pth")
        assert (model.features.mean, model.features.std) == pair
        (tmp_path / "out" / "model.json").unlink(), (tmp_path / "out" / "weights.safetensors").unlink()


def test_every_stride_of_the_published_ensemble_is_told_from_the_number_of_positions(tmp_path):
    for stride in (10, 12, 14, 16):
        save_ast(tmp_path / "ast.pth", 1024, stride=stride, prefix="")
        options = read_model(tmp_path / "ast.pth", Wishes()).options
        assert (options["patch_stride"], options["num_frames"]) == ([stride, stride], 1024)


def test_an_ast_of_another_length_needs_its_frames(tmp_path, capsys):
    weights = save_ast(tmp_path / "ast.pth", 300)
    assert main(["import", str(tmp_path / "ast.pth"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "348 positions of patches of [16, 16] fit no grid on 1024 or 512 or 128 frames of 128 mel bins" in error
    assert "say --frames" in error
    model = in_double(imported(tmp_path / "ast.pth", "--frames", "300"))
    fbank = torch.randn(1, 300, 128, dtype=torch.float64)
    torch.testing.assert_close(scores(model, fbank)[0], ast_by_hand(weights, fbank[0]))


def test_a_run_takes_the_encoder_and_cuts_its_positions_as_the_ast_does(tmp_path):
    weights = save_ast(tmp_path / "ast.pth", 1024, 527)
    imported(tmp_path / "ast.pth")
    options = {
        "embed_dim": 128, "num_heads": 2, "mlp_ratio": 0.75, "patch_size": [16, 16], "positions": "learned",
        "positions_stride": [10, 10], "patch_stride": [10, 10], "class_tokens": 2, "pool": "class",
        "num_mel_bins": 128,
    }  # fmt: skip
    encoder = make_ast(**options, num_frames=512)
    load_encoder(encoder, tmp_path / "out")
    table = weights["pos_embed"][0, 2:].unflatten(0, (12, 101)).transpose(0, 1)
    torch.testing.assert_close(encoder.pos_embed.table.double(), table[25:75])  # 50 - 50 // 2, 50 of them
    with pytest.raises(
        ValueError, match=r"positions of patches every \[10,10\], here \[16, 16\]; set model\.positions_s"
    ):
        load_encoder(make_ast(**{**options, "positions_stride": None}, num_frames=512), tmp_path / "out")


def save_ssast(path, *, frame=False, prefix="module.", finetuned=False):
    """SSAST of its authors: after pretraining with both heads, the mask's vector and the sizes of its input."""
    kernel = (1, 128, 2) if frame else (1, 16, 16)
    count = 512 if not finetuned else (127 if frame else 12 * 12)
    tensors = {f"{prefix}v.{name}": value for name, value in vit_tensors(count, kernel).items()}
    if finetuned:
        tensors |= {prefix + name: value for name, value in head(35).items()}
    else:
        shapes = {"mask_embed": (1, 1, 128)}
        for name in ("cpredlayer", "gpredlayer"):
            shapes |= {f"{name}.0.weight": (128, 128), f"{name}.0.bias": (128,)}
            shapes |= {f"{name}.2.weight": (256, 128), f"{name}.2.bias": (256,)}
        tensors |= {prefix + name: value for name, value in drawn(shapes).items()}
        tensors |= {f"{prefix}p_input_fdim": torch.tensor(128), f"{prefix}p_input_tdim": torch.tensor(1024)}
    torch.save(tensors, path)
    return in_float64({name.removeprefix(prefix).removeprefix("v."): value for name, value in tensors.items()})


def ssast_by_hand(weights, fbank, stride):
    """Gong et al. 2022, Sec. 3.3: class tokens run along, the vector is the mean of the patches."""
    tokens = patches_by_hand(weights, fbank.T, stride)
    tokens = torch.cat([weights["cls_token"][0], weights["dist_token"][0], tokens]) + weights["pos_embed"][0]
    return norm(weights, "norm", blocks_by_hand(weights, tokens, num_heads=2), 1e-6)[2:].mean(dim=0)


@pytest.mark.parametrize("frame", [False, True], ids=["patch", "frame"])
def test_a_pretrained_ssast_gives_the_papers_vector(tmp_path, frame, caplog):
    weights = save_ssast(tmp_path / "ssast.pth", frame=frame)
    with caplog.at_level("INFO"):
        model = in_double(imported(tmp_path / "ssast.pth"))
    fbank = torch.randn(1, 1024, 128, dtype=torch.float64)
    expected = ssast_by_hand(weights, fbank[0], (128, 2) if frame else (16, 16))
    torch.testing.assert_close(model.vectors(model.encoder(fbank))[0], expected)
    torch.testing.assert_close(model.encoder.mask_token, weights["mask_embed"].flatten())
    assert model.head is None
    assert "left out: cpredlayer (4 tensors), gpredlayer (4 tensors)" in caplog.text


@pytest.mark.parametrize(("frame", "words"), [(False, ["--kind", "ssast"]), (True, [])], ids=["patch", "frame"])
def test_a_finetuned_ssast_pools_its_patches(tmp_path, frame, words, caplog):
    weights = save_ssast(tmp_path / "ssast.pth", frame=frame, finetuned=True)
    model = in_double(imported(tmp_path / "ssast.pth", *words))
    fbank = torch.randn(1, 128, 128, dtype=torch.float64)
    vector = ssast_by_hand(weights, fbank[0], (128, 1) if frame else (10, 10))
    expected = linear(weights, "mlp_head.1", norm(weights, "mlp_head.0", vector, 1e-5))
    torch.testing.assert_close(scores(model, fbank)[0], expected)


def test_an_ast_says_that_it_could_be_a_finetuned_ssast(tmp_path, caplog):
    save_ssast(tmp_path / "ssast.pth", finetuned=True)
    imported(tmp_path / "ssast.pth")
    assert "read as an AST, whose vector is the mean of its class tokens; if SSAST" in caplog.text


def save_audiomae(path, *, finetuned, num_classes=527):
    """AudioMAE: time-major 64 x 8 patches behind a class token; pretrained with decoder, finetuned with `fc_norm`."""
    tensors = vit_tensors(512, (1, 16, 16), tokens=("cls_token",))
    if finetuned:
        del tensors["norm.weight"], tensors["norm.bias"]
        shapes = {f"{name}.bias": (size,) for name, size in (("fc_norm", 128), ("head", num_classes))}
        shapes |= {"fc_norm.weight": (128,), "head.weight": (num_classes, 128)}
    else:
        shapes = {
            "mask_token": (1, 1, 48), "decoder_pos_embed": (1, 513, 48), "decoder_embed.weight": (48, 128),
            "decoder_embed.bias": (48,), "decoder_blocks.0.attn.qkv.weight": (144, 48),
            "decoder_blocks.0.attn.relative_position_bias_table": (49, 3), "decoder_norm.weight": (48,),
            "decoder_norm.bias": (48,), "decoder_pred.weight": (256, 48), "decoder_pred.bias": (256,),
        }  # fmt: skip
    tensors |= drawn(shapes)
    torch.save({"model": tensors, "epoch": 3, "args": argparse.Namespace(lr=1e-3, name="x")}, path)
    return in_float64(tensors)


def audiomae_by_hand(weights, fbank):
    """Huang et al. 2022: patches of (time, frequency), all times of one patch row first, then the next."""
    tokens = patches_by_hand(weights, fbank, (16, 16)) + weights["pos_embed"][0, 1:]
    first = weights["cls_token"][0] + weights["pos_embed"][0, :1]
    return blocks_by_hand(weights, torch.cat([first, tokens]), num_heads=2)


def test_a_pretrained_audiomae_gives_the_papers_tokens(tmp_path, caplog):
    weights = save_audiomae(tmp_path / "mae.pth", finetuned=False)
    with caplog.at_level("INFO"):
        model = in_double(imported(tmp_path / "mae.pth"))
    fbank = torch.randn(1, 1024, 128, dtype=torch.float64)
    expected = norm(weights, "norm", audiomae_by_hand(weights, fbank[0]), 1e-6)
    found = model.encoder(fbank)
    torch.testing.assert_close(found.values[0], expected[1:])
    torch.testing.assert_close(found.class_tokens[0], expected[:1])
    torch.testing.assert_close(model.vectors(found)[0], expected[1:].mean(dim=0))
    for part in ("decoder_embed", "decoder_blocks", "decoder_pred", "mask_token"):
        assert part in caplog.text.partition("left out: ")[2]


def test_a_finetuned_audiomae_has_its_norm_behind_the_mean(tmp_path):
    weights = save_audiomae(tmp_path / "mae.pth", finetuned=True)
    model = in_double(imported(tmp_path / "mae.pth"))
    fbank = torch.randn(1, 1024, 128, dtype=torch.float64)
    vector = audiomae_by_hand(weights, fbank[0])[1:].mean(dim=0)
    expected = linear(weights, "head", norm(weights, "fc_norm", vector, 1e-6))
    torch.testing.assert_close(scores(model, fbank)[0], expected)
    assert (model.multilabel, model.encoder.options["norms"]) == (True, "open")


def test_a_vit_of_timm_is_taken_over_as_the_ast_does_it(tmp_path, caplog):
    usual = {"img_size": 384, "embed_dim": 128, "depth": 1, "num_heads": 2, "num_classes": 5}
    vit = timm.create_model("deit_base_distilled_patch16_384", **usual)
    save_file(vit.state_dict(), tmp_path / "deit.safetensors")
    model = imported(tmp_path / "deit.safetensors", "--patch-stride", "10,10", "--frames", "512")
    assert (model.encoder.grid(512), model.encoder.pooled, model.head) == ((50, 12), "class", None)
    table = vit.pos_embed[0, 2:].unflatten(0, (24, 24)).transpose(0, 1)
    lowest = model.encoder.pos_embed.table[:, 0]
    torch.testing.assert_close(lowest[[0, -1]], table[[0, -1], 12 - 12 // 2])  # time stretched, frequency cut
    kernel = vit.patch_embed.proj.weight.sum(dim=1, keepdim=True).transpose(2, 3)
    torch.testing.assert_close(model.encoder.patch_embed.proj.weight, kernel)
    assert "an image model: its vectors mean nothing for sounds until it is finetuned" in caplog.text


ODD = {
    "v.blocks.1.mlp.fc2.bias": (torch.zeros(7), r"blocks\.1\.fc2\.bias is \(7,\)"),
    "v.blocks.1.attn.qkv.weight": (torch.zeros(384, 64), r"blocks\.1\.attn\.q\.weight is \(128, 64\)"),
    "v.pos_embed": (torch.zeros(1, 146, 64), r"pos_embed is \(1, 146, 64\), not \(1, N, 128\)"),
    "mlp_head.1.weight": (torch.zeros(35, 64), "a layer of its classifier has .* the vector before it is 128 wide"),
    "v.blocks.1.norm1.weight": (None, r"blocks\.1\.norm1\.weight is missing"),
    "v.blocks.0.mlp.fc1.weight": (None, r"no blocks\.0\.mlp\.fc1\.weight"),
    "v.blocks.0.attn.q_norm.weight": (torch.zeros(4), "normalised queries and keys"),
    "v.blocks.0.extra": (torch.zeros(4), r"blocks\.0\.extra is not in the encoder"),
    "mask_embed": (torch.zeros(1, 1, 64), "mask_embed of 64 numbers, the encoder is 128 wide"),
}


@pytest.mark.parametrize("name", ODD)
def test_tensors_that_do_not_go_together_are_one_line(tmp_path, capsys, name):
    save_ast(tmp_path / "ast.pth", prefix="")
    tensors, (value, message) = torch.load(tmp_path / "ast.pth", weights_only=True), ODD[name]
    tensors = {**tensors, name: value} if value is not None else {key: tensors[key] for key in tensors if key != name}
    torch.save(tensors, tmp_path / "odd.pth")
    assert main(["import", str(tmp_path / "odd.pth"), "--kind", "ast", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert re.search(f"^vcrast: error: .*{message}.*$", said, re.MULTILINE)
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
