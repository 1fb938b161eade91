"""Check what is said of a front end: empty filters, statistics of another one."""

import json

import numpy as np
import pytest
import soundfile
from small_run import small

import vcrast
from vcrast.config.compose import compose
from vcrast.config.resume import resolve
from vcrast.features.fbank import build_fbank
from vcrast.run import run
from vcrast.runs.front_end import front_end_notes


def notes(*words):
    return front_end_notes(compose(["recipe=demo", "data=folder", *words]))


@pytest.mark.parametrize("rate", [11_025, 16_000, 32_000, 44_100, 48_000, 250_000])
def test_nothing_is_said_at_usual_rates_nor_of_the_asts_own_filter(rate):
    assert notes(f"data.sample_rate={rate}") == []


def test_empty_filters_are_counted_and_what_is_said_to_set_has_none():
    (text,) = notes("data.sample_rate=8000")
    assert text == (
        "4 of 128 mel filters are empty at data.sample_rate=8000 (4, 7, 12, 17): they lie between two FFT bins and "
        "never hear anything; set features.num_mel_bins=80 or features.window_ms=33"
    )
    for word in ("features.num_mel_bins=80", "features.window_ms=33"):
        assert notes("data.sample_rate=8000", word) == []
        config = compose(["recipe=demo", "data.sample_rate=8000", word])
        assert build_fbank(config.features, sample_rate=8000).empty_filters == []
    bats = [
        "data.sample_rate=250000",
        "features.low_freq_hz=10000",
        "features.window_ms=1",
        "features.frame_shift_ms=0.5",
    ]
    (text,) = notes(*bats)
    assert text.startswith("15 of 128 mel filters are empty at data.sample_rate=250000 (0, 1, 4, 5, 8 and 10 more)")
    assert text.endswith("set features.num_mel_bins=64 or features.window_ms=2")
    assert notes(*bats, "features.window_ms=2") == []
    (text,) = notes("data.sample_rate=8000", "features.num_mel_bins=16", "features.low_freq_hz=3900")
    assert text.endswith("fewer features.num_mel_bins or a longer features.window_ms have less")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.sample_rate=44100"], "data.sample_rate=44100;"),
        (["features.window_ms=32", "features.num_mel_bins=64"], "features.num_mel_bins=64, features.window_ms=32;"),
        (["features.frame_shift_ms=5"], ""),
        (["features=quaternion"], ""),
        (["data.sample_rate=44100", "data.mean=-5", "data.std=4"], ""),
        (["data.sample_rate=44100", "data.mean=null", "data.std=null"], ""),
    ],
)
def test_published_statistics_are_those_of_the_published_front_end(words, said):
    found = notes("data=esc50", *words)
    assert len(found) == bool(said)
    assert all(f"data.mean=-6.6268077 and data.std=5.358466 were not measured with {said}" in text for text in found)


@pytest.mark.slow
def test_a_run_on_bats_goes_all_the_way_and_keeps_the_note(tmp_path):
    rate = 250_000
    time, rng = np.arange(round(0.2 * rate)) / rate, np.random.default_rng(0)
    for label, hz in (("low", 0.2 * rate), ("high", 0.4 * rate)):
        (tmp_path / "bats" / label).mkdir(parents=True)
        for number in range(10):
            wav = 0.5 * np.sin(2 * np.pi * hz * (1 + number / 100) * time) + 0.01 * rng.standard_normal(len(time))
            soundfile.write(tmp_path / "bats" / label / f"{number:02}.wav", wav, rate)
    given = small(
        tmp_path / "run", f"data.sample_rate={rate}", f"data.root={tmp_path}/bats", "data.clip_duration_s=0.2",
        "features.low_freq_hz=10000", "features.window_ms=1", "features.frame_shift_ms=0.5",
        "pretrain.batch_size=8", "finetune.batch_size=8", "pretrain.steps=2", "finetune.steps=2",
        "pretrain.watch_clips=4",
    )  # fmt: skip
    folder = run(resolve(["data=folder", *(word for word in given if not word.startswith("data.options"))]))
    (note,) = notes(*(word for word in given if word.startswith("features.")), f"data.sample_rate={rate}")
    assert note in json.loads((folder / "summary.json").read_text())["warnings"]
    scores = vcrast.load(folder).predict(str(tmp_path / "bats" / "low" / "00.wav"))
    assert scores.keys() == {"low", "high"}
