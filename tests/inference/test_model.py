from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from parts import make_ast
from safetensors.torch import load_file, save_file
from shipped import shipped
from torch import nn

import vcrast
from vcrast.features.fbank import Fbank
from vcrast.inference import load
from vcrast.models.backbone import Backbone
from vcrast.models.export import export, load_head
from vcrast.models.pretrained import load_encoder
from vcrast.training.device import existing_device

RATE = 8000
WINDOW = RATE  # 1 s
LABELS = ("dog", "rain", "sea")
MODEL = {
    "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "patch_size": [16, 16], "patch_stride": None,
    "positions": "sincos", "num_mel_bins": 32, "num_frames": 98, "drop_path": 0.1,
    "attention": {"name": "softmax", "module": "vcrast.models.attention"},
    "linear": {"name": "real", "module": "vcrast.models.linear"},
}  # fmt: skip
FEATURES = shipped("features/fbank", num_mel_bins=32, mean=-7.0, std=3.0)


def parts(seed: int = 0) -> tuple[Backbone, nn.Module]:
    torch.manual_seed(seed)
    return make_ast(**MODEL), nn.Sequential(nn.LayerNorm(16), nn.Dropout(0.5), nn.Linear(16, 3))


def write(folder: Path, *, seed: int = 0, classifier: bool = True, **changes) -> tuple[Backbone, nn.Module]:
    encoder, head = parts(seed)
    options = {
        "features": FEATURES, "labels": LABELS, "multilabel": False, "sample_rate": RATE,
        "clip_duration_s": 1.0, "pad": "silence", "meta": {"recipe": "test", "fold": "1"},
    }  # fmt: skip
    export(folder, encoder=encoder, head=head if classifier else None, **{**options, **changes})
    return encoder.eval(), head.eval()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clip_vector(encoder: Backbone, wav: torch.Tensor) -> torch.Tensor:
    """The definition, one clip at a time, without any of Model's code."""
    fbank = Fbank(**shipped("features/fbank", sample_rate=RATE, **FEATURES))(wav[None])
    with torch.no_grad():
        return encoder(fbank).values[0].mean(dim=0)


def test_embed_is_the_mean_of_the_tokens_of_the_exported_encoder(tmp_path):
    encoder, _ = write(tmp_path / "m")
    model = vcrast.load(tmp_path / "m")
    wavs = noise(3, WINDOW)
    expected = torch.stack([clip_vector(encoder, wav) for wav in wavs])
    torch.testing.assert_close(model.embed(wavs, RATE, layout="batch"), expected)
    torch.testing.assert_close(model.embed(wavs[1].numpy()), expected[1])
    torch.testing.assert_close(model.embed(list(wavs), batch_size=2), expected)
    assert model.tokens(wavs[0]).shape == (1, encoder.num_tokens(98), 16)
    torch.testing.assert_close(model.tokens(wavs, layout="batch")[:, 0].mean(dim=1), expected)
    assert (model.labels, model.sample_rate, model.embed_dim, model.meta["recipe"]) == (LABELS, RATE, 16, "test")


def test_predict_is_the_sorted_softmax_of_the_head(tmp_path):
    encoder, head = write(tmp_path / "m")
    found = load(tmp_path / "m").predict(noise(WINDOW))
    with torch.no_grad():
        expected = head(clip_vector(encoder, noise(WINDOW))).softmax(0)
    assert found == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)))
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert sum(found.values()) == pytest.approx(1)
    assert list(load(tmp_path / "m").predict(noise(WINDOW), top=2)) == list(found)[:2]
    assert len(load(tmp_path / "m").predict(list(noise(2, WINDOW)))) == 2


def test_predict_of_several_labels_is_a_sigmoid_each(tmp_path):
    encoder, head = write(tmp_path / "m", multilabel=True)
    with torch.no_grad():
        expected = head(clip_vector(encoder, noise(WINDOW))).sigmoid()
    found = load(tmp_path / "m").predict(noise(WINDOW))
    assert found == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)))


