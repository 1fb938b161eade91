"""Check the mean of models against AveragedModel, a mean by hand, what is refused."""

import copy
import json

import pytest
import torch
from exported import make_small, write_model
from parts import make_ast
from shipped import shipped, shipped_options
from torch import nn
from torch.optim.swa_utils import AveragedModel

from vcrast.config.registry import MODELS
from vcrast.inference import load
from vcrast.models.averaging import average
from vcrast.models.backbone import Backbone, Tokens
from vcrast.models.export import write_export


def drawn(seed, encoder=None, *, spread=0.05):
    """An encoder and head some way from a start that all share."""
    torch.manual_seed(0)
    encoder, head = encoder or make_small(), nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3))
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in (*encoder.parameters(), *head.parameters()):
            weight += spread * torch.randn_like(weight) * (weight.std() if weight.numel() > 1 else 1)
    return encoder, head


def write(folder, encoder, head, **changes):
    write_model(folder, encoder=encoder, head=head, **{"meta": {"recipe": "demo", "fold": "1"}, **changes})
    return folder


@pytest.fixture(scope="module")
def pairs():
    return [drawn(seed) for seed in (1, 2, 3)]


def test_it_is_pytorchs_and_the_mean_by_hand(pairs, tmp_path):
    folders = [
        write(tmp_path / str(number), *pair, meta={"recipe": "demo", "fold": "1", "epoch": number})
        for number, pair in enumerate(pairs)
    ]
    tensors, description, notes = average(folders)
    assert notes == []
    write_export(tmp_path / "mean", tensors, description)
    model = load(tmp_path / "mean")
    theirs = [AveragedModel(part) for part in copy.deepcopy(pairs[0])]
    for pair in pairs:
        for each, part in zip(theirs, pair, strict=True):
            each.update_parameters(part)
    for own, each, parts in zip((model.encoder, model.head), theirs, zip(*pairs, strict=True), strict=True):
        for name, value in own.state_dict().items():
            by_hand = sum(part.state_dict()[name].double() for part in parts) / 3
            assert torch.equal(value, by_hand.float()), name
            torch.testing.assert_close(value, each.module.state_dict()[name], rtol=1e-5, atol=1e-6)
    assert {key: model.meta[key] for key in ("recipe", "fold")} == {"recipe": "demo", "fold": "1"}
    assert [member["epoch"] for member in model.meta["averaged"]] == [0, 1, 2]
    assert "epoch" not in model.meta
    assert "the mean of 3 models" in repr(model)


class Normed(Backbone):
    """A backbone with BatchNorm, a counter and directions that are drawn."""

    def __init__(self, *, num_mel_bins, num_frames, num_channels, patch_stride):
        super().__init__()
        self.embed_dim = 16
        self.lift = nn.Linear(num_mel_bins, 16)
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("drawn", torch.zeros(4))

    def grid(self, num_frames):
        return num_frames, 1

    def forward(self, fbank, **_):
        return Tokens(self.lift(fbank), self.grid(fbank.shape[1]))


def test_statistics_of_batchnorm_are_averaged_counters_and_drawn_buffers_are_the_last_models(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS.builders, "normed", Normed)
    folders = []
    for number in (1, 2):
        torch.manual_seed(0)
        encoder, head = drawn(number, Normed(num_mel_bins=32, num_frames=98, num_channels=1, patch_stride=None))
        encoder.options = {"name": "normed", "num_mel_bins": 32, "num_frames": 98, "num_channels": 1}
        encoder.options["patch_stride"] = None
        encoder.norm.running_mean.fill_(number)
        encoder.norm.running_var.fill_(10.0 * number)
        encoder.norm.num_batches_tracked.fill_(number)
        encoder.drawn.fill_(number)
        folders.append(write(tmp_path / str(number), encoder, head))
    tensors, _, notes = average(folders)
    assert tensors["encoder.norm.running_mean"].tolist() == [1.5] * 16
    assert tensors["encoder.norm.running_var"].tolist() == [15.0] * 16
    count = tensors["encoder.norm.num_batches_tracked"]
    assert (count.dtype, int(count)) == (torch.int64, 2)
    assert tensors["encoder.drawn"].tolist() == [2.0] * 4
    assert "encoder.drawn, which no mean can be taken of, is the last model's" in notes[0]
    assert "running statistics of BatchNorm" in notes[1]


def test_random_directions_of_attention_stay_directions(tmp_path):
    torch.manual_seed(0)
    sizes = {"depth": 1, "patch_size": [16, 16], "num_mel_bins": 32, "num_frames": 98}
    encoders = [make_ast(attention=shipped_options("attention/rfa", num_features=4), **sizes) for _ in range(2)]
    encoders[1].load_state_dict(
        {**encoders[0].state_dict(), **{k: v for k, v in encoders[1].state_dict().items() if ".mix." in k}}
    )
    folders = [write(tmp_path / str(number), encoder, None) for number, encoder in enumerate(encoders)]
    tensors, _, notes = average(folders)
    name = next(name for name in tensors if name.endswith("values"))
    own = encoders[1].state_dict()[name.removeprefix("encoder.")]
    assert torch.equal(tensors[name], own)
    assert notes
    assert name in notes[0]


