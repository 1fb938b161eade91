"""Check image weights from files: colours to one channel, positions to another grid."""

import pytest
import timm
import torch
from small_run import small
from test_pretrained_timm import by_timm, make_encoder, make_vit, save_vit
from torch.nn import functional as F

from vcrast.config.resume import resolve
from vcrast.inference import load
from vcrast.models.pretrained import check_checkpoint, checkpoint_digest, load_encoder
from vcrast.models.transfer import Transfer, fit_positions, transfer_of
from vcrast.run import run

NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def vit():
    """Timm's own, every weight drawn; nothing is downloaded."""
    torch.manual_seed(3)
    vit = timm.create_model(NAME, num_classes=5)
    for weight in vit.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return vit.eval()


def tiny():
    return make_encoder((224, 224), embed_dim=192, depth=12, num_heads=3)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a download")

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)


def as_safetensors(vit, folder):
    return save_vit(vit, folder / "vit.safetensors")


def as_pickle(vit, folder):
    torch.save({"model": vit.state_dict(), "epoch": 3}, folder / "vit.pth")
    return folder / "vit.pth"


def as_parallel(vit, folder):
    state = {f"module.{name}": value for name, value in vit.state_dict().items()}
    torch.save({"state_dict": state}, folder / "vit.tar")
    return folder / "vit.tar"


@torch.no_grad()
@pytest.mark.parametrize("save", [as_safetensors, as_pickle, as_parallel])
def test_a_named_model_comes_from_a_file_without_a_network(vit, tmp_path, save):
    encoder, path = tiny(), save(vit, tmp_path)
    assert load_encoder(encoder, f"timm:{NAME}@{path}") == []
    fbank = torch.randn(1, 224, 224)
    torch.testing.assert_close(encoder(fbank).values, by_timm(vit, fbank), atol=1e-4, rtol=1e-4)


def test_the_file_is_checked_before_a_run_and_its_content_counts(vit, tmp_path, monkeypatch):
    path = as_pickle(vit, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("vit.pth", "~/vit.pth", str(path)):
        config = resolve(small(tmp_path / "run", f"model.checkpoint=timm:{NAME}@{given}"))
        assert config.model["checkpoint"] == f"timm:{NAME}@{path}"
    options = {"linear": {"name": "real"}, "features": {}}
    check_checkpoint(config.model, **options)
    before = checkpoint_digest(config.model, fold="1", data={})
    assert len(before) == 16
    path.write_bytes(b"other")
    assert checkpoint_digest(config.model, fold="1", data={}) != before
    for source, error, said in (
        (f"timm:{NAME}@gone.pth", FileNotFoundError, "no such file; give timm:NAME@FILE"),
        (f"timm:vit_tinny_patch16_224@{path}", ValueError, "did you mean vit_tiny_patch16_224"),
    ):
        with pytest.raises(error, match=said):
            check_checkpoint({"checkpoint": source}, **options)
    check_checkpoint({"checkpoint": f"timm:vit_small_patch16_36x1_224@{path}"}, **options)  # timm has no weights of it
    assert checkpoint_digest({"checkpoint": f"timm:{NAME}"}, fold="1", data={}) is None


class Code:
    def __reduce__(self):
        return print, ("code ran",)


def test_files_of_other_things_are_refused_in_one_line(vit, tmp_path, capsys):
    small_vit = save_vit(make_vit(), tmp_path / "small.safetensors")
    wide = save_vit(make_vit((224, 224), channels=3), tmp_path / "wide.safetensors")
    half = {name: value for name, value in vit.state_dict().items() if "blocks.1" not in name}
    torch.save(half, tmp_path / "half.pth")
    torch.save({"model": vit.state_dict(), "hook": Code()}, tmp_path / "code.pth")
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    for path, said in (
        (small_vit, ""),
        (wide, "size mismatch"),
        (tmp_path / "half.pth", r"no blocks\.1\.norm1\.weight and 35 more"),
        (tmp_path / "code.pth", ""),
        (tmp_path / "bad.pth", ""),
        (tmp_path / "bad.safetensors", ""),
    ):
        with pytest.raises(ValueError, match=rf"{path.name}: not weights of this model \(.*{said}") as error:
            load_encoder(tiny(), f"timm:{NAME}@{path}")
        assert "\n" not in str(error.value)
    assert "code ran" not in capsys.readouterr().out


@torch.no_grad()
@pytest.mark.parametrize(("kernels", "share"), [(None, 1.0), ("sum", 1.0), ("mean", 1 / 3)])
def test_kernels_of_colours_are_summed_or_averaged(tmp_path, kernels, share):
    vit, encoder = make_vit(channels=3), make_encoder()
    path = save_vit(vit, tmp_path / "v.safetensors")
    load_encoder(encoder, path, transfer=Transfer(kernels=kernels))
    fbank = torch.randn(2, 112, 64)
    expected = by_timm(vit, share * fbank)  # each colour has that share of a grey image
    torch.testing.assert_close(encoder(fbank).values, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(9, 5), (24, 14), (20, 5), (40, 3)])
