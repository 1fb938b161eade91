"""Check that an AST of transformers computes here what it computes there."""

import json

import pytest
import torch
from foreign_weights import scores, transformers_ast
from safetensors.torch import load_file, save_file

from vcrast.cli.main import main
from vcrast.inference import load
from vcrast.models.layouts import read_model
from vcrast.models.layouts.base import Wishes


def imported(source, out, *words):
    assert main(["import", str(source), "--out", str(out), *words]) == 0
    return load(out)


SIZES = {
    "the AST's own": {},
    "Speech Commands": {"max_length": 128},
    "no overlap": {"max_length": 512, "frequency_stride": 16, "time_stride": 16},
    "odd": {"max_length": 77, "num_mel_bins": 40, "patch_size": 8, "frequency_stride": 5, "time_stride": 3},
    "no bias of q, k, v": {"max_length": 128, "qkv_bias": False},
    "another eps": {"max_length": 128, "layer_norm_eps": 1e-3},
}  # fmt: skip


@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
def test_scores_equal_those_of_transformers(tmp_path, options):
    theirs = transformers_ast(tmp_path / "hf", **options)
    ours = imported(tmp_path / "hf", tmp_path / "out")
    config = theirs.config
    fbank = torch.randn(2, config.max_length, config.num_mel_bins)
    with torch.no_grad():
        expected = theirs(fbank).logits
        vector = theirs.base_model(fbank).pooler_output
    torch.testing.assert_close(scores(ours, fbank), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.encoder.pool(ours.encoder(fbank)), vector, atol=1e-5, rtol=1e-5)
    assert ours.features.num_frames(ours.num_samples) == config.max_length


def test_small_tokens_need_the_eps_of_transformers(tmp_path):
    theirs = transformers_ast(tmp_path / "hf", max_length=128, std=0.02)  # as transformers initialises them
    ours = imported(tmp_path / "hf", tmp_path / "out")
    fbank = torch.randn(2, 128, 128)
    with torch.no_grad():
        expected = theirs.base_model(fbank).last_hidden_state[:, :2]
    torch.testing.assert_close(ours.encoder(fbank).class_tokens, expected, atol=1e-5, rtol=1e-5)
    for part in ours.encoder.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.eps = 1e-6
    assert (ours.encoder(fbank).class_tokens - expected).abs().max() > 1e-5


def test_names_of_version_5_and_a_pickle_are_read_too(tmp_path):
    theirs = transformers_ast(tmp_path / "hf", max_length=128)
    ours = imported(tmp_path / "hf", tmp_path / "out")
    torch.save(theirs.state_dict(), tmp_path / "hf" / "pytorch_model.bin")
    assert any(".layers.0.attention.q_proj" in name for name in theirs.state_dict())
    (tmp_path / "hf" / "model.safetensors").unlink()
    again = imported(tmp_path / "hf", tmp_path / "again")
    torch.testing.assert_close(again.encoder.state_dict(), ours.encoder.state_dict(), rtol=0, atol=0)


def test_an_encoder_alone_has_no_classifier(tmp_path, caplog):
    theirs = transformers_ast(tmp_path / "hf", head=False, max_length=128)
    ours = imported(tmp_path / "hf", tmp_path / "out")
    assert ours.head is None
    fbank = torch.randn(1, 128, 128)
    with torch.no_grad():
        expected = theirs(fbank).pooler_output
    torch.testing.assert_close(ours.encoder.pool(ours.encoder(fbank)), expected, atol=1e-5, rtol=1e-5)


def test_labels_and_front_end_are_the_files(tmp_path):
    names = {0: "dog", 1: "rain", 2: "sea"}
    sound = {"mean": -3.5, "std": 2.5, "sampling_rate": 8000}
    transformers_ast(
        tmp_path / "hf", sound=sound, max_length=100, id2label=names, problem_type="multi_label_classification"
    )
    ours = imported(tmp_path / "hf", tmp_path / "out")
    assert (ours.labels, ours.multilabel, ours.sample_rate) == (("dog", "rain", "sea"), True, 8000)
    assert (ours.features.mean, ours.features.std) == (-3.5, 2.5)
    assert ours.clip_duration_s == 1.024  # 8199 samples have 100 frames, one more has 101
    config = tmp_path / "hf" / "preprocessor_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "do_normalize": False}))
    assert imported(tmp_path / "hf", tmp_path / "plain").features.mean is None
    said = imported(
        tmp_path / "hf", tmp_path / "own", "--mean", "1", "--std", "2", "--no-multilabel", "--rate", "16000"
    )
    assert (said.features.mean, said.multilabel, said.sample_rate) == (1, False, 16000)


def test_a_file_without_its_config_is_read_by_its_shapes(tmp_path):
    transformers_ast(tmp_path / "hf", hidden_size=64, num_attention_heads=1, max_length=512)
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    (tmp_path / "alone").mkdir()
    save_file(weights, tmp_path / "alone" / "x.safetensors")
    found = read_model(tmp_path / "alone" / "x.safetensors", Wishes())
    assert (found.options["num_frames"], found.options["num_heads"], found.options["positions_stride"]) == (
        512, 1, [10, 10],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act relu"),
        ({"hidden_size": 48}, "says hidden_size 48, the weights 24; they are of two models"),
        ({"max_length": 900}, "positions of patches of [16, 16] fit no grid on 900 frames"),
        ({"max_length": "long"}, "config.json says max_length 'long', where int is expected"),
        ({"patch_size": [16, 8]}, "config.json says patch_size [16, 8], where int is expected"),
        ({"layer_norm_eps": None}, "config.json says layer_norm_eps None, where float is expected"),
        ({"model_type": "vit"}, "of a model_type vit; only audio-spectrogram-transformer is read"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(tmp_path, capsys, change, message):
    transformers_ast(tmp_path / "hf", max_length=128)
    config = tmp_path / "hf" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    capsys.readouterr()
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "out").exists()


def test_odd_labels_are_left_and_an_odd_extractor_is_one_line(tmp_path, capsys):
    transformers_ast(tmp_path / "hf", max_length=128)
    config, sound = tmp_path / "hf" / "config.json", tmp_path / "hf" / "preprocessor_config.json"
    told = json.loads(config.read_text())
    for labels in ({"a": "dog", "1": "rain", "2": "sea"}, {"0": "dog"}, ["dog"], None):
        config.write_text(json.dumps({**told, "id2label": labels, "patch_size": [16, 16]}))
        assert imported(tmp_path / "hf", tmp_path / "out").labels == ("class 0", "class 1", "class 2")
    sound.write_text(json.dumps({"mean": "-4"}))
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "out")]) == 2
    assert "preprocessor_config.json says mean '-4', where float is expected" in capsys.readouterr().err


def test_a_tensor_of_another_shape_is_one_line(tmp_path, capsys):
    transformers_ast(tmp_path / "hf", max_length=128)
    path = tmp_path / "hf" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("layer.1.output.dense.weight"))
    save_file({**weights, name: torch.zeros(24, 41)}, path, {"format": "pt"})
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "blocks.1.fc2.weight is (24, 41), the encoder's (24, 40)" in error
    del weights[name]
    save_file(weights, path, {"format": "pt"})
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "out")]) == 2
    assert "blocks.1.fc2.weight is missing" in capsys.readouterr().err.splitlines()[-1]
