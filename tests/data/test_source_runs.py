"""Train on replicas of the published sets, from shards; stopped, to the same weights."""

import json
import os
import signal

import pytest
import test_audioset
import test_fsd50k
import test_librispeech
import test_sources
import test_speechcommands
import test_urbansound8k
from small_run import metric_steps, small, weights_hash

from vcrast.cli.data import run_prepare
from vcrast.cli.main import main, parser
from vcrast.config.resume import resolve
from vcrast.data.open import open_corpus
from vcrast.features.views import Views
from vcrast.run import run
from vcrast.runs.interrupt import Interrupted

pytestmark = pytest.mark.slow


def audioset(root):
    """Lists and sounds of 25 segments, two of them without a sound."""
    rows = {f"video-{number:05d}": ("0.000", ",".join(test_audioset.MIDS[number % 4 :: 200])) for number in range(20)}
    tested = {f"eval-{number:06d}": ("0.000", test_audioset.MIDS[number % 2]) for number in range(4)}
    test_audioset.lists(root, train=rows, tested=tested)
    there = (*list(rows)[:18], *test_audioset.BALANCED_ROWS, *tested)
    test_audioset.sounds(root, [f"audio/{video}.wav" for video in there])
    return root


SETS = {  # replica, words, clips and classes, what is evaluated
    "speechcommands": (
        test_speechcommands.replica,
        ["finetune.views.background_folder={root}/_background_noise_", "finetune.views.background_probability=0.5"],
        "140 clips, 35 classes, folds: test val", "accuracy",
    ),
    "urbansound8k": (test_urbansound8k.replica, ["data.folds=[10]"], "100 clips, 10 classes, folds: 1 2 3", "accuracy"),
    "librispeech": (
        test_librispeech.replica, ["data.options.subsets=[dev-clean]"], "35 clips, 3 classes, folds: test val",
        "accuracy",
    ),
    "audioset": (audioset, ["finetune.sampling=balanced"], "23 clips, 527 classes, folds: eval", "mAP"),
    "fsd50k": (test_fsd50k.replica, [], "17 clips, 200 classes, folds: test val", "mAP"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_prepared_trained_on_and_evaluated(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)  # takes longer than the runs
    replica, own, said, metric = SETS[name]
    root = replica(tmp_path / "data")
    own = [word.format(root=root) for word in own]
    words = [word for word in own if word.startswith("data.")]
    cache = [f"data.root={root}", f"data.cache_dir={tmp_path}/cache"]
    assert run_prepare(parser().parse_args(["data", "prepare", name, *cache, *words])) == 0
    assert said in capsys.readouterr().out
    shards, options = tmp_path / "shards", [word for word in words if word.startswith("data.options.")]
    shard = ["data", "shard", name, f"data.root={root}", *options, "--out", str(shards), "--clips-per-shard", "20"]
    assert main([*shard, "--workers", "0"]) == main(["data", "verify", str(shards)]) == 0

    def given(folder, *more):
        whole = small(
            folder, f"recipe={name}", "model=tiny", f"data.root={shards}", "data.mixed_shards=2",
            "stages=[finetune,evaluate]", *own,
            "finetune.batch_size=4", "finetune.steps=4", "evaluation=classifier", "data.cache=false", *more,
        )  # fmt: skip
        left_out = ("recipe=demo", "data.options", "evaluation.linear_probe")
        return [word for word in whole if word in own or not word.startswith(left_out)]

    undisturbed = run(resolve(given(tmp_path / "undisturbed")))
    real = Views.make

    def stopped(self, wavs, draws, view):
        if draws.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, wavs, draws, view)

    monkeypatch.setattr(Views, "make", stopped)
    with pytest.raises(Interrupted):
        run(resolve(given(tmp_path / "stopped", "data.num_workers=1")))
    monkeypatch.setattr(Views, "make", real)
    folder = run(resolve([f"run.resume={tmp_path}/stopped", "data.num_workers=0"]))
    assert metric_steps(folder) == metric_steps(undisturbed)
    assert weights_hash(folder) == weights_hash(undisturbed)
    (fold,) = json.loads((folder / "summary.json").read_text())["folds"].values()
    assert 0 <= fold["evaluate"][metric] <= 1


def test_the_thesiss_mixture_is_pretrained_on_and_each_set_finetuned_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)
    books, sounds = test_librispeech.replica(tmp_path / "books"), test_sources.esc(tmp_path / "esc", test_sources.FIFTY)
    subsets = "data.options.subsets=[dev-clean]"

    def given(folder, recipe, *own):
        left_out = ("recipe=demo", "data.options", "evaluation.linear_probe")
        words = small(tmp_path / folder, f"recipe={recipe}", "model=tiny", "evaluation=classifier", *own)
        return [word for word in words if word in own or not word.startswith(left_out)]

    of_each = [f"data.sources.librispeech.{key}" for key in (f"root={books}", subsets.removeprefix("data."))]
    config = resolve(given("pretrained", "thesis", *of_each, f"data.sources.esc50.root={sounds}", "pretrain.steps=3"))
    heard, _ = open_corpus(config.data).split("1")
    assert {clip.fold for clip in heard} == {"train", "2", "3", "4", "5"}
    assert (len(heard), config.stages) == (27 + 120, ["pretrain"])
    first = run(config)
    tuned = ["stages=[finetune,evaluate]", f"model.checkpoint={first}", "finetune.batch_size=4", "finetune.steps=2"]
    for recipe, *own in (("esc50", f"data.root={sounds}"), ("librispeech", f"data.root={books}", subsets)):
        folder = run(resolve(given(recipe, recipe, *tuned, *own)))
        assert f"encoder weights from {first}" in (folder / "train.log").read_text()
        (fold,) = json.loads((folder / "summary.json").read_text())["folds"].values()
        assert 0 <= fold["evaluate"]["accuracy"] <= 1
    with pytest.raises(ValueError, match="pretrained on fold 1 of the same data, not on fold 2"):
        run(resolve(given("heard", "esc50", *tuned, f"data.root={sounds}", "data.folds=[2]")))
