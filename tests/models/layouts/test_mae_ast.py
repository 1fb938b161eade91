"""Check MAE-AST's layout against a forward written from the paper."""

import math

import pytest
import torch
from foreign_weights import attention, drawn, in_float64, linear, norm
from shipped import shipped
from torch import nn

from vcrast.cli.main import main
from vcrast.features.fbank import Fbank
from vcrast.inference import load

WIDTH = 128


def save(path, *, cfg=None, **changes):
    """MAE-AST as fairseq saves it, of two blocks: encoder, decoder, two heads, statistics of the input."""
    shapes = {"post_extract_proj.weight": (WIDTH, 256), "post_extract_proj.bias": (WIDTH,), "mask_emb": (WIDTH,)}
    for part, depth in (("encoder", 2), ("decoder", 1)):
        shapes |= {f"{part}.layer_norm.{end}": (WIDTH,) for end in ("weight", "bias")}
        for number in range(depth):
            layer = f"{part}.layers.{number}"
            for name in ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"):
                shapes |= {f"{layer}.{name}.weight": (WIDTH, WIDTH), f"{layer}.{name}.bias": (WIDTH,)}
            for name in ("self_attn_layer_norm", "final_layer_norm"):
                shapes |= {f"{layer}.{name}.{end}": (WIDTH,) for end in ("weight", "bias")}
            shapes |= {f"{layer}.fc1.weight": (192, WIDTH), f"{layer}.fc1.bias": (192,)}
            shapes |= {f"{layer}.fc2.weight": (WIDTH, 192), f"{layer}.fc2.bias": (WIDTH,)}
    for name in ("final_proj_reconstruction", "final_proj_classification"):
        shapes |= {f"{name}.weight": (256, WIDTH), f"{name}.bias": (256,)}
    tensors = drawn(shapes)
    tensors |= {
        "batch_norm.running_mean": torch.tensor([-7.5]), "batch_norm.running_var": torch.tensor([14.0]),
        "batch_norm.num_batches_tracked": torch.tensor(9),
    }  # fmt: skip
    tensors = {name: value for name, value in {**tensors, **changes}.items() if value is not None}
    torch.save({"args": None, "cfg": {"model": cfg or {}}, "model": tensors, "extra_state": {"epoch": 1}}, path)
    return in_float64(tensors)


def by_hand(weights, fbank, size):
    """Baade et al. 2022: (T, F) normalised -> (N, D); time-major patches, sinusoids, norms behind the branches."""
    tokens = []
    for t in range(fbank.shape[0] // size[0]):
        for f in range(fbank.shape[1] // size[1]):
            patch = fbank[t * size[0] : (t + 1) * size[0], f * size[1] : (f + 1) * size[1]]
            place, row = len(tokens), torch.zeros(WIDTH, dtype=torch.float64)
            for pair in range(WIDTH // 2):
                angle = place / 10000 ** (2 * pair / WIDTH)
                row[2 * pair], row[2 * pair + 1] = math.sin(angle), math.cos(angle)
            tokens.append(linear(weights, "post_extract_proj", patch.flatten()) + row)
    tokens = norm(weights, "encoder.layer_norm", torch.stack(tokens), 1e-5)
    for number in range(2):
        layer = f"encoder.layers.{number}"
        q, k, v = (linear(weights, f"{layer}.self_attn.{name}_proj", tokens) for name in "qkv")
        mixed = linear(weights, f"{layer}.self_attn.out_proj", attention(q, k, v, 2))
        tokens = norm(weights, f"{layer}.self_attn_layer_norm", tokens + mixed, 1e-5)
        hidden = linear(weights, f"{layer}.fc2", nn.functional.gelu(linear(weights, f"{layer}.fc1", tokens)))
        tokens = norm(weights, f"{layer}.final_layer_norm", tokens + hidden, 1e-5)
    return tokens


@pytest.mark.parametrize(
    ("cfg", "words", "size"),
    [
        ({}, [], (16, 16)),
        ({}, ["--patch-size", "2,128"], (2, 128)),
        ({"ast_kernel_size_time": 2, "ast_kernel_size_chan": 128}, [], (2, 128)),
    ],
)
def test_the_encoder_gives_the_papers_tokens(tmp_path, cfg, words, size, caplog):
    weights = save(tmp_path / "mae.pt", cfg=cfg)
    with caplog.at_level("INFO"):
        assert (
            main(["import", str(tmp_path / "mae.pt"), "--out", str(tmp_path / "out"), "--frames", "160", *words]) == 0
        )
    model = load(tmp_path / "out")
    model.encoder.double()
    fbank = torch.randn(1, 160, 128, dtype=torch.float64)
    expected = by_hand(weights, fbank[0], size)
    tokens = model.encoder(fbank)
    torch.testing.assert_close(tokens.values[0], expected, atol=1e-5, rtol=1e-5)  # the table is float32
    torch.testing.assert_close(model.vectors(tokens)[0], expected.mean(dim=0), atol=1e-5, rtol=1e-5)
    shorter = fbank[:, :64]
    torch.testing.assert_close(
        model.encoder(shorter).values[0], by_hand(weights, shorter[0], size), atol=1e-5, rtol=1e-5
    )
    left = caplog.text.partition("left out: ")[2]
    assert "decoder (" in left
    assert "final_proj_reconstruction" in left


def test_its_front_end_is_the_batch_norm_halved_on_kaldis_window(tmp_path):
    save(tmp_path / "mae.pt")
    assert main(["import", str(tmp_path / "mae.pt"), "--out", str(tmp_path / "out")]) == 0
    features = load(tmp_path / "out").features
    wav = 0.1 * torch.randn(1, 16000)
    raw = Fbank(**shipped("features/fbank", sample_rate=16000, window="povey"))(wav)
    layer = nn.BatchNorm2d(1, affine=False).eval()
    layer.running_mean, layer.running_var = torch.tensor([-7.5]), torch.tensor([14.0])
    torch.testing.assert_close(features(wav), 0.5 * layer(raw[None])[0], atol=1e-5, rtol=1e-5)


ODD = [
    ({"post_extract_proj.weight": torch.zeros(WIDTH, 200)}, {}, "say --patch-size"),
    ({"encoder.layer_norm.weight": None}, {}, "no encoder.layer_norm.weight; not MAE-AST's layout"),
    ({"layer_norm.weight": torch.zeros(256)}, {}, "norms each patch before it is embedded"),
    ({"encoder.layers.0.extra.weight": torch.zeros(2)}, {}, "encoder.layers.0.extra.weight is a part that"),
    ({}, {"layer_norm_first": True}, "trained with layer_norm_first"),
    ({"encoder.layers.1.fc1.bias": torch.zeros(5)}, {}, "blocks.1.fc1.bias is (5,), the encoder's (192,)"),
]


@pytest.mark.parametrize(("changes", "cfg", "message"), ODD)
def test_another_layout_is_one_line(tmp_path, capsys, changes, cfg, message):
    save(tmp_path / "mae.pt", cfg=cfg, **changes)
    assert main(["import", str(tmp_path / "mae.pt"), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_missing_statistics_are_said(tmp_path, caplog):
    save(tmp_path / "mae.pt", **{"batch_norm.running_mean": None})
    assert main(["import", str(tmp_path / "mae.pt"), "--out", str(tmp_path / "out")]) == 0
    assert "has no mean and variance of its input (batch_norm); say --mean and --std of its data" in caplog.text
