"""Check windows, padding and arrays against loops without the model's code."""

from __future__ import annotations

import itertools
import math
import weakref

import numpy as np
import pytest
import soundfile as sf
import torch
from parts import make_ast
from shipped import shipped
from torch import nn

from vcrast.data.audio import Decoded, read_wav
from vcrast.features.fbank import Fbank
from vcrast.inference import Model
from vcrast.inference.pieces import Cutter, Piece

RATE = 8000
LABELS = ("dog", "rain", "sea")


@pytest.fixture(scope="module")
def own():
    """Encoder, front end and head."""
    torch.manual_seed(0)
    encoder = make_ast(depth=1, patch_size=[16, 16], num_mel_bins=32, num_frames=98).eval()
    features = Fbank(**shipped("features/fbank", num_mel_bins=32, sample_rate=RATE, mean=-7.0, std=3.0))
    return encoder, features, nn.Linear(16, 3).eval()


@pytest.fixture
def model(own):
    return Model(*own, labels=LABELS, multilabel=False, clip_duration_s=1.0, pad="silence", meta={})


def noise(seconds, seed=0, rate=RATE):
    return np.random.default_rng(seed).normal(size=round(seconds * rate)).clip(-4, 4).astype(np.float32) / 5


@torch.no_grad()
def chances(own, window):
    """(C,) of one window (RATE,)."""
    encoder, features, head = own
    return head(encoder(features(torch.from_numpy(window)[None])).values.mean(dim=1))[0].softmax(dim=0)


def padded(wav, pad):
    return np.resize(wav, RATE) if pad == "repeat" else np.concatenate([wav, np.zeros(RATE - len(wav), np.float32)])


@pytest.mark.parametrize("pad", ["silence", "repeat"])
@pytest.mark.parametrize(("hop_s", "window_s"), [(0.5, None), (0.3, 0.4), (1.0, 0.25), (None, 0.7), (2.0, None)])
def test_windows_at_a_hop_are_a_loop(own, model, hop_s, window_s, pad):
    wav = noise(3.33)
    window, hop = window_s or 1.0, hop_s or window_s
    found = model.predict_windows(wav, RATE, hop_s=hop_s, window_s=window_s, pad=pad, batch_size=3)
    for number, heard in enumerate(found):
        start = round(number * hop * RATE)
        stop = min(start + round(window * RATE), len(wav))
        assert (heard.start_s, heard.end_s) == (start / RATE, stop / RATE)
        expected = chances(own, padded(wav[start:stop], pad))
        assert heard.scores == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-6)
        assert list(heard.scores.values()) == sorted(heard.scores.values(), reverse=True)
    assert found[-1].end_s >= 3.33 - 0.1 * window or found[-1].start_s + hop >= 3.33 - 0.1 * window


def test_a_window_longer_than_the_models_is_heard_as_a_sound_of_its_own(model):
    wav = noise(5.0)
    found = model.predict_windows(wav, RATE, window_s=2.5)
    assert [(heard.start_s, heard.end_s) for heard in found] == [(0.0, 2.5), (2.5, 5.0)]
    for heard, part in zip(found, (wav[:20000], wav[20000:]), strict=True):
        assert heard.scores == pytest.approx(model.predict(part, RATE), abs=1e-6)


def test_windows_without_a_hop_are_those_that_a_sounds_result_is_the_mean_of(own, model):
    wav = noise(2.7)
    times, vectors = model.embed_windows(wav, RATE)
    np.testing.assert_allclose(times, [(0, 1), (0.85, 1.85), (1.7, 2.7)])
    torch.testing.assert_close(vectors.mean(dim=0), model.embed(wav, RATE))
    found = model.predict_windows(wav, RATE, top=1)
    assert [len(heard.scores) for heard in found] == [1, 1, 1]
    mean = np.mean([chances(own, wav[start : start + RATE]) for start in (0, 6800, 13600)], axis=0)
    assert model.predict(wav, RATE) == pytest.approx(dict(zip(LABELS, mean.tolist(), strict=True)), abs=1e-6)


def test_a_tenth_longer_is_heard_in_the_middle(own, model):
    wav = noise(1.1)
    expected = chances(own, wav[400 : 400 + RATE])
    assert model.predict(wav, RATE) == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-6)
    assert model.tokens(wav, RATE).shape[0] == 1
    assert model.tokens(noise(1.11), RATE).shape[0] == 2


@pytest.mark.parametrize("pad", ["silence", "repeat"])
def test_how_short_sounds_are_filled_can_be_chosen(own, model, pad):
    wav = noise(0.6)
    expected = dict(zip(LABELS, chances(own, padded(wav, pad)).tolist(), strict=True))
    assert model.predict(wav, RATE, pad=pad) == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(model.embed(wav, RATE, pad="model"), model.embed(wav, RATE, pad="silence"))


