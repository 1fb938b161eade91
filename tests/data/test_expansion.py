"""Slowed recordings are heard as files whose header has the true rate."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shipped import shipped
from small_run import small
from sound_files import settings, write

import vcrast
from vcrast.cli.main import main
from vcrast.config.resume import resolve
from vcrast.data.audio import header, read_wav
from vcrast.data.fingerprint import fingerprint
from vcrast.data.open import open_corpus, open_data
from vcrast.features.fbank import Fbank
from vcrast.run import run

FACTOR = 10
TRUE_RATE = 96000
KINDS = [("slow", TRUE_RATE // FACTOR, FACTOR), ("true", TRUE_RATE, None)]


def call(number, seconds=0.4):
    """A sweep from high to low, as a bat's."""
    time = np.arange(round(seconds * TRUE_RATE)) / TRUE_RATE
    hz = 9000 - 800 * number - 4000 * time
    return (0.4 * np.sin(2 * np.pi * np.cumsum(hz) / TRUE_RATE) * np.hanning(len(time))).astype(np.float32)


@pytest.fixture
def folders(tmp_path):
    """The same calls, once slowed down ten times and once not."""
    for name, rate, _ in KINDS:
        for number in range(8):
            write(tmp_path / name / "ab"[number % 2] / f"{number}.wav", call(number, 0.3 + 0.05 * number), rate)
    return tmp_path


def test_a_file_is_read_as_one_with_the_true_rate(tmp_path):
    slow, true = (write(tmp_path / f"{name}.wav", call(1), rate) for name, rate, _ in KINDS)
    assert header(slow, FACTOR) == header(true) == (TRUE_RATE, 38400)
    for stretch in ({}, {"start_s": 0.1, "duration_s": 0.05}, {"start_s": 0.35, "duration_s": 9.0}):
        read = read_wav(slow, sample_rate=32000, time_expansion=FACTOR, **stretch)
        np.testing.assert_array_equal(read, read_wav(true, sample_rate=32000, **stretch))
    assert len(read_wav(slow, sample_rate=32000)) == FACTOR * len(read_wav(true, sample_rate=32000))


@pytest.mark.parametrize("cache", [False, True])
def test_clips_lengths_and_statistics_are_those_of_the_recording(folders, cache):
    seen = []
    for name, _, factor in KINDS:
        shared = {"root": str(folders / name), "time_expansion": factor, "sample_rate": 32000, "clip_duration_s": 0.5}
        data = settings("folder", options={"num_folds": 2}, cache=cache, cache_dir=str(folders / "cache"), **shared)
        opened = open_data(data, open_corpus(data))
        train = opened.dataset(opened.corpus.clips, seed=0)
        fbank = Fbank(**shipped("features/fbank", num_mel_bins=16), sample_rate=32000)
        seen.append(
            (
                [train.length(place) for place in range(8)],
                torch.stack([train[place, 3].wav for place in range(8)]),
                torch.tensor(opened.statistics(train, fbank, settings={})),
                opened.notes,
            )
        )
    assert seen[0][0] == seen[1][0]
    assert sorted(seen[0][0]) == [round(32000 * (0.3 + 0.05 * number)) for number in range(8)]
    torch.testing.assert_close(seen[0][1:3], seen[1][1:3], rtol=0, atol=0)
    assert seen[0][3] == seen[1][3]


def test_another_factor_is_another_cache_and_other_data(folders):
    root, found, prints = str(folders / "slow"), set(), set()
    for factor in (None, 1.0, 5.0, 10.0):
        data = settings("folder", root=root, options={"num_folds": 2}, time_expansion=factor, cache=True,
                        cache_dir=str(folders / "cache"), sample_rate=32000)  # fmt: skip
        corpus = open_corpus(data)
        found.add(open_data(data, corpus).store.path)
        prints.add(json.dumps(fingerprint(corpus, "1")))
    assert (len(found), len(prints)) == (3, 3), "1 is none"


def test_times_of_a_list_are_those_of_the_recording(folders):
    rows = ["path,label,start,end", "a/0.wav,a,0.1,0.2", "b/1.wav,b,0.05,0.3"]
    read = []
    for name, _, factor in KINDS:
        path = folders / name / "list.csv"
        path.write_text("\n".join(rows))
        data = settings("manifest", path=str(path), time_expansion=factor, sample_rate=32000)
        corpus = open_corpus(data, trains=False)
        read.append(open_data(data, corpus).dataset(corpus.clips, seed=0)._whole(1))
    np.testing.assert_array_equal(*read)
    assert len(read[0]) == 8000
    path = folders / "slow" / "list.csv"
    path.write_text("path,label,start,end\na/0.wav,a,1.0,1.5\nb/1.wav,b,0,0.1")  # in the file, not in the recording
    with pytest.raises(ValueError, match=r"line 2: .*starts at 1 s, but the file has 0\.300 s"):
        open_corpus(settings("manifest", path=str(path), time_expansion=FACTOR), trains=False)
    open_corpus(settings("manifest", path=str(path)), trains=False)


