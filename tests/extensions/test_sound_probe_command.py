"""Run `vcrast probe` on a small model: table, JSON, picture, mistakes."""

import json
import sys
from pathlib import Path

import pytest
import torch
from parts import make_ast
from shipped import shipped

from extensions.sound_probe.command import log_mel_statistics, of_length, probe_model, untrained
from vcrast.cli.main import main
from vcrast.config.compose import compose
from vcrast.inference import Model, load
from vcrast.inference.pieces import Cutter
from vcrast.models.export import export
from vcrast.runs.job import Job, seed_for

RATE = 16000
OPTIONS = {
    "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0, "patch_size": [16, 16], "num_mel_bins": 32,
    "num_frames": 98, "attention": {"name": "softmax", "module": "vcrast.models.attention"},
    "linear": {"name": "real", "module": "vcrast.models.linear"},
}  # fmt: skip


def write(folder, *, rate=RATE, channels=1, **features):
    torch.manual_seed(0)
    export(
        folder, encoder=make_ast(**OPTIONS, num_channels=channels),
        features=shipped("features/fbank", **{"num_mel_bins": 32, "mean": -7.0, "std": 4.0, **features}),
        labels=(), multilabel=False, head=None, sample_rate=rate, clip_duration_s=1.0, pad="silence",
        meta={"seed": 5},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "m")


def shown_as(score):
    return f"{score:.2f}".replace("-0.00", "0.00")


def test_table_json_and_picture_say_the_same(model, tmp_path, capsys):
    words = ["probe", str(model), "--sounds", "240", "--seconds", "0.5", "--seed", "2"]
    assert main([*words, "--plot", str(tmp_path / "p.png")]) == 0
    shown = capsys.readouterr()
    assert "probe  240/240" in shown.err
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    asked = {"sounds": 240, "seconds": 0.5, "layers": 1, "seed": 2, "held_out": 60}
    assert {name: found[name] for name in asked} == asked
    assert shown.out.startswith("240 sounds of 0.5 s, 1 layer, seed 2;")
    rows = {line.split()[0]: line.split() for line in shown.out.splitlines()[2:] if line}
    assert set(found["unscored"]) >= {"layer_db"}
    assert not set(found["unscored"]) & set(found["parameters"])
    for name, finding in found["parameters"].items():
        numbers = [shown_as(finding["r2"][rival]) for rival in ("encoder", "untrained", "log_mel")]
        assert rows[name] == [name, *numbers, str(finding["held_out"])]
    for name, scores in found["groups"].items():
        assert rows[name][1:4] == [shown_as(scores[rival]) for rival in ("encoder", "untrained", "log_mel")]
    # Level is a matter of the filterbank's mean; a random network keeps some of it.
    assert found["parameters"]["level_db"]["r2"]["log_mel"] > 0.15
    assert found["kind"]["chance"] > 1 / 3


