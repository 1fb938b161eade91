import re

import pytest
import torch
from exported import write_model
from parts import make_ast
from safetensors.torch import save_file

from vcrast.config.registry import ATTENTIONS
from vcrast.models.pretrained import fill, fit_positions, left_out, load_encoder


def tiny(num_frames=112, positions="learned", num_mel_bins=64, **options):
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 4.0, "patch_size": [16, 16]}
    given = {"positions": positions, "num_mel_bins": num_mel_bins, "num_frames": num_frames}
    return make_ast(**{**sizes, **given, **options}).eval()


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_own_file_round_trip_ignores_what_is_not_the_encoder(tmp_path, prefix, caplog):
    encoder, other = tiny(positions="sincos"), tiny(positions="sincos", num_frames=64)
    weights = {prefix + name: value for name, value in encoder.state_dict().items()}
    if prefix:
        weights["head.1.weight"] = torch.zeros(3, 24)
    weights[prefix + "mask_token"] = torch.zeros(24)
    save_file(weights, tmp_path / "weights.safetensors")
    with caplog.at_level("INFO"):
        assert not load_encoder(other, tmp_path / "weights.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), other.parameters(), strict=True))
    total = len(encoder.state_dict())
    assert f"{total} of {total} tensors" in caplog.text
    assert ("left out: head (3 classes)" in caplog.text) is bool(prefix)
    assert len(caplog.records) == 1


def test_learned_positions_are_cropped_at_the_middle_or_stretched():
    table = torch.arange(6.0).reshape(6, 1, 1).expand(6, 2, 4)
    assert fit_positions(table, torch.Size([3, 2, 4]))[:, 0, 0].tolist() == [2, 3, 4]  # from 6 // 2 - 3 // 2
    stretched = fit_positions(table, torch.Size([11, 2, 4]))[:, 0, 0]
    torch.testing.assert_close(stretched, torch.linspace(0, 5, 11))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.checkpoint=.*no such file or folder; give a run.*timm:NAME"):
        load_encoder(tiny(), tmp_path / "gone.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_encoder(tiny(), tmp_path / "bad.safetensors")
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"bad\.pth: a pickle can run code.*save_file"):
        load_encoder(tiny(), tmp_path / "bad.pth")


SMALL = {"embed_dim": 384, "num_heads": 6, "depth": 12}


@pytest.mark.parametrize(
    ("theirs", "own", "message"),
    [
        ({}, {"mlp_ratio": 2.0}, r"MLPs 4\.0 times as wide\).*MLPs 2\.0 times as wide\); set model\.mlp_ratio=4\.0,"),
        ({}, {"positions": "learned"}, r"no learned positions; set model\.positions=sincos,"),
        ({"patch_size": [8, 16]}, {}, r"patches of \[8,16\], here \[16, 16\]; set model\.patch_size=\[8,16\],"),
        (
            SMALL,
            {},
            r"model=small \(384 wide, 12 blocks\), this run builds a model \(24 wide, 2 blocks\); set model=small,",
        ),
        ({"depth": 3}, {}, r"24 wide, 3 blocks\), .* set model\.depth=3,"),
        (
            {"linear": {"name": "quaternion", "module": "extensions.quaternion.linear", "init": "he"}},
            {},
            r"is missing; .* 57 more",
        ),
    ],
)
def test_another_model_is_told_in_words(tmp_path, theirs, own, message):
    fixed = {"positions": "sincos"}
    save_file(tiny(**{**fixed, **theirs}).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=message) as error:
        load_encoder(tiny(**{**fixed, **own}), tmp_path / "weights.safetensors")
    assert "\n" not in str(error.value)


def test_learned_positions_that_sincos_drops_are_said(tmp_path):
    save_file(tiny().state_dict(), tmp_path / "weights.safetensors")
    warnings = load_encoder(tiny(positions="sincos"), tmp_path / "weights.safetensors")
    assert len(warnings) == 1
    assert "not used under model.positions=sincos; set model.positions=learned" in warnings[0]


def test_what_is_left_out_is_told_by_its_parts():
    tensors = {
        "head.1.weight": torch.zeros(527, 8), "head.1.bias": torch.zeros(527), "cls_token": torch.zeros(1, 1, 8),
        "decoder_blocks.0.weight": torch.zeros(2, 2), "decoder_blocks.0.bias": torch.zeros(2),
    }  # fmt: skip
    assert left_out(tensors) == "head (527 classes), cls_token, decoder_blocks (2 tensors)"


def test_the_encoder_is_found_under_any_prefix_and_several_are_refused(tmp_path):
    one, other = tiny(), tiny()
    weights = {f"module.v.{name}": value for name, value in one.state_dict().items()}
    save_file({**weights, "module.mlp_head.weight": torch.zeros(5, 24)}, tmp_path / "one.safetensors")
    load_encoder(other, tmp_path / "one.safetensors")
    torch.testing.assert_close(other.state_dict(), one.state_dict())
    more = {name.replace("module.v", "teacher"): value + 1 for name, value in weights.items()}
    save_file({**weights, **more}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=r"several encoders \(module\.v\., teacher\.\)"):
        load_encoder(other, tmp_path / "two.safetensors")


def test_names_of_other_libraries_are_recognised(tmp_path):
    name = "audio_spectrogram_transformer.encoder.layer.0.attention.attention.query.weight"
    save_file({name: torch.zeros(2, 2)}, tmp_path / "hf.safetensors")
    with pytest.raises(ValueError, match="names of Hugging Face transformers"):
        load_encoder(tiny(), tmp_path / "hf.safetensors")


@pytest.mark.parametrize(
    ("theirs", "own", "message"),
    [
        ({"norms": "post"}, {}, r"norms=post, here pre; set model\.norms=post,"),
        ({"positions_stride": [10, 10]}, {}, r"positions of patches every \[10,10\], here \[16, 16\]; set model\.posi"),
        ({"positions_stride": [16, 16]}, {}, ""),
        (
            {},
            {"positions_stride": [10, 10]},
            r"every \[16,16\], here \[10, 10\]; set model\.positions_stride=\[16,16\],",
        ),
        ({"positions_stride": [10, 10]}, {"positions": "sincos"}, "its learned positions are not used"),
        ({"norm_eps": 1e-12}, {}, r"it was made with model\.norm_eps=1e-12, this run has 1e-06"),
    ],
)
def test_options_that_no_tensor_tells_are_compared(tmp_path, theirs, own, message):
    write_model(tmp_path, encoder=tiny(**{"positions": "learned", **theirs}))
    try:
        said = load_encoder(tiny(**{"positions": "learned", **own}), tmp_path)
    except ValueError as error:
        said = [str(error)]
    assert re.search(message, "\n".join(said)) if message else said == []


class Owning(torch.nn.Module):
    """A backend that mixes nothing and owns a weight and a buffer."""

    def __init__(self, *, num_heads, head_dim, size=3):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(num_heads))
        self.register_buffer("table", torch.randn(size))

    def forward(self, q, k, v):
        return v


