"""Pretraining on generated pairs: the stream, alone and mixed with recordings, and whole runs on it."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from shipped import shipped
from small_run import metric_steps, small, weights_hash
from test_run import run_here, stop_after_lines

from vcrast.cli.start import start
from vcrast.config.compose import compose
from vcrast.data.streams import clips_per_epoch, open_stream, real_places, recordings_per_batch
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views

PAIRS = ("source=synth", "views=masks", "source.num_layers=1", "source.pairs_per_epoch=64")


def job(*words, num_clips=40):
    """What a stream reads of a job; its recordings are ramps, so that each can be told from generated sound."""
    config = compose(["source=synth", "data.clip_duration_s=1.0", "pretrain.batch_size=8", *words])
    return SimpleNamespace(
        config=config, num_samples=16000, device=torch.device("cpu"), seed=lambda purpose: 5, train=[None] * num_clips
    )


@pytest.fixture
def ramps(monkeypatch):
    """Stands in for the loader: recording i of batch s is constantly 2 + i + s / 10, louder than any sound."""

    def batches(dataset, *, batch_size, start_step, num_steps, rank, world_size, **_):
        share = batch_size // world_size
        for step in range(start_step, num_steps):
            level = 2.0 + torch.arange(rank * share, (rank + 1) * share) + step / 10
            yield SimpleNamespace(wav=level.unsqueeze(1).expand(-1, 16000))

    monkeypatch.setattr("vcrast.data.streams.training_batches", batches)


def test_batches_are_pairs_of_the_stream_on_any_number_of_ranks():
    stream = open_stream(job())
    assert (stream.clip_shape, stream.clips_per_epoch, stream.same_for_all_folds) == ((2, 16000), 4096, True)
    whole = list(stream.batches(3, 5))
    assert [wavs.shape for wavs in whole] == [(8, 2, 16000)] * 2
    for world_size in (2, 4):
        ranks = [list(open_stream(job()).batches(3, 5, rank=rank, world_size=world_size)) for rank in range(world_size)]
        for step in range(2):
            assert torch.equal(torch.cat([rank[step] for rank in ranks]), whole[step])
    assert torch.equal(next(open_stream(job()).batches(4, 5)), whole[1])
    with pytest.raises(ValueError, match=r"pretrain\.batch_size=8: no multiple of 3 processes"):
        stream.batches(0, 1, world_size=3)


def test_recordings_take_their_share_at_fixed_places(ramps):
    stream = open_stream(job("source.real_share=0.5"))
    assert not stream.same_for_all_folds
    whole = next(stream.batches(2, 3))
    real = whole[:, 0].amax(dim=1) > 1.5
    assert real.tolist() == real_places(4, 8).tolist()
    assert torch.equal(whole[real, 0], whole[real, 1])
    assert whole[real, 0, 0].tolist() == pytest.approx([2.2, 3.2, 4.2, 5.2])
    generated = next(open_stream(job()).batches(2, 3))
    assert torch.equal(whole[~real], generated[~real])
    ranks = [next(open_stream(job("source.real_share=0.5")).batches(2, 3, rank=r, world_size=4)) for r in range(4)]
    assert torch.equal(torch.cat(ranks), whole)


@pytest.mark.parametrize(("num_real", "batch_size"), [(0, 8), (1, 8), (4, 8), (6, 12), (7, 8), (96, 256)])
def test_places_are_spread_evenly(num_real, batch_size):
    places = real_places(num_real, batch_size)
    assert int(places.sum()) == num_real
    for ranks in (2, 4):
        if num_real % ranks == 0:
            assert {int(part.sum()) for part in places.view(ranks, -1)} == {num_real // ranks}


def test_counts():
    synth, clips = compose(["source=synth", "source.real_share=0.25"]).source, compose([]).source
    assert (recordings_per_batch(synth, 64), recordings_per_batch(clips, 64)) == (16, 64)
    assert (clips_per_epoch(synth, 100), clips_per_epoch(clips, 100)) == (4096, 100)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("source.real_share=1.0", r"source\.real_share=1\.0: must be at least 0 and below 1"),
        ("source.pairs_per_epoch=7", r"source\.pairs_per_epoch=7: less than one batch; set 8 or more"),
        ("source.distance=-1.0", r"distance=-1\.0 must be a number from 0"),
    ],
)
def test_mistakes_are_named(word, said):
    with pytest.raises(ValueError, match=said):
        open_stream(job(word))
    with pytest.raises(ValueError, match=r"source\.duration_s=2\.0: clips of a batch have one length"):
        open_stream(job("source.real_share=0.5", "source.duration_s=2.0"))


def test_views_of_a_pair_are_those_of_its_two_sounds():
    views = Views(Fbank(**shipped("features/fbank", sample_rate=16000)), **compose([]).views)
    pairs, draws = 0.1 * torch.randn(5, 2, 8000), Draws(0, 0, 5)
    both = views.two(pairs, draws)
    torch.testing.assert_close(both[0], views.make(pairs[:, 0], draws, "a"), rtol=0, atol=0)
    torch.testing.assert_close(both[1], views.make(pairs[:, 1], draws, "b"), rtol=0, atol=0)
    twice = pairs[:, :1].expand(-1, 2, -1)
    torch.testing.assert_close(views.two(twice, draws), views.two(pairs[:, 0], draws), rtol=0, atol=0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream") / "finished"
    run_here(folder, *PAIRS, "data.folds=[1,2]")
    return folder


def losses(folder, fold="1"):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "invariance" in line and line["fold"] == fold]


def test_a_run_on_pairs_pretrains_once_for_all_folds(finished):
    folds = json.loads((finished / "summary.json").read_text())["folds"]
    assert [step for fold, stage, step in metric_steps(finished) if stage == "pretrain"] == list(range(1, 13))
    assert folds["2"]["pretrain"]["loss"] == folds["1"]["pretrain"]["loss"]
    assert folds["2"]["pretrain"]["wall_s"] == 0
    first, second = (load_file(finished / f"exported/fold_{fold}/pretrained/weights.safetensors") for fold in "12")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "knn_accuracy" in folds["2"]["evaluate"]
    # The views that the report shows are of a pair: two sounds, not one twice.
    views = load_file(finished / "views/fold_1.safetensors")
    assert views["view_a"].shape == views["view_b"].shape == views["original"].shape


def test_the_loss_on_pairs_falls(tmp_path):
    run_here(tmp_path / "falls", *PAIRS, "stages=[pretrain]", "pretrain.steps=24", "optim.lr=2e-3")
    found = losses(tmp_path / "falls")
    assert sum(found[-4:]) < sum(found[:4])


def test_micro_batches_do_not_matter(finished, tmp_path):
    run_here(tmp_path / "micro", *PAIRS, "pretrain.micro_batch_size=5", "stages=[pretrain]")
    assert losses(tmp_path / "micro") == pytest.approx(losses(finished), rel=1e-4)


def test_a_stopped_run_goes_on_to_the_same_weights(finished, tmp_path):
    folder = tmp_path / "stopped"
    words = small(folder, *PAIRS, "data.folds=[1,2]")
    stop_after_lines(folder, words, 4)
    assert 0 < len(losses(folder)) < 12
    assert start(words) == 0
    assert metric_steps(folder) == metric_steps(finished)
    assert weights_hash(folder) == weights_hash(finished)


def test_recordings_mixed_in_depend_on_the_fold(tmp_path):
    words = (*PAIRS, "source.real_share=0.5", "data.folds=[1,2]", "stages=[pretrain]", "pretrain.steps=3")
    run_here(tmp_path / "mixed", *words)
    assert len(losses(tmp_path / "mixed", "1")) == len(losses(tmp_path / "mixed", "2")) == 3
    assert losses(tmp_path / "mixed", "1") != losses(tmp_path / "mixed", "2")


def test_a_batch_may_be_larger_than_the_labelled_set_unless_recordings_fill_it(tmp_path):
    words = (*PAIRS, "pretrain.batch_size=64", "pretrain.steps=1", "stages=[pretrain]")
    run_here(tmp_path / "large", *words)
    with pytest.raises(ValueError, match=r"pretrain\.batch_size=58: fold 1 has only 48 training clips"):
        run_here(tmp_path / "mixed", *words, "source.real_share=0.9")


def test_dry_run_counts_pairs(tmp_path, capsys):
    words = small(tmp_path / "dry", *PAIRS, "pretrain.steps=null", "pretrain.epochs=3")
    assert start(words, dry_run=True) == 0
    assert "pretrain: 12 steps of batch 16 on 64 clips" in capsys.readouterr().out


def test_the_recipe_runs_on_the_generated_classes_without_any_file(tmp_path):
    tiny = [word for word in small(tmp_path / "synth") if not word.startswith(("recipe=", "data.clip_duration_s"))]
    words = ["recipe=synth", *tiny, "source.duration_s=0.5", "data.clip_duration_s=1.0", "pretrain.steps=2"]
    assert start(words) == 0
    summary = json.loads((tmp_path / "synth" / "summary.json").read_text())
    assert summary["classes"] == ["siren", "rain", "dog_bark"]
    assert set(summary["folds"]["1"]) == {"pretrain", "finetune", "evaluate"}


def test_the_recipe_runs_on_real_esc10(esc10_root, tmp_path):
    tiny = [word for word in small(tmp_path / "synth") if not word.startswith(("recipe=", "data.options"))]
    words = ["recipe=synth", f"data.root={esc10_root}", *tiny, "source.duration_s=0.5", "pretrain.steps=2"]
    assert start(words) == 0
    summary = json.loads((tmp_path / "synth" / "summary.json").read_text())
    assert len(summary["classes"]) == 10
    assert summary["folds"]["1"]["evaluate"]["num_test_clips"] == 80