def test_a_file_and_its_samples_are_the_same_sound(model, tmp_path):
    path = tmp_path / "a.wav"
    sf.write(path, np.stack([noise(1.5, 1, 44100), noise(1.5, 2, 44100)], axis=1), 44100)
    samples, rate = sf.read(path)
    expected = model.embed(path)
    assert torch.equal(model.embed(samples, rate), expected)
    assert torch.equal(model.embed(sf.read(path, dtype="int16")[0], rate), expected)
    of_torchaudio = torch.from_numpy(samples.T).float()  # (channels, samples)
    assert torch.equal(model.embed(of_torchaudio, rate, layout="channels"), expected)
    assert torch.equal(model.embed([samples, path], rate)[0], expected)
    assert torch.equal(model.embed([of_torchaudio], rate, layout="channels")[0], expected)
    assert model.embed(of_torchaudio, rate, layout="batch").shape == (2, 16)
    assert model.embed(of_torchaudio[:1], rate).shape == (1, 16)  # a batch of one, as torchaudio's mono
    assert model.embed(np.stack([noise(0.1, seed) for seed in range(9)]), RATE).shape == (9, 16)
    assert torch.equal(model.embed_windows(of_torchaudio, rate, layout="channels")[1].mean(dim=0), expected)
    for batch, said in ((np.zeros((2, RATE)), "2 channels .* or 2 clips"), (np.zeros((20, RATE)), "in place of one")):
        with pytest.raises(ValueError, match=said):
            model.predict_windows(batch, RATE)  # else they would be mixed into one sound
    assert model.embed([path, noise(1.0)], RATE).shape == (2, 16)


def test_what_is_assumed_is_said_once(model, caplog):
    hot = noise(1.0) * (3.5 / abs(noise(1.0)).max())
    for _ in range(2):
        model.embed(noise(1.0))
        model.embed(noise(0.25), RATE)
        model.embed(hot, RATE)
    rate, padding, scale = caplog.messages
    assert rate == "no sample_rate given: 8000 Hz assumed, the model's"
    assert padding.startswith("75 % of the sounds' time is padding (silence behind them)")
    assert "windows of 1 s, half of the sounds are no longer than 0.25 s" in padding
    assert scale == "an array: samples beyond 1, divided by their full scale 4"


def test_half_padding_is_not_said(model, caplog):
    model.embed(noise(0.5), RATE)
    model.embed([noise(0.1), noise(5), noise(5)], RATE)
    assert not caplog.messages


def test_floats_beyond_1_are_the_recording_that_goes_up_to_1(model):
    torch.testing.assert_close(model.embed(noise(1.0) * 32768, RATE), model.embed(noise(1.0), RATE))


def test_sounds_are_read_when_needed_and_not_kept(model, monkeypatch):
    seen, most = [], []

    def read(path):
        wav = noise(1.0, int(path))
        seen.append(weakref.ref(wav))
        most.append(sum(each() is not None for each in seen))
        return Decoded(wav, RATE, 1.0)

    monkeypatch.setattr(model, "read_file", read)
    assert model.embed([str(number) for number in range(20)], batch_size=4).shape == (20, 16)
    assert max(most) <= 9, "a batch that is computed, and one that is gathered"


def test_pieces_are_views_and_taken_when_needed():
    cutter, wav = Cutter(100, 100, "silence"), torch.arange(10_000.0)
    taken = []

    def pieces():
        for piece in cutter.along("x", wav, hop_s=0.01):
            assert wav.data_ptr() <= piece.wav.data_ptr() <= wav.data_ptr() + 4 * len(wav)
            taken.append(piece)
            yield piece

    sizes = []

    def first_samples(batch):
        sizes.append(len(batch))
        return batch[:, 0]

    heard = cutter.heard(pieces(), first_samples, batch_size=7)
    few = list(itertools.islice(heard, 3))
    assert [float(rows) for _, rows in few] == [0.0, 1.0, 2.0]
    assert (len(taken), sizes) == (7, [7])
    assert len(list(heard)) == 9901 - 3
    assert max(sizes) == 7


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_do_not_mix_sounds_up(batch_size):
    cutter = Cutter(10, 10, "repeat")
    sounds = [torch.full((length,), float(number)) for number, length in enumerate([3, 10, 11, 12, 57, 1, 20])]
    pieces = [Piece(str(number), 0, 1, sound) for number, sound in enumerate(sounds)]
    found = list(cutter.heard(pieces, lambda batch: batch.mean(dim=1), batch_size=batch_size))
    assert [piece.sound for piece, _ in found] == ["0", "1", "2", "3", "4", "5", "6"]
    assert [rows.tolist() for _, rows in found] == [
        [float(number)] * max(1, math.ceil(len(sound) / 10 - 0.1)) for number, sound in enumerate(sounds)
    ]


@pytest.mark.parametrize(("options", "said"), [({"hop_s": 0.0}, "hop_s=0"), ({"window_s": float("nan")}, "window_s")])
def test_hops_that_are_none(model, options, said):
    with pytest.raises(ValueError, match=f"{said}.*at least one sample"):
        model.predict_windows(noise(1.0), RATE, **options)


def test_reading_is_what_evaluate_reads(model, tmp_path):
    path = str(tmp_path / "a.wav")
    sf.write(path, noise(1.0, rate=22050), 22050)
    (wav,), several = model.read(path)
    assert not several
    np.testing.assert_array_equal(wav, read_wav(path, sample_rate=RATE))


@pytest.mark.parametrize(
    ("wav", "said"),
    [
        ({"array": noise(1.0), "sampling_rate": RATE}, "of array, sampling_rate.*two arguments"),
        ([{"array": noise(1.0)}], "of array.*two arguments"),
        ((noise(1.0), RATE), "not int 8000; samples and their rate are two arguments"),
        ((path for path in ["a.wav"]), "generator: make a list of it"),
        ("FOLDER", "a folder; give a list of its sounds"),
        (b"RIFF", "not int 82"),
    ],
)  # fmt: skip
def test_what_is_no_sound_is_named(model, tmp_path, wav, said):
    with pytest.raises(ValueError, match=said):
        model.predict(tmp_path if isinstance(wav, str) else wav)