def test_what_a_backend_owns_may_differ_and_the_rest_may_not(monkeypatch, caplog):
    monkeypatch.setitem(ATTENTIONS.builders, "owning", Owning)
    one, same, larger = (make_ast(embed_dim=8, attention={"name": "owning", "size": size}) for size in (3, 3, 4))
    plain = make_ast(embed_dim=8)
    fill(same, one.state_dict(), "one.safetensors")
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in one.state_dict().items())
    assert "another attention backend" not in caplog.text
    with caplog.at_level("INFO"):
        before = larger.state_dict()["blocks.1.attn.mix.table"].clone()
        fill(larger, one.state_dict(), "one.safetensors")
        fill(plain, one.state_dict(), "one.safetensors")
    assert torch.equal(larger.state_dict()["blocks.1.attn.mix.table"], before)
    assert torch.equal(larger.blocks[1].attn.mix.weight, one.blocks[1].attn.mix.weight)
    assert torch.equal(plain.blocks[1].attn.q.weight, one.blocks[1].attn.q.weight)
    assert "kept as built: blocks.0.attn.mix.table, blocks.1.attn.mix.table" in caplog.text
    assert "left out: blocks.0.attn.mix.table, blocks.0.attn.mix.weight" in caplog.text
    fill(one, plain.state_dict(), "plain.safetensors")
    weights = plain.state_dict()
    del weights["blocks.0.attn.q.weight"]
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.q\.weight is missing"):
        fill(one, weights, "plain.safetensors")