def test_long_clips_are_averaged_over_windows_that_reach_both_ends(tmp_path):
    encoder, head = write(tmp_path / "m")
    model, wav = load(tmp_path / "m"), noise(2 * WINDOW + 2001)
    starts = [0, 5000, 10001]  # 3 windows cover 18,001 samples; the last one ends with the clip
    vectors = torch.stack([clip_vector(encoder, wav[start : start + WINDOW]) for start in starts])
    # 5000.5 rounds to the even 5000
    torch.testing.assert_close(model.embed(wav), vectors.mean(dim=0))
    with torch.no_grad():
        chances = head(vectors).softmax(-1).mean(dim=0)
    assert model.predict(wav) == pytest.approx(dict(zip(LABELS, chances.tolist(), strict=True)))
    assert model.tokens(wav).shape[0] == 3
    assert len(model.windows(noise(2 * WINDOW))) == 2
    with pytest.raises(ValueError, match="once per sound"):
        model.tokens([wav, wav[:WINDOW]])


@pytest.mark.parametrize(("pad", "times"), [("silence", 0), ("repeat", 1)])
def test_short_clips_are_padded_as_in_training(tmp_path, pad, times):
    encoder, _ = write(tmp_path / "m", pad=pad)
    wav = noise(WINDOW // 2)
    expected = clip_vector(encoder, torch.cat([wav, times * wav]))
    torch.testing.assert_close(load(tmp_path / "m").embed(wav), expected)


def test_sounds_of_different_lengths_do_not_influence_each_other(tmp_path):
    write(tmp_path / "m")
    model = load(tmp_path / "m")
    clips = [noise(1), noise(WINDOW + 1, seed=1), noise(700, seed=2)]
    torch.testing.assert_close(model.embed(clips), torch.stack([model.embed(clip) for clip in clips]))


def test_files_and_arrays_of_another_rate_agree(tmp_path):
    write(tmp_path / "m")
    model = load(tmp_path / "m")
    time = np.arange(22050) / 22050
    wav = (0.4 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 1200 * time)).astype(np.float32)
    sf.write(tmp_path / "a.wav", wav, 22050, subtype="FLOAT")
    from_file, from_array = model.embed(tmp_path / "a.wav"), model.embed(wav, 22050)
    assert from_file.shape == (16,)
    assert torch.equal(from_file, from_array)
    batch = torch.from_numpy(np.stack([wav, 0.5 * wav]))
    torch.testing.assert_close(model.embed(batch, 22050, layout="batch")[0], from_file)
    assert (model.embed(wav) - from_array).abs().max() > 0.05  # taken at the wrong rate it is another sound
    torch.testing.assert_close(model.embed([str(tmp_path / "a.wav"), tmp_path / "a.wav"])[0], from_file)


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (np.zeros(100, np.int64), "int16, int32 or uint8"),
        (np.zeros((1, 2, 100), np.float32), "a list of sounds"),
        (np.zeros((2, 8000), np.float32), r'2 channels .* or 2 clips: say layout="channels" or layout="batch"'),
        (np.zeros((80000, 150), np.float32), "neither"),  # rows too short for a frame of 25 ms, too many for channels
        ([np.zeros((20, 8000), np.float32)], "20 sounds in place of one"),
        ([np.zeros((4, 8000), np.float32)], "4 channels .* or 4 clips"),
        ([np.zeros(100, np.float32), 16000], r"not int 16000; .*embed\(samples, sample_rate\)"),
        ({"array": np.zeros(100), "sampling_rate": 8000}, r"not a mapping \(of array, sampling_rate\)"),
        (np.zeros(0, np.float32), "not empty"),
        (np.array([0, np.nan], np.float32), "NaN"),
        ([], "at least one"),
        ("absent.wav", "absent.wav"),
    ],
)
def test_bad_sounds_are_refused(tmp_path, wav, message):
    write(tmp_path / "m")
    with pytest.raises(ValueError, match=message) as raised:
        load(tmp_path / "m").embed(wav, RATE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"pad": "zero"}, r"pad='zero': did you mean zeros\? choose from model, repeat, silence, zeros"),
        ({"layout": "chanels"}, "layout='chanels': did you mean channels"),
        ({"sample_rate": 44.1}, "sample_rate=44.1: must be a number in Hz"),
        ({"sample_rate": "16k"}, "sample_rate='16k'"),
        ({"top": 0}, "top=0: must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, options, message):
    write(tmp_path / "m")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "m").predict(noise(WINDOW), **{"sample_rate": RATE, **options})