def test_the_encoder_hears_what_embed_hears(model):
    own = load(model)
    wavs = 0.1 * torch.randn(3, RATE)
    assert torch.equal(of_length(own, RATE).embed(list(wavs), RATE), own.embed(list(wavs), RATE))
    # A shorter sound is not padded: the mean of the tokens of its own frames, as in pretraining.
    short = wavs[:, : RATE // 2]
    with torch.no_grad():
        expected = own.encoder(own.features(short)).values.mean(dim=1)
    torch.testing.assert_close(of_length(own, RATE // 2).embed(list(short), RATE), expected)
    assert not torch.allclose(own.embed(list(short), RATE), expected, atol=1e-3)


def test_the_untrained_encoder_is_the_one_that_evaluate_compares_with():
    """Same weights as `Job.backbone`, whose export only says architecture and seed."""
    config = compose(["recipe=demo", "run.seed=7", "model.embed_dim=32", "model.depth=2", "model.num_heads=2"])
    nothing = dict.fromkeys(("classes", "multilabel", "train", "test", "log", "summary", "interrupt"))
    job = Job(
        config=config, run_dir=Path(), fold="1", device=torch.device("cpu"), precision="fp32", mean=-7.0, std=4.0,
        **nothing,
    )  # fmt: skip
    theirs = job.backbone(patch_stride=config.pretrain.patch_stride)
    trained = Model(
        job.backbone(patch_stride=config.pretrain.patch_stride), job.fbank(), None, labels=(), multilabel=False,
        clip_duration_s=1.0, pad="silence", meta={},
    )  # fmt: skip
    ours = untrained(trained, run_seed=7).encoder
    assert all(torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True))
    other = untrained(trained, run_seed=8).encoder
    assert not torch.equal(next(other.parameters()), next(ours.parameters()))
    assert job.seed("encoder") == seed_for(7, "encoder") != seed_for(7, "views")


@pytest.mark.parametrize(("name", "channels"), [("fbank", 1), ("quaternion", 4)])
def test_log_mel_statistics_by_hand(tmp_path, name, channels):
    own = load(write(tmp_path / "m", name=name, channels=channels))
    wavs = 0.1 * torch.randn(2, RATE)
    fbank = own.features(wavs).reshape(2, channels, 98, 32)
    expected = [fbank[:, c, :, f].mean(dim=1) for c in range(channels) for f in range(32)]
    expected += [fbank[:, c, :, f].var(dim=1).sqrt() for c in range(channels) for f in range(32)]
    torch.testing.assert_close(log_mel_statistics(own, wavs, RATE), torch.stack(expected, dim=1))


def test_a_model_of_a_lower_rate_hears_resampled_sounds_in_one_piece(tmp_path, monkeypatch):
    cut, lengths = Cutter.windows, set()

    def windows(self, clip):
        found = list(cut(self, clip))
        lengths.add((len(clip), len(found), *{len(window) for window in found}))
        return iter(found)

    monkeypatch.setattr(Cutter, "windows", windows)
    # 8,001 samples at 16 kHz, so 4,001 at 8 kHz: rounding must not make a second window.
    found = probe_model(load(write(tmp_path / "m", rate=8000)), num_sounds=120, duration_s=8001 / 16000)
    assert lengths == {(4001, 1, 4001)}
    assert found.num_held_out == 30


def test_several_layers_come_with_a_warning(model, capsys):
    assert main(["probe", str(model), "--sounds", "120", "--seconds", "0.5", "--layers", "2"]) == 0
    shown = capsys.readouterr().out
    assert "2 layers" in shown
    assert "layers are interchangeable" in shown


def test_mistakes_are_one_line_and_exit_2(model, tmp_path, capsys):
    (tmp_path / "x").mkdir()
    for words, said in (
        ([str(tmp_path / "absent")], "no such folder"),
        ([str(tmp_path / "x")], "no exported model yet"),
        ([str(model), "--sounds", "50"], "at least 120"),
        ([str(model), "--seconds", "0.1"], "at least 0.5 s"),
        ([str(model), "--layers", "0"], "--layers 0: must be at least 1"),
        ([str(model), "--batch-size", "0"], "--batch-size 0: must be at least 1"),
        ([str(model), "--plot", "p.svg"], "ends in .png"),
        ([str(model), "--plot", "no/such/p.png"], "does not exist"),
        ([str(model), "--fold", "1"], "one exported model"),
    ):
        assert main(["probe", *words]) == 2
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("vcrast: error: ")
        assert said in error


def test_without_scikit_learn_one_line_says_what_to_install(model, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("extensions.sound_probe.", "sklearn."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(["probe", str(model), "--sounds", "120"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "scikit-learn" in error
    assert "pip install 'vcrast[probe]'" in error


def test_help_says_what_layers_cost(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["probe", "--help"])
    assert stopped.value.code == 0
    assert "which is the first" in " ".join(capsys.readouterr().out.split())