def test_positions_are_cut_as_ast_does_or_stretched_whole(shape):
    table, size = torch.randn(24, 14, 8), torch.Size([*shape, 8])
    image = table.permute(2, 0, 1)[None]
    whole = F.interpolate(image, size=shape, mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
    torch.testing.assert_close(fit_positions(table, size, how="stretch"), whole, atol=1e-5, rtol=1e-5)
    # AST's code: 12 - n // 2 of 24; here from the middle of either axis.
    starts = [max(0, old // 2 - new // 2) for old, new in zip((24, 14), shape, strict=True)]
    cut = image[..., starts[0] : starts[0] + shape[0], starts[1] : starts[1] + shape[1]]
    cut = F.interpolate(cut, size=shape, mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
    for how in (None, "cut"):
        torch.testing.assert_close(fit_positions(table, size, how=how), cut, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"checkpoint_kernels": "avg"}, r"model\.checkpoint_kernels=avg: choose from mean, sum"),
        ({"checkpoint_positions": "cutt"}, r"model\.checkpoint_positions=cutt: did you mean cut\?"),
        ({"checkpoint_kernels": "mean", "checkpoint": None}, "without effect, model.checkpoint names no weights"),
        ({"checkpoint_positions": "cut", "positions": "sincos"}, "without effect under model.positions=sincos"),
    ],
)
def test_ways_that_do_not_exist_or_have_no_effect_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        transfer_of({"checkpoint": "x", "positions": "learned", **options})


def test_an_encoder_of_ours_has_no_colours_to_join(tmp_path):
    save_vit(make_encoder(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"is no image model; leave model\.checkpoint_kernels=mean out"):
        load_encoder(make_encoder(), tmp_path / "weights.safetensors", transfer=Transfer(kernels="mean"))


@pytest.mark.slow
def test_a_run_starts_from_the_file_in_the_way_that_is_asked_for(tmp_path):
    vit = save_vit(make_vit((128, 128), channels=3), tmp_path / "vit.safetensors")
    words = small(
        tmp_path / "run", "stages=[finetune]", f"model.checkpoint={vit}", "model.checkpoint_kernels=mean",
        "model.checkpoint_positions=stretch", "model.positions=learned", "model.embed_dim=24", "model.num_heads=3",
        "finetune.steps=1", "finetune.optim.lr=1e-12", "model.mlp_ratio=4.0",
    )  # fmt: skip
    folder = run(resolve(words), words)
    found, given = load(folder).encoder.state_dict(), make_vit((128, 128), channels=3).state_dict()
    kernel = given["patch_embed.proj.weight"].mean(dim=1, keepdim=True).transpose(2, 3)
    torch.testing.assert_close(found["patch_embed.proj.weight"], kernel, atol=1e-5, rtol=1e-5)
    table = given["pos_embed"][0, 1:].unflatten(0, (8, 8)).transpose(0, 1)
    expected = fit_positions(table, found["pos_embed.table"].shape, how="stretch")
    assert table.shape != expected.shape
    torch.testing.assert_close(found["pos_embed.table"], expected, atol=1e-5, rtol=1e-5)