def test_a_pretrained_model_embeds_but_does_not_predict(tmp_path):
    write(tmp_path / "m", classifier=False)
    model = load(tmp_path / "m")
    assert model.embed(noise(WINDOW)).shape == (16,)
    with pytest.raises(ValueError, match="finetune it"):
        model.predict(noise(WINDOW))


def test_the_run_folder_is_searched_for_fold_and_stage(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load(run)
    run.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no exported model yet.*run\.resume"):
        load(run)
    write(run / "exported" / "fold_10" / "pretrained", classifier=False, meta={"name": "10 pretrained"})
    write(run / "exported" / "fold_2" / "pretrained", classifier=False, meta={"name": "2 pretrained"})
    write(run / "exported" / "fold_2" / "finetuned", meta={"name": "2 finetuned"})
    assert load(run).meta["name"] == "2 finetuned"
    assert load(run, fold=10).meta["name"] == "10 pretrained"
    assert load(run, stage="pretrained").meta["name"] == "2 pretrained"
    assert load(run / "exported" / "fold_2").meta["name"] == "2 finetuned"
    assert load(run / "exported" / "fold_10" / "pretrained").meta["name"] == "10 pretrained"
    with pytest.raises(ValueError, match="no exported fold 3; choose from 2, 10"):
        load(run, fold=3)
    with pytest.raises(ValueError, match="no stage finetuned; choose from pretrained"):
        load(run, fold="10", stage="finetuned")
    with pytest.raises(ValueError, match="is one exported model"):
        load(run / "exported" / "fold_2" / "finetuned", fold=2)


def test_an_exported_fold_may_lie_straight_in_its_folder(tmp_path):
    write(tmp_path / "exported" / "1")
    assert load(tmp_path, fold=1).labels == LABELS


def test_exported_weights_fill_an_encoder_and_a_head(tmp_path):
    encoder, head = write(tmp_path / "m", seed=1)
    other, other_head = parts(seed=2)
    load_encoder(other, tmp_path / "m" / "weights.safetensors")
    load_head(other_head, tmp_path / "m")
    for mine, theirs in ((encoder, other), (head, other_head)):
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict())
    write(tmp_path / "n", classifier=False)
    with pytest.raises(ValueError, match="does not fit the head"):
        load_head(other_head, tmp_path / "n")


def test_a_mask_token_and_learned_positions_survive(tmp_path):
    encoder = make_ast(**{**MODEL, "positions": "learned"})
    encoder.enable_mask_token()
    options = {
        "features": FEATURES, "labels": (), "multilabel": False, "sample_rate": RATE, "clip_duration_s": 1.0,
        "pad": "silence", "meta": {},
    }  # fmt: skip
    export(tmp_path, encoder=encoder, head=None, **options)
    torch.testing.assert_close(load(tmp_path).encoder.state_dict(), encoder.state_dict())


def edit(folder: Path, change) -> None:
    path = folder / "model.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def test_an_export_from_before_an_option_computes_what_it_did(tmp_path):
    encoder, _ = write(tmp_path)
    for key in ("class_tokens", "pool", "readout", "positions_stride", "norms", "norm_eps"):
        edit(tmp_path, lambda found, key=key: found["model"].pop(key))
    edit(tmp_path, lambda found: found["features"].pop("window", None))
    wav = noise(WINDOW)
    torch.testing.assert_close(load(tmp_path).embed(wav, RATE), clip_vector(encoder, wav))


@pytest.mark.parametrize("module", ["os", "vcrastevil", "vcrast", "antigravity", "..vcrast.x", 3])
def test_a_model_may_not_name_foreign_code(tmp_path, module):
    write(tmp_path)
    edit(tmp_path, lambda found: found["model"]["attention"].update(module=module))
    with pytest.raises(ValueError, match="only modules under vcrast"):
        load(tmp_path)


