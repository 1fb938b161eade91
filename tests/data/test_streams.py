"""Pretrain on generated pairs, alone and mixed with recordings."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from shipped import shipped
from small_run import metric_steps, small, weights_hash
from test_run import run_here, stop_after_lines

from vcrast.cli.start import start
from vcrast.config.compose import compose
from vcrast.config.resume import resolve
from vcrast.data.clip import Clip
from vcrast.data.dataset import ClipDataset
from vcrast.data.streams import Supply, clips_per_epoch, open_stream, real_places, recordings_per_batch
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.run import run

pytestmark = pytest.mark.slow

PAIRS = ("source=synth", "views=masks", "source.num_layers=1", "source.pairs_per_epoch=64")


def stream(*words, clips=None, batch_size=8):
    """The source of a run with these words, on recordings `clips` if it hears any."""
    config = compose(["source=synth", "data.clip_duration_s=1.0", "pretrain.batch_size=8", *words])
    clips = SimpleNamespace(num_samples=16000) if clips is None else clips
    supply = Supply(
        data=config.data, clips=clips, batch_size=batch_size, order_seed=3, sound_seed=5, device=torch.device("cpu")
    )  # fmt: skip
    return open_stream(config.source, supply)


@pytest.fixture
def loud(tmp_path):
    """Twenty recordings of one second, i of constant level 0.5 + i / 50 and of class i % 2: no generated sound is."""
    clips = [Clip(str(tmp_path / f"{number}.wav"), labels=(number % 2,)) for number in range(20)]
    for number, clip in enumerate(clips):
        level = np.full(16000, 0.5 + number / 50, dtype=np.float32)
        soundfile.write(clip.path, level, 16000, subtype="FLOAT")
    return ClipDataset(
        clips, num_classes=2, sample_rate=16000, clip_duration_s=1.0, pad="silence", store=None, seed=0
    )  # fmt: skip


def test_batches_are_pairs_of_the_stream_on_any_number_of_ranks():
    pairs = stream()
    assert (pairs.clip_shape, pairs.clips_per_epoch, pairs.same_for_all_folds) == ((2, 16000), 4096, True)
    whole = list(pairs.batches(3, 5))
    assert [(batch.wav.shape, batch.label.shape) for batch in whole] == [((8, 2, 16000), (8, 0))] * 2
    assert [batch.index.tolist() for batch in whole] == [list(range(24, 32)), list(range(32, 40))]
    for world_size in (2, 4):
        ranks = [list(stream().batches(3, 5, rank=rank, world_size=world_size)) for rank in range(world_size)]
        for step in range(2):
            for mine, theirs in zip(zip(*(rank[step] for rank in ranks), strict=True), whole[step], strict=True):
                assert torch.equal(torch.cat(mine), theirs)
    assert torch.equal(next(stream().batches(4, 5)).wav, whole[1].wav)
    with pytest.raises(ValueError, match=r"pretrain\.batch_size=8: no multiple of 3 processes"):
        pairs.batches(0, 1, world_size=3)


def test_recordings_take_their_share_at_fixed_places(loud):
    mixed = stream("source.real_share=0.5", "data.num_workers=0", clips=loud)
    assert not mixed.same_for_all_folds
    whole = next(mixed.batches(2, 3)).wav
    real = (whole[:, 0] == whole[:, 0, :1]).all(dim=1)
    assert real.tolist() == real_places(4, 8).tolist()
    assert torch.equal(whole[real, 0], whole[real, 1])
    asked = stream("source=clips", "data.num_workers=0", clips=loud, batch_size=4)
    assert torch.equal(whole[real, 0], next(asked.batches(2, 3)).wav)
    assert torch.equal(whole[~real], next(stream().batches(2, 3)).wav[~real])
    words = ("source.real_share=0.5", "data.num_workers=0")
    ranks = [next(stream(*words, clips=loud).batches(2, 3, rank=r, world_size=4)).wav for r in range(4)]
    assert torch.equal(torch.cat(ranks), whole)


def test_recordings_have_labels_and_pairs_have_none(loud):
    clips = stream("source=clips", "data.num_workers=0", clips=loud)
    assert (clips.labelled, clips.clip_shape, clips.clips_per_epoch) == (True, (16000,), 20)
    batch = next(clips.batches(0, 1))
    assert batch.label.shape == (8, 2)
    assert torch.equal(batch.label.argmax(dim=1), batch.index % 2)
    # A batch with recordings in it has no labels either: those of the generated clips would be missing.
    mixed = stream("source.real_share=0.5", "data.num_workers=0", clips=loud)
    assert not mixed.labelled
    assert next(mixed.batches(0, 1)).label.shape == (8, 0)


def test_examples_are_what_the_first_step_hears(loud):
    assert torch.equal(stream().example(3), next(stream().batches(0, 1)).wav[:3])
    shown = stream("source=clips", "data.num_workers=0", clips=loud).example(3)
    assert shown[:, 0].tolist() == pytest.approx([0.5, 0.52, 0.54])


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
        stream(word)
    with pytest.raises(ValueError, match=r"source\.duration_s=2\.0: clips of a batch have one length"):
        stream("source.real_share=0.5", "source.duration_s=2.0")


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
    assert views["view 1"].shape == views["view 2"].shape == views["original"].shape


def test_the_loss_on_pairs_falls(tmp_path):
    run_here(tmp_path / "falls", *PAIRS, "stages=[pretrain]", "pretrain.steps=24", "optim.lr=2e-3")
    found = losses(tmp_path / "falls")
    assert sum(found[-4:]) < sum(found[:4])


def test_micro_batches_do_not_matter(tmp_path):
    words = (*PAIRS, "precision=fp32", "stages=[pretrain]")  # in bf16, sums round by the size of the batch
    run_here(tmp_path / "whole", *words)
    run_here(tmp_path / "micro", *words, "pretrain.micro_batch_size=5")
    assert losses(tmp_path / "micro") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


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


def pretrain_classifier(folder, *more):
    """A small run with labels from the start; the recipe's projector belongs to another objective."""
    given = [word for word in small(folder, *more) if not word.startswith("objective.")]
    words = [
        *given,
        "objective=supervised",
        "~objective.projector_dims",
        "objective.mixup_probability=0",
        "stages=[pretrain,evaluate]",
    ]
    return run(resolve(words), words)


def test_a_classifier_cannot_pretrain_on_pairs_and_the_reason_is_given(tmp_path):
    said = r"objective=supervised: needs labelled clips, which source=synth does not give; set source=clips"
    with pytest.raises(ValueError, match=said):
        pretrain_classifier(tmp_path / "pairs", *PAIRS)


def test_a_classifier_pretrains_on_the_training_clips(tmp_path):
    pretrain_classifier(tmp_path / "labels", "pretrain.steps=40", "optim.lr=5e-3")
    lines = map(json.loads, (tmp_path / "labels" / "metrics.jsonl").read_text().splitlines())
    found = [line["loss"] for line in lines if line["stage"] == "pretrain" and "loss" in line]
    assert len(found) == 40
    assert sum(found[-5:]) < 0.9 * sum(found[:5])
    fold = json.loads((tmp_path / "labels" / "summary.json").read_text())["folds"]["1"]
    assert fold["evaluate"]["probe_accuracy"] > 0.5  # of three classes
    assert (tmp_path / "labels/exported/fold_1/pretrained/weights.safetensors").is_file()


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