def test_packed_clips_have_the_true_rate(folders):
    for name, _, factor in KINDS:
        more = [f"data.time_expansion={factor}"] if factor else []
        words = ["data", "shard", "folder", f"data.root={folders}/{name}", "data.sample_rate=32000", "--workers", "0"]
        assert main([*words, *more, "--out", str(folders / f"{name}-shards")]) == 0
    tars = [(folders / f"{name}-shards" / "clips-000000.tar").read_bytes() for name in ("slow", "true")]
    assert tars[0] == tars[1]
    again = [*words[:3], f"data.root={folders}/slow", *words[4:], "--out", str(folders / "slow-shards")]
    assert main(again) == 2, "without the factor it is another packing"


def lengths(root, **given):
    data = settings("folder", root=str(root), sample_rate=32000, clip_duration_s=0.5, **given)
    corpus = open_corpus(data, trains=False)
    opened = open_data(data, corpus).dataset(corpus.clips, seed=0)
    assert [len(opened._whole(place)) for place in range(8)] == [opened.length(place) for place in range(8)]
    return sorted(opened.length(place) for place in range(8))


def test_shards_are_slowed_down_where_they_were_packed_so_and_only_there(folders):
    words = ["data", "shard", "folder", f"data.root={folders}/slow", "data.sample_rate=9600", "--workers", "0"]
    assert main([*words, "--out", str(folders / "raw")]) == 0
    assert main([*words, "data.time_expansion=10", "data.sample_rate=32000", "--out", str(folders / "packed")]) == 0
    expected = lengths(folders / "true")
    assert lengths(folders / "raw", time_expansion=FACTOR) == expected
    for factor in (None, 1.0, FACTOR):
        assert lengths(folders / "packed", time_expansion=factor) == expected
    with pytest.raises(ValueError, match=r"data\.time_expansion=5: the shards at .* were packed with 10; set that, or"):
        lengths(folders / "packed", time_expansion=5.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=synthetic", "data.time_expansion=10"], "data.time_expansion=10: data=synthetic is generated"),
        (["data=folder", "data.time_expansion=0"], "data.time_expansion=0"),
        (["data=[folder,esc50]", "data.time_expansion=10"], "say which; data.sources.folder.time_expansion=..."),
    ],
)
def test_a_factor_without_effect_or_sense_is_refused(capsys, words, said):
    name, *more = words
    assert main(["data", "stats", name.removeprefix("data="), *more]) == 2
    assert said in capsys.readouterr().err


def test_each_dataset_of_a_mixture_has_its_own(folders):
    sources = {
        name: {"name": "folder", "root": str(folders / name), "time_expansion": factor} for name, _, factor in KINDS
    }
    data = settings("mixture", sources=sources, sample_rate=32000)
    clips = open_corpus(data).clips
    opened = open_data(data, open_corpus(data)).dataset(clips, seed=0)
    for place in range(8):
        assert clips[place].time_expansion == FACTOR
        np.testing.assert_array_equal(opened._whole(place), opened._whole(place + 8))


@pytest.mark.slow
def test_a_run_a_score_and_a_prediction_are_the_same(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)  # takes longer than the runs
    monkeypatch.chdir(tmp_path)
    made = {}
    for name, _, factor in KINDS:
        own = [f"data.root={folders}/{name}", *([f"data.time_expansion={factor}"] if factor else [])]
        words = small(
            tmp_path / f"run-{name}", "data=folder", *own, "data.options.num_folds=2", "data.folds=[1]",
            "data.sample_rate=32000", "data.mean=null", "data.std=null", "data.clip_duration_s=0.4",
            "pretrain.batch_size=4", "pretrain.steps=2", "finetune.batch_size=4", "finetune.steps=2", "run.device=cpu",
            "evaluation=classifier", "pretrain.watch_clips=4",
        )  # fmt: skip
        left_out = ("data.options.num_clips", "data.options.classes", "evaluation.linear_probe")
        done = run(resolve([word for word in words if not word.startswith(left_out)]))
        model = vcrast.load(done)
        sound = str(folders / name / "a" / "4.wav")
        assert main(["evaluate", str(done), "data=folder", *own[:1], "--out", str(tmp_path / f"score-{name}")]) == 0
        assert main(["predict", str(done), sound]) == 0
        with open(tmp_path / f"score-{name}" / "predictions.csv", encoding="utf-8") as file:
            scores = [{key: row[key] for key in row if key.startswith("score")} for row in csv.DictReader(file)]
        made[name] = (load_file(next(done.rglob("finetuned/weights.safetensors"))), model.predict(sound), scores)
        assert model.meta["time_expansion"] == factor
    torch.testing.assert_close(*[weights for weights, _, _ in made.values()], rtol=0, atol=0)
    assert made["slow"][1:] == made["true"][1:]