def test_a_foreign_module_is_found_however_deep(tmp_path):
    write(tmp_path)
    edit(tmp_path, lambda found: found["model"].update(more=[{"a": {"module": "os"}}]))
    with pytest.raises(ValueError, match="'os'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.update(format=99), "format 99"),
        (lambda found: found.pop("labels"), "lacks labels"),
        (lambda found: found["model"].update(depth=3), "does not fit the encoder"),
        (lambda found: found["model"].update(_target_="os.system"), "does not describe a model"),
        (lambda found: found["model"].update(name="resnet"), r"model\.json: does not describe a model \(.*resnet"),
        (lambda found: found["head"][0].update(kind="lambda"), "unknown layer 'lambda'"),
    ],
)
def test_damaged_descriptions_are_named(tmp_path, change, message):
    write(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_damaged_files_are_named(tmp_path):
    write(tmp_path)
    weights = tmp_path / "weights.safetensors"
    blob = bytearray(weights.read_bytes())
    blob[-3] ^= 1  # one bit: safetensors itself would not notice
    weights.write_bytes(blob)
    with pytest.raises(ValueError, match="damaged or replaced"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="missing beside"):
        load(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path)


def test_an_export_replaces_the_old_one_and_leaves_no_rest(tmp_path):
    write(tmp_path, seed=1)
    encoder, _ = write(tmp_path, seed=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "weights.safetensors"]
    torch.testing.assert_close(load(tmp_path).encoder.state_dict(), encoder.state_dict())


def test_a_bad_export_leaves_the_good_one(tmp_path):
    encoder, _ = write(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"model\.json\.meta\.x: Tensor"):
        write(tmp_path, seed=2, meta={"x": torch.zeros(1)})
    torch.testing.assert_close(load(tmp_path).encoder.state_dict(), encoder.state_dict())


def test_weights_replaced_without_their_description_are_noticed(tmp_path):
    write(tmp_path, seed=1)
    tensors = load_file(tmp_path / "weights.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="damaged or replaced"):
        load(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_device_that_is_not_there(tmp_path):
    write(tmp_path)
    for device, message in (
        ("cuda", "sees no CUDA device"),
        ("cuda:7", "sees no CUDA device"),
        ("mps", "this machine has none; choose from cpu"),
        ("banana", "device=banana: no such device; choose from cpu, cuda"),
        ("cdua", "did you mean cuda"),
    ):
        with pytest.raises(ValueError, match=message):
            load(tmp_path, device=device)


def test_a_gpu_beyond_those_that_are_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert existing_device("device", "cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="device=cuda:7: this machine has 2; choose from cpu, cuda:0, cuda:1"):
        existing_device("device", "cuda:7")


def test_repr_says_what_a_model_is(tmp_path):
    write(tmp_path / "exported" / "fold_1" / "finetuned", meta={"recipe": "esc50", "fold": "1", "seed": 3})
    encoder, _ = write(tmp_path / "exported" / "fold_1" / "pretrained", classifier=False, labels=())
    weights = sum(each.numel() for each in encoder.parameters())
    assert repr(load(tmp_path)) == (
        f"<vcrast.Model ast, 2 layers of 16, {weights} weights, on cpu\n"
        "  from recipe esc50, fold 1, seed 3, stage finetuned\n"
        "  hears 1 s at 8000 Hz, 32 mel bins; longer sounds are cut into windows, shorter ones followed by silence\n"
        "  3 classes, one a sound: dog, rain, sea>"
    )
    assert repr(load(tmp_path, stage="pretrained")).endswith("no classifier: embeds, cannot predict>")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_cpu_vectors(tmp_path):
    write(tmp_path)
    wavs = noise(3, WINDOW)
    torch.testing.assert_close(
        load(tmp_path, device="cuda").embed(list(wavs)), load(tmp_path).embed(list(wavs)), atol=1e-4, rtol=1e-3
    )


def test_export_takes_the_options_from_the_encoder(tmp_path):
    encoder, _ = parts()
    common = {
        "features": FEATURES, "labels": (), "multilabel": False, "head": None, "sample_rate": RATE,
        "clip_duration_s": 1.0, "pad": "silence", "meta": {},
    }  # fmt: skip
    encoder.set_stride([8, 16])  # after it was built
    export(tmp_path, encoder=encoder, **common)
    assert load(tmp_path).encoder.grid(98) == encoder.grid(98) != make_ast(**MODEL).grid(98)
