import pytest
import timm
import torch
from parts import make_ast
from safetensors.torch import save_file

from vcrast.config.registry import ATTENTIONS
from vcrast.models.pretrained import fill, fit_positions, from_timm, load_encoder

HEIGHT, WIDTH = 64, 112  # mel bins and frames: 4 x 7 patches, so that a mixed-up axis shows


def vit_tiny(channels, **options):
    torch.manual_seed(1)
    vit = timm.create_model(
        "vit_tiny_patch16_224", in_chans=channels, img_size=(HEIGHT, WIDTH), num_classes=0, **options
    )
    for weight in vit.parameters():  # biases start at 0, which would hide a lost one
        torch.nn.init.normal_(weight, std=0.05)
    return vit.eval()


def tiny(num_frames=WIDTH, positions="learned", num_mel_bins=HEIGHT, **options):
    sizes = {"embed_dim": 192, "depth": 12, "num_heads": 3, "mlp_ratio": 4.0, "patch_size": [16, 16]}
    given = {"positions": positions, "num_mel_bins": num_mel_bins, "num_frames": num_frames}
    return make_ast(**{**sizes, **given, **options}).eval()


@torch.no_grad()
def test_same_weights_same_tokens_as_timm():
    vit = vit_tiny(1, class_token=False, global_pool="", fc_norm=False)
    encoder = tiny()
    fill(encoder, from_timm(vit.state_dict(), grid=(4, 7)), "timm")
    assert {m.eps for m in encoder.modules() if isinstance(m, torch.nn.LayerNorm)} == {vit.norm.eps}
    fbank = torch.randn(2, WIDTH, HEIGHT)
    theirs = vit.forward_features(fbank.transpose(1, 2).unsqueeze(1))  # (B, 1, F, T), tokens frequency-major
    theirs = theirs.unflatten(1, (4, 7)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(encoder(fbank).values, theirs, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_colour_kernels_are_summed_and_class_tokens_left_out():
    vit = vit_tiny(3)
    weights = from_timm(vit.state_dict(), grid=(4, 7))
    fbank = torch.randn(1, WIDTH, HEIGHT)
    encoder = tiny()
    fill(encoder, weights, "timm")
    grey = fbank.transpose(1, 2).unsqueeze(1).expand(-1, 3, -1, -1)
    theirs = vit.patch_embed(grey) + vit.pos_embed[:, 1:]
    ours = encoder.embed(fbank).unflatten(1, (7, 4)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_own_file_round_trip_ignores_what_is_not_the_encoder(tmp_path, prefix):
    encoder, other = tiny(positions="sincos"), tiny(positions="sincos", num_frames=64)
    weights = {prefix + name: value for name, value in encoder.state_dict().items()}
    if prefix:
        weights["head.1.weight"] = torch.zeros(3, 192)
    weights[prefix + "mask_token"] = torch.zeros(192)
    save_file(weights, tmp_path / "weights.safetensors")
    load_encoder(other, tmp_path / "weights.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), other.parameters(), strict=True))


def test_learned_positions_are_cropped_at_the_middle_or_stretched():
    table = torch.arange(6.0).reshape(6, 1, 1).expand(6, 2, 4)
    assert fit_positions(table, torch.Size([3, 2, 4]))[:, 0, 0].tolist() == [2, 3, 4]  # from 6 // 2 - 3 // 2
    stretched = fit_positions(table, torch.Size([11, 2, 4]))[:, 0, 0]
    torch.testing.assert_close(stretched, torch.linspace(0, 5, 11))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_encoder(tiny(), tmp_path / "gone.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_encoder(tiny(), tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="no such model"):
        load_encoder(tiny(), "timm:vit_gigantic_none")
    save_file(tiny(positions="sincos").state_dict(), tmp_path / "fixed.safetensors")
    with pytest.raises(ValueError, match=r"pos_embed\.table is missing"):
        load_encoder(tiny(), tmp_path / "fixed.safetensors")
    narrow = tiny(mlp_ratio=2.0, positions="sincos")
    with pytest.raises(ValueError, match=r"fc1.weight is \(768, 192\), the encoder's \(384, 192\)"):
        load_encoder(narrow, tmp_path / "fixed.safetensors")


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
    assert not caplog.records
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