def features(**changes):
    return {"features": shipped("features/fbank", num_mel_bins=32, **changes)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ("dog", "sea", "rain")}, "its classes are in another order"),
        ({"labels": ("dog", "rain", "cat")}, r"it has other classes \(has cat; lacks sea\)"),
        ({"multilabel": True}, "multilabel=True, not False"),
        ({"pad": "repeat"}, "pad=repeat, not silence"),
        ({"clip_duration_s": 2.0}, "clip_duration_s=2.0, not 1.0"),
        (features(low_freq_hz=50.0, mean=-7.0, std=3.0), "features.low_freq_hz=50.0, not 20.0"),
        (features(mean=-5.0, std=4.0), "it was normalised with mean -5.0 and std 4.0, not -7.0 and 3.0"),
        ({"multilabel": True, "pad": "repeat", "clip_duration_s": 2.0, "labels": ("x", "y", "z")}, ".*; and 1 more"),
        ({"meta": {"fold": "2"}}, "it was trained for fold 2, not 1, and has heard that fold's test clips"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_go_together_is_refused_in_one_line(pairs, tmp_path, changes, said):
    usual = features(mean=-7.0, std=3.0)
    folders = [write(tmp_path / name, *pair, **usual) for name, pair in zip("ab", pairs, strict=False)]
    assert average(folders)[2] == []
    folders[1] = write(tmp_path / "b", *pairs[1], **{**usual, **changes})
    with pytest.raises(ValueError, match=rf"/b: cannot be averaged with .*/a: {said}$") as error:
        average(folders)
    assert "\n" not in str(error.value)


def test_other_architectures_and_classifiers_are_refused(pairs, tmp_path):
    first, (encoder, head) = write(tmp_path / "a", *pairs[0]), pairs[1]
    deep = make_ast(depth=2, patch_size=[16, 16], num_mel_bins=32, num_frames=98)
    for other, said in (
        (write(tmp_path / "deep", deep, head), r"model\.depth=2, not 1$"),
        (write(tmp_path / "bare", encoder, None), "it has no classifier"),
        (write(tmp_path / "plain", encoder, nn.Linear(16, 3)), "its classifier has other layers"),
    ):
        with pytest.raises(ValueError, match=said):
            average([first, other])


def test_a_mean_needs_two_models_that_have_something_in_common(pairs, tmp_path):
    first = write(tmp_path / "a", *pairs[0])
    with pytest.raises(ValueError, match="a mean needs two models or more"):
        average([first])
    with pytest.raises(ValueError, match="is given twice"):
        average([first, first / ".." / "a"])
    torch.manual_seed(7)
    stranger = write(tmp_path / "stranger", make_small(), nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3)))
    _, _, (note,) = average([first, stranger])
    assert "little in common" in note
    (first / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged or replaced"):
        average([first, stranger])


def test_rounding_of_the_normalisation_and_drop_path_are_no_difference(pairs, tmp_path):
    folders = [
        write(tmp_path / "a", *pairs[0], **features(mean=-7.0, std=3.0)),
        write(tmp_path / "b", *pairs[1], **features(mean=-7.01, std=3.02)),
    ]
    _, description, _ = average(folders)
    assert description["features"]["mean"] == -7.0


def test_encoders_that_heard_no_clips_serve_every_fold_and_other_splits_are_said(pairs, tmp_path):
    run = tmp_path / "run"
    folders = [
        write(run / "exported" / f"fold_{fold}" / "pretrained", pairs[int(fold)][0], None, meta={"fold": fold})
        for fold in "12"
    ]
    (run / "config.yaml").write_text("data: {name: demo}\nsource: {name: synth, real_share: 0.0}\n")
    assert "fold" not in average(folders)[1]["meta"]
    (run / "config.yaml").write_text("data: {name: demo}\nsource: {name: clips}\n")
    with pytest.raises(ValueError, match="trained for fold 2, not 1"):
        average(folders)
    own = []
    for name, train in (("one", 40), ("two", 45)):
        own.append(write(tmp_path / name / "exported" / "fold_1" / "finetuned", *pairs[train % 2]))
        (tmp_path / name / "config.yaml").write_text("data: {name: demo}\n")
        clips = {"train": train, "test": 50 - train, "digest": name}
        content = {"inputs": {"1": {"finetune": {"clips": clips}}}}
        (tmp_path / name / "summary.json").write_text(json.dumps(content))
    _, _, (note,) = average(own)
    assert "its fold has 45 training and 5 test clips" in note
