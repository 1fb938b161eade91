"""Folds share the embeddings of one encoder: fewer clips are embedded, and the numbers are those of folds run alone."""

import pytest
import torch
from safetensors.torch import load_file
from test_run import run_here

from vcrast.evaluation import embedding

PAIRS = ("source=synth", "views=masks", "source.num_layers=1", "source.pairs_per_epoch=64")
SHORT = ("pretrain.steps=2", "stages=[pretrain,evaluate]", "pretrain.watch_every_epochs=9")


@pytest.fixture
def embedded(monkeypatch):
    """How many clips each call has embedded; the one of 16 is the watch over the features at the end of pretraining."""
    counts = []
    plain = embedding.embed_clips

    def counting(job, encoder, clips):
        counts.append(len(clips))
        return plain(job, encoder, clips)

    monkeypatch.setattr("vcrast.evaluation.embedding.embed_clips", counting)
    return counts


def evaluation(folder, fold):
    return load_file(folder / "evaluation" / f"fold_{fold}.safetensors")


def test_folds_of_one_encoder_embed_each_clip_once_and_find_the_same(tmp_path, embedded):
    run_here(tmp_path / "both", *PAIRS, *SHORT, "data.folds=[1,2]")
    assert embedded == [48, 12, 48, 12]  # untrained, then pretrained, in fold 1; nothing in fold 2
    run_here(tmp_path / "alone", *PAIRS, *SHORT, "data.folds=[2]")
    shared, alone = evaluation(tmp_path / "both", 2), evaluation(tmp_path / "alone", 2)
    assert shared.keys() == alone.keys()
    # Not bit for bit: clips meet in other batches, whose sums round in another order.
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-5)


def test_an_encoder_of_its_own_for_each_fold_is_embedded_again(tmp_path, embedded):
    run_here(tmp_path / "both", *SHORT, "data.folds=[1,2]")
    assert embedded == [48, 12, 48, 12, 48, 12]  # of fold 2 the pretrained encoder only
    run_here(tmp_path / "alone", *SHORT, "data.folds=[2]")
    shared, alone = evaluation(tmp_path / "both", 2), evaluation(tmp_path / "alone", 2)
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-5)


def test_one_fold_keeps_no_embeddings(tmp_path, embedded, monkeypatch):
    monkeypatch.setattr("vcrast.evaluation.embedding.fingerprint", lambda *_: pytest.fail("there is nothing to share"))
    run_here(tmp_path / "alone", *SHORT, "pretrain.steps=1")
    assert embedded == [48, 12, 48, 12]
