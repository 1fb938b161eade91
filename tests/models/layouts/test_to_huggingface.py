"""Check that transformers loads what is written for it and computes what we do."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
import torch
from exported import write_model
from foreign_weights import draw, scores
from parts import make_ast
from shipped import shipped
from torch import nn

from vcrast.cli.main import main
from vcrast.config.compose import read_option
from vcrast.inference import load
from vcrast.models.export import read_description
from vcrast.models.layouts.to_huggingface import refuse_other

FIT = {"class_tokens": 2, "pool": "class", "patch_size": [16, 16], "num_mel_bins": 128, "num_frames": 128}


def write(folder, *, head="both", eps=1e-6, features=None, pad="silence", **options):
    """An exported AST that transformers can express, unless `options` say otherwise."""
    torch.manual_seed(1)
    encoder = draw(make_ast(**{**FIT, **options}))
    layers = {"both": [nn.LayerNorm(16, eps=eps), nn.Linear(16, 3)], "linear": [nn.Linear(16, 3)], None: None}[head]
    found = {
        "features": {**shipped("features/fbank"), "mean": -4.0, "std": 3.0, **(features or {})},
        "sample_rate": 16000, "pad": pad, "clip_duration_s": (127 * 160 + 400) / 16000,
    }  # fmt: skip
    write_model(folder, encoder=encoder, head=None if layers is None else draw(nn.Sequential(*layers)), **found)
    return load(folder)


def for_transformers(source, out):
    assert main(["export", str(source), "--format", "hf", "--out", str(out)]) == 0


MODELS = {
    "learned": {"positions": "learned"},
    "learned, overlapping": {"positions": "learned", "patch_stride": [10, 10]},
    "the AST's": {"positions": "learned", "patch_stride": [10, 10], "positions_stride": [10, 10], "num_frames": 1024},
    "sin-cos": {"patch_stride": [10, 16]},
    "memory efficient": {"attention": read_option("attention", "memory_efficient")},
    "another eps": {"norm_eps": 1e-3, "eps": 1e-3},
}  # fmt: skip


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_transformers_computes_the_same(tmp_path, options):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    ours = write(tmp_path / "ours", **options)
    for_transformers(tmp_path / "ours", tmp_path / "hf")
    theirs = transformers.ASTForAudioClassification.from_pretrained(tmp_path / "hf").eval()
    fbank = torch.randn(2, ours.encoder.num_frames, 128)
    with torch.no_grad():
        found = theirs(fbank).logits
    torch.testing.assert_close(found, scores(ours, fbank), atol=1e-5, rtol=1e-5)
    assert theirs.config.id2label == {0: "dog", 1: "rain", 2: "sea"}
    assert theirs.config.problem_type == "single_label_classification"


def test_an_encoder_alone_is_an_astmodel(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    ours = write(tmp_path / "ours", head=None)
    for_transformers(tmp_path / "ours", tmp_path / "hf")
    fbank = torch.randn(2, 128, 128)
    with torch.no_grad():
        found = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()(fbank).pooler_output
    torch.testing.assert_close(found, ours.encoder.pool(ours.encoder(fbank)), atol=1e-5, rtol=1e-5)


def test_there_and_back_is_the_same_model(tmp_path):
    ours = write(tmp_path / "ours", positions="learned", positions_stride=[10, 10], patch_stride=[10, 10])
    for_transformers(tmp_path / "ours", tmp_path / "hf")
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "back")]) == 0
    back = load(tmp_path / "back")
    for part in ("encoder", "head"):
        torch.testing.assert_close(getattr(back, part).state_dict(), getattr(ours, part).state_dict(), rtol=0, atol=0)
    assert (back.labels, back.features.mean) == (ours.labels, ours.features.mean)
    assert back.features.num_frames(back.num_samples) == ours.features.num_frames(ours.num_samples) == 128


def real_clips(root):
    names = [name for name in sorted((Path(root) / "audio").iterdir()) if name.suffix in (".ogg", ".wav")]
    assert len(names) >= 100
    return [sf.read(name, dtype="float32") for name in names[::100]]


def test_the_feature_extractor_hears_what_we_hear(tmp_path, esc10_root):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    ours = write(tmp_path / "ours", positions="learned")
    for_transformers(tmp_path / "ours", tmp_path / "hf")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "hf")
    theirs = transformers.ASTForAudioClassification.from_pretrained(tmp_path / "hf").eval()
    for wav, rate in real_clips(esc10_root):
        sound = soxr.resample(wav, rate, 16000)[: ours.num_samples]  # one window: what both hear of it
        fbank = extractor(sound, sampling_rate=16000, return_tensors="pt").input_values
        torch.testing.assert_close(fbank, ours.features(torch.from_numpy(sound)[None]), atol=2e-3, rtol=0)
        with torch.no_grad():
            expected = theirs(fbank).logits.softmax(dim=1)[0]
        found = ours.predict(sound, 16000)
        torch.testing.assert_close(torch.tensor([found[name] for name in ours.labels]), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [200, 400, 8000, 20715])
def test_short_sounds_are_filled_with_zeros_as_there(tmp_path, length):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    ours = write(tmp_path / "ours", pad="zeros")
    for_transformers(tmp_path / "ours", tmp_path / "hf")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "hf")
    theirs = transformers.ASTForAudioClassification.from_pretrained(tmp_path / "hf").eval()
    sound = (0.1 * np.random.default_rng(0).standard_normal(length)).astype(np.float32)
    if length < 400:  # transformers has nothing to compute of less than one window
        fbank = torch.full((1, 128, 128), 4 / 6)  # 0 before (x - mean) / (2 std)
    else:
        fbank = extractor(sound, sampling_rate=16000, return_tensors="pt").input_values
    found = ours.features.zero_filled(ours.windows(torch.from_numpy(sound)))
    torch.testing.assert_close(found, fbank, atol=1e-3, rtol=0)
    with torch.no_grad():
        expected = theirs(fbank).logits.softmax(dim=1)[0]
    scored = ours.predict(sound, 16000)
    torch.testing.assert_close(torch.tensor([scored[name] for name in ours.labels]), expected, atol=1e-4, rtol=0)
    assert ours.predict(sound, 16000, pad="silence") != scored


REFUSED = {
    "mean of patches": (
        {"class_tokens": 0, "pool": "mean"}, "0 class tokens, pool=mean: its vector is always the mean of a class",
        "model.class_tokens=2 model.pool=class",
    ),
    "statistics of rows": (
        {"class_tokens": 0, "pool": "mean", "readout": "statistics"}, "readout=statistics: its classifier reads",
        "model.class_tokens=2 model.pool=class model.readout=pool",
    ),
    "one class token": ({"class_tokens": 1}, "1 class tokens, pool=class", "model.class_tokens=2 model.pool=class"),
    "patches": ({"patch_size": [8, 16]}, "patches of [8, 16]: its are square", "model.patch_size=[16,16]"),
    "norms": ({"norms": "post"}, "norms=post", "model.norms=pre"),
    "attention": ({"attention": read_option("attention", "rfa")}, "attention=rfa", "attention=softmax"),
    "front end": ({"features": {"frame_shift_ms": 5.0}}, "features.frame_shift_ms=5.0", "features.frame_shift_ms=10.0"),
    "classifier": ({"head": "linear"}, "a classifier that is not a norm and a linear layer", ""),
}  # fmt: skip


@pytest.mark.parametrize(("options", "reason", "setting"), REFUSED.values(), ids=REFUSED)
def test_what_transformers_cannot_express_is_one_line(tmp_path, capsys, options, reason, setting):
    write(tmp_path / "ours", **options)
    assert main(["export", str(tmp_path / "ours"), "--format", "hf", "--out", str(tmp_path / "hf")]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert not setting or f"; a run with {setting} can be written" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "hf").exists()


def test_another_backbone_is_refused():
    with pytest.raises(ValueError, match="a model of name=htsat; transformers' AST is an ast alone"):
        refuse_other({"model": {"name": "htsat"}, "features": shipped("features/fbank"), "head": None})


def test_what_transformers_does_otherwise_is_said(tmp_path, capsys):
    for pad in ("silence", "zeros"):
        write(tmp_path / pad, pad=pad)
        for_transformers(tmp_path / pad, tmp_path / f"hf_{pad}")
        said = capsys.readouterr().err
        assert "its feature extractor takes the first frames of a longer sound" in said
        assert ("as vcrast does with pad=zeros alone" in said) is (pad == "silence")


def test_another_eps_of_the_classifier_is_said(tmp_path, capsys):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    ours = write(tmp_path / "ours", eps=1e-5)
    for_transformers(tmp_path / "ours", tmp_path / "hf")
    assert "the classifier's norm adds 1e-05 to the variance" in capsys.readouterr().err
    theirs = transformers.ASTForAudioClassification.from_pretrained(tmp_path / "hf").eval()
    fbank = torch.randn(2, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(theirs(fbank).logits, scores(ours, fbank), atol=1e-4, rtol=0)


def test_files_are_written_without_transformers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    write(tmp_path / "ours")
    for_transformers(tmp_path / "ours", tmp_path / "hf")
    for_transformers(tmp_path / "ours", tmp_path / "hf")  # the same again
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["model_type"], config["intermediate_size"]) == ("audio-spectrogram-transformer", 32)


def test_another_model_in_the_folder_stays(tmp_path, capsys):
    write(tmp_path / "ours")
    for_transformers(tmp_path / "ours", tmp_path / "hf")
    before = (tmp_path / "hf" / "model.safetensors").read_bytes()
    write(tmp_path / "other", positions="learned")
    capsys.readouterr()
    assert main(["export", str(tmp_path / "other"), "--format", "hf", "--out", str(tmp_path / "hf")]) == 2
    assert "holds another model (config.json); delete it or choose a new folder" in capsys.readouterr().err
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == before
    assert read_description(tmp_path / "other")["model"]["positions"] == "learned"
