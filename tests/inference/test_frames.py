"""Check scores of frames: their times, and that a toy finds in which half an event lies."""

import csv
import io

import numpy as np
import pytest
import soundfile as sf
import torch
from exported import RATE, make_small, write_model
from parts import make_adamw, make_htsat
from shipped import shipped
from torch import nn
from torch.nn import functional as F

from vcrast.cli.main import main
from vcrast.features.fbank import Fbank
from vcrast.inference import load
from vcrast.inference.pieces import Cutter, Piece, frames_of
from vcrast.models.classifier import classify
from vcrast.models.export import export

LABELS = ("low", "high", "none")
HERTZ = {"low": 600.0, "high": 2400.0}


def sound(events, seconds=1.0, seed=0):
    """Quiet noise with tones: (label, begin, end) in s."""
    wav = 0.01 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    for label, start, end in events:
        places = np.arange(round(start * RATE), round(end * RATE))
        wav[places] += 0.3 * np.sin(2 * np.pi * HERTZ[label] * places / RATE)
    return wav.astype(np.float32)


def batch(draws, count=16):
    """Clips in which each tone is in the first half, in the second, or absent; the labels of the whole clips alone."""
    wavs, labels = [], torch.zeros(count, 3)
    for number in range(count):
        places = draws.integers(3, size=2)
        events = [
            (label, 0.5 * place, 0.5 * place + 0.5) for label, place in zip(HERTZ, places, strict=True) if place < 2
        ]
        labels[number, :2] = torch.tensor(places < 2)
        wavs.append(sound(events, seed=int(draws.integers(2**31))))
    labels[:, 2] = labels[:, :2].sum(dim=1) == 0
    return torch.from_numpy(np.stack(wavs)), labels


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An exported HTS-AT that has learnt from labels of clips which tone they hold, not when."""
    torch.manual_seed(0)
    sizes = {"num_mel_bins": 32, "num_frames": 98, "patch_size": [4, 4], "num_chunks": 2}
    encoder, options = make_htsat(**sizes), shipped("features/fbank", num_mel_bins=32)
    head, fbank = encoder.build_head(3), Fbank(**options, sample_rate=RATE, mean=-8.0, std=4.0)
    optimizer, draws = make_adamw(nn.ModuleList([encoder, head]), lr=1e-2), np.random.default_rng(0)
    for _ in range(60):
        wavs, labels = batch(draws)
        loss = F.binary_cross_entropy_with_logits(classify(encoder, head, encoder(fbank(wavs))), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    folder = tmp_path_factory.mktemp("frames") / "model"
    export(
        folder, encoder=encoder, head=head, features={**options, "mean": -8.0, "std": 4.0}, labels=LABELS,
        multilabel=True, sample_rate=RATE, clip_duration_s=1.0, pad="silence", meta={},
    )  # fmt: skip
    return folder


def test_frames_tell_in_which_half_an_event_lies(trained):
    model = load(trained)
    for number, label in enumerate(HERTZ):
        for start in (0.0, 0.5):
            times, scores = model.frame_scores(sound([(label, start, start + 0.5)], seed=9), RATE)
            assert (times.shape, scores.shape) == ((14, 2), (14, 3))
            inside = torch.from_numpy((times[:, 0] >= start) & (times[:, 1] <= start + 0.5))
            assert inside.sum() == 7
            assert scores[inside, number].mean() > scores[~inside, number].mean() + 0.3


def test_the_mean_of_the_frames_logits_is_the_clips(trained):
    model, wav = load(trained), sound([("low", 0.2, 0.6)])
    _, scores = model.frame_scores(wav, RATE)
    assert model.predict(wav, RATE)["low"] == pytest.approx(scores.logit().mean(dim=0).sigmoid()[0].item(), abs=1e-3)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0, 2.55])
def test_every_moment_is_scored_once(trained, seconds):
    model = load(trained)
    wav = sound([("high", seconds - 0.25, seconds)], seconds)
    times, scores = model.frame_scores(wav, RATE, pad="repeat")
    assert (times[0, 0], times[-1, 1]) == (0.0, pytest.approx(seconds))
    np.testing.assert_allclose(times[1:, 0], times[:-1, 1], atol=1e-6)
    assert (np.diff(times, axis=1) <= 1 / 14 + 1e-6).all()
    if seconds > 1:
        assert times[scores[:, 1].argmax(), 0] > seconds - 0.5


def test_frames_of_windows_that_overlap_by_hand():
    pieces = Cutter(100, 100, "silence").consecutive("a", torch.arange(250.0))
    assert [(piece.start_s, piece.end_s, len(piece.wav)) for piece in pieces] == [
        (0, 1, 100), (1, 2, 100), (1.5, 2.5, 100),
    ]  # fmt: skip
    times = {("a", 0.0, 1.0): [1, 2], ("a", 0.7, 1.7): [3, 4], ("b", 0.0, 0.6): [5, 6]}
    heard = [(Piece(*time, torch.empty(0)), torch.tensor(rows)) for time, rows in times.items()]
    found = [(p.sound, round(p.start_s, 9), round(p.end_s, 9), int(row)) for p, row in frames_of(heard, 1.0)]
    first = [("a", 0.0, 0.5, 1), ("a", 0.5, 1.0, 2), ("a", 1.0, 1.2, 3), ("a", 1.2, 1.7, 4)]
    assert found == [*first, ("b", 0.0, 0.5, 5), ("b", 0.5, 0.6, 6)]


def test_predict_writes_frames(trained, tmp_path, capsys):
    path = tmp_path / "a.wav"
    sf.write(path, sound([("low", 0.0, 0.5), ("high", 1.5, 2.0)], 2.0), RATE)
    assert main(["predict", str(trained), str(path), "--frames", "--csv", "--all"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    times, scores = load(trained).frame_scores(path)
    found = np.array([[float(row[key]) for key in ("start", "end", "score")] for row in rows if row["label"] == "low"])
    np.testing.assert_allclose(found, np.column_stack([times, scores[:, 0]]), atol=1e-4)
    assert main(["predict", str(trained), str(path), "--frames", "--format", "audacity", "--top", "1"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert (first.split("\t")[2], last.split("\t")[2]) == ("low", "high")


def test_what_has_no_frames_is_refused_in_one_line(trained, tmp_path, capsys):
    path = tmp_path / "a.wav"
    sf.write(path, sound([]), RATE)
    write_model(tmp_path / "ast", encoder=make_small(), head=nn.Linear(16, 3))
    assert main(["predict", str(tmp_path / "ast"), str(path), "--frames"]) == 2
    assert "knows no times within it; finetune a model=htsat" in capsys.readouterr().err
    with pytest.raises(ValueError, match="knows no times"):
        load(tmp_path / "ast").frame_scores(path)
    for word in (["--windows"], ["--hop", "1"], ["--window", "2"]):
        assert main(["predict", str(trained), str(path), "--frames", *word]) == 2
        assert "--frames: gives results within windows" in capsys.readouterr().err
