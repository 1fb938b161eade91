import logging
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sound_files import noise, write

from vcrast.data import audio
from vcrast.data.audio import AudioFault
from vcrast.data.cache import open_or_build
from vcrast.data.clip import Clip
from vcrast.data.dataset import ClipDataset, fit
from vcrast.data.loader import (
    NoBatchError,
    TrainingKeys,
    evaluation_batches,
    mean_by_clip,
    resolve_workers,
    steps_per_epoch,
    training_batches,
)
from vcrast.data.order import Order
from vcrast.data.windows import window_starts

sys.path.insert(0, str(Path(__file__).parent))  # a worker imports this module by name to find the reader below


def dataset(clips, *, store=None, **changes):
    options = {
        "num_classes": 3, "sample_rate": 16000, "clip_duration_s": 0.01, "pad": "silence", "seed": 7, **changes,
    }  # fmt: skip
    return ClipDataset(clips, store=store, **options)


def test_a_sample_is_drawn_once_and_spread_over_a_sorted_set():
    labels = [()] * 10 + [(0,)] * 40 + [(1,)] * 40
    clips = dataset([Clip(f"{number}.wav", own) for number, own in enumerate(labels)])
    found = clips.sample(12, 3, labelled=True).clips
    assert [clip.path for clip in found] == [clip.path for clip in clips.sample(12, 3, labelled=True).clips]
    assert {clip.labels for clip in found} == {(0,), (1,)}
    numbers = [int(clip.path.removesuffix(".wav")) for clip in found]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 12
    assert [clip.path for clip in clips.sample(12, 4, labelled=True).clips] != [clip.path for clip in found]
    assert len(clips.sample(500, 3)) == 90
    assert len(clips.sample(500, 3, labelled=True)) == 80


def train(data, **changes):
    options = {
        "batch_size": 4, "seed": 3, "start_step": 0, "num_steps": 9, "num_workers": 0, "device": "cpu", **changes,
    }  # fmt: skip
    return list(training_batches(data, **options))


def assert_same(one, two):
    assert len(one) == len(two) > 0
    for first, second in zip(one, two, strict=True):
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)


@pytest.fixture
def clips(tmp_path):
    # 100 to 360 samples, the crop has 160: some are padded, most have a choice of crops
    return [Clip(write(tmp_path / f"{i}.wav", noise(100 + 20 * i, seed=i)), (i % 3,)) for i in range(14)]


@pytest.fixture
def store(clips, tmp_path):
    return open_or_build(clips, sample_rate=16000, cache_dir=tmp_path / "c", num_workers=0, max_bad_fraction=0.5)


# --- examples


def test_centre_crop_and_padding_by_hand():
    assert fit(np.float32([1, 2, 3]), 5, "silence").tolist() == [1, 2, 3, 0, 0]
    assert fit(np.float32([1, 2, 3]), 7, "repeat").tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert fit(np.float32([1, 2, 3]), 2, "repeat").tolist() == [1, 2]


@pytest.mark.parametrize("length", [1, 159, 160, 161])
@pytest.mark.parametrize("pad", ["silence", "repeat"])
def test_any_length_becomes_the_wanted_one(tmp_path, length, pad):
    wav = noise(length)
    data = dataset([Clip(write(tmp_path / "a.wav", wav, subtype="FLOAT"), (1,))], pad=pad)
    example = data[0, -1]
    assert example.wav.shape == (160,)
    assert example.label.tolist() == [0, 1, 0]
    kept = min(length, 160)
    np.testing.assert_allclose(example.wav[:kept], wav[:kept], atol=1e-7)
    if length < 160:
        rest = np.zeros(160 - length) if pad == "silence" else np.resize(wav, 160)[length:]
        np.testing.assert_allclose(example.wav[length:], rest, atol=1e-7)


def test_evaluation_takes_the_middle(clips):
    wav = audio.read_wav(clips[10].path, sample_rate=16000)  # 300 samples, 140 too many
    np.testing.assert_array_equal(dataset(clips)[10, -1].wav, wav[70:230])


def test_crop_is_a_function_of_seed_and_position_and_reaches_both_ends(clips):
    data = dataset(clips)
    wav = audio.read_wav(clips[10].path, sample_rate=16000)
    windows = np.lib.stride_tricks.sliding_window_view(wav, 160)

    def start(example):
        return int((windows == example.wav.numpy()).all(axis=1).argmax())

    starts = [start(data[10, position]) for position in range(1500)]
    assert starts == [start(data[10, position]) for position in range(1500)]
    assert (min(starts), max(starts)) == (0, 140)
    assert abs(np.mean(starts) - 70) < 5  # standard error 1.05
    assert [start(dataset(clips, seed=8)[10, position]) for position in range(20)] != starts[:20]


def test_unlabelled_and_several_labels(tmp_path):
    path = write(tmp_path / "a.wav", noise(100))
    assert dataset([Clip(path, (0, 2))])[0, -1].label.tolist() == [1, 0, 1]
    assert dataset([Clip(path, ())], num_classes=0)[0, -1].label.shape == (0,)


def test_cache_gives_the_same_crops(clips, store):
    one, two = train(dataset(clips)), train(dataset(clips, store=store))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.index, b.index)
        torch.testing.assert_close(a.wav, b.wav, atol=1e-4, rtol=0)


def test_part_of_a_cached_corpus(clips, store):
    data = dataset(clips[3:6], store=store)
    np.testing.assert_array_equal(data[1, -1].wav[:100], store.read(4, 10, 110))


def test_wrong_settings(clips):
    with pytest.raises(ValueError, match=r"data\.pad='zero': choose from repeat, silence"):
        dataset(clips, pad="zero")
    with pytest.raises(ValueError, match="less than one sample"):
        dataset(clips, clip_duration_s=0.0)


# --- order


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.data(), st.integers(0, 2**40), st.integers(0, 3))
def test_each_epoch_is_a_permutation_without_the_rest(num_clips, data, seed, epoch):
    batch_size = data.draw(st.integers(1, num_clips))
    per_epoch = num_clips // batch_size
    keys = list(TrainingKeys(Order(num_clips, seed), batch_size, range(epoch * per_epoch, (epoch + 1) * per_epoch)))
    indices = [index for step in keys for index, _ in step]
    assert len(indices) == len(set(indices)) == per_epoch * batch_size
    assert set(indices) <= set(range(num_clips))
    assert sorted(Order(num_clips, seed).epoch(epoch).tolist()) == list(range(num_clips))


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 30), st.integers(0, 20), st.integers(0, 9))
def test_ranks_and_resume_see_the_same_sequence(world_size, share, extra, start, seed):
    batch_size = world_size * share
    num_clips, steps = batch_size + extra, start + 7
    whole = list(TrainingKeys(Order(num_clips, seed), batch_size, range(steps)))
    parts = [
        list(TrainingKeys(Order(num_clips, seed), batch_size, range(start, steps), r, world_size))
        for r in range(world_size)
    ]
    for step in range(start, steps):
        assert [key for part in parts for key in part[step - start]] == whole[step]
    assert [key[1] for step in whole for key in step] == list(range(steps * batch_size))


def test_epochs_and_seeds_differ():
    orders = {tuple(Order(50, seed).epoch(epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_steps_per_epoch():
    assert steps_per_epoch(14, 4) == 3
    with pytest.raises(ValueError, match=r"batch_size=15 is more than the 14 clips.*at most 14"):
        steps_per_epoch(14, 15)


# --- batches


def test_batches_do_not_depend_on_workers_or_resume(clips):
    data = dataset(clips)
    whole = train(data)
    assert len(whole) == 9
    assert whole[0].wav.shape == (4, 160)
    assert whole[0].label.shape == (4, 3)
    assert whole[0].index.dtype == torch.int64
    for workers in (1, 2):
        assert_same(whole, train(data, num_workers=workers))
    assert_same(whole[5:], train(data, start_step=5))
    assert_same(whole[5:], train(data, start_step=5, num_workers=2))
    assert train(data, start_step=9) == []


def test_workers_read_the_cache(clips, store):
    data = dataset(clips, store=store)
    assert_same(train(data), train(data, num_workers=2))


def test_ranks_share_each_batch(clips):
    data = dataset(clips)
    whole = train(data)
    ranks = [train(data, rank=rank, world_size=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([ranks[0][step].wav, ranks[1][step].wav]), batch.wav)
    with pytest.raises(ValueError, match="batch_size=4 cannot be shared evenly by 3"):
        train(data, world_size=3)


def test_labels_and_indices_belong_to_the_wavs(clips):
    data = dataset(clips)
    for batch in train(data):
        for wav, label, index in zip(*batch, strict=True):
            assert label.argmax() == int(index) % 3
            whole = audio.read_wav(clips[int(index)].path, sample_rate=16000)
            kept = min(160, len(whole))
            windows = np.lib.stride_tricks.sliding_window_view(whole, kept)
            assert (windows == wav[:kept].numpy()).all(axis=1).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_every_clip_once_in_order(clips, workers):
    batches = list(evaluation_batches(dataset(clips), batch_size=4, num_workers=workers, device="cpu"))
    assert [len(batch.wav) for batch in batches] == [4, 4, 4, 2]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(14))


def test_global_random_state_is_left_alone(clips):
    before = torch.get_rng_state()
    train(dataset(clips), num_steps=2)
    list(evaluation_batches(dataset(clips), batch_size=4, num_workers=0, device="cpu"))
    assert torch.equal(before, torch.get_rng_state())


def test_number_of_workers():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve_workers(None, cpu, cached=True) == 0
    assert resolve_workers(3, cpu, cached=True) == 3
    assert 0 <= resolve_workers(None, cuda, cached=True) == resolve_workers(None, cpu, cached=False) <= 8


# --- faults


def damage(clips, *numbers):
    for number in numbers:
        Path(clips[number].path).write_text("no sound")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_unreadable_clip_gives_way_to_the_next(clips, workers, caplog):
    whole = train(dataset(clips))
    damage(clips, 5, 6)
    data = dataset(clips, max_bad_fraction=0.5)
    with caplog.at_level(logging.WARNING):
        batches = train(data, num_workers=workers)
    moved = {5: 7, 6: 7}
    for was, now in zip(whole, batches, strict=True):
        assert [moved.get(i, i) for i in was.index.tolist()] == now.index.tolist()
    assert sorted(data.faults) == [5, 6]
    assert caplog.text.count(clips[5].path) == caplog.text.count(clips[6].path) == 1
    assert_same(batches, train(dataset(clips, max_bad_fraction=0.5)))


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_clips_stop(clips, workers):
    damage(clips, *range(7))
    with pytest.raises(ValueError, match=r"of 14 clips cannot be used, more than data.max_bad_fraction=0.1 allows\n  "):
        train(dataset(clips, max_bad_fraction=0.1), num_workers=workers)


def test_no_readable_clip_at_all(clips):
    damage(clips, *range(14))
    with pytest.raises(ValueError, match="none of the 14 clips"):
        dataset(clips)[0, 0]


def test_evaluation_leaves_unreadable_clips_out(clips):
    damage(clips, 4, 5, 6, 7, 13)
    data = dataset(clips, max_bad_fraction=0.9)
    batches = list(evaluation_batches(data, batch_size=4, num_workers=0, device="cpu"))
    assert [batch.index.tolist() for batch in batches] == [[0, 1, 2, 3], [8, 9, 10, 11], [12]]
    assert sorted(data.faults) == [4, 5, 6, 7, 13]
    with pytest.raises(AudioFault):
        data[4, -1]


def test_quarantined_clips_are_not_in_the_dataset(clips, tmp_path):
    damage(clips, 2)
    store = open_or_build(clips, sample_rate=16000, cache_dir=tmp_path / "d", num_workers=0, max_bad_fraction=0.5)
    data = dataset(clips, store=store)
    assert [clip.path for clip in data.clips] == [clip.path for i, clip in enumerate(clips) if i != 2]
    np.testing.assert_array_equal(data[2, -1].wav[:100], store.read(3)[:100])


def lethal(path, rate):
    """A sound that kills whoever reads it, as the out-of-memory killer does."""
    if path.endswith("/1"):
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full(160, 0.5, np.float32)


def test_killed_worker_is_explained(monkeypatch):
    monkeypatch.setitem(audio.READERS, "lethal", lethal)
    data = dataset([Clip(f"lethal://{i}", (0,)) for i in range(4)])
    with pytest.raises(NoBatchError, match=r"a data worker was killed.*data.num_workers"):
        train(data, num_workers=1)


@pytest.mark.gpu
def test_cuda_batches_equal_cpu_batches(clips):
    data = dataset(clips)
    for workers in (0, 2):
        moved = train(data, device="cuda", num_workers=workers)
        assert all(part.is_cuda for batch in moved for part in batch)
        assert_same(train(data), [type(batch)(*(part.cpu() for part in batch)) for batch in moved])


# --- windows of long clips


def test_windows_are_slices_of_the_whole_clip(clips, tmp_path):
    store = open_or_build(clips, sample_rate=16000, cache_dir=tmp_path / "w", num_workers=0, max_bad_fraction=0.5)
    for data in (dataset(clips), dataset(clips, store=store)):
        rows = list(evaluation_batches(data, batch_size=5, num_workers=0, device="cpu", windows="all"))
        wav, index = torch.cat([batch.wav for batch in rows]), torch.cat([batch.index for batch in rows])
        assert all(len(batch.wav) == 5 for batch in rows[:-1]), "a batch is full of windows, whatever clips they are of"
        expected, belong = [], []
        for number, clip in enumerate(clips):
            whole = audio.read_wav(clip.path, sample_rate=16000)
            for start in window_starts(len(whole), data.num_samples):
                piece = whole[start : start + data.num_samples]
                expected.append(np.pad(piece, (0, data.num_samples - len(piece))))
                belong.append(number)
        assert index.tolist() == belong
        assert len(belong) > len(clips), "some clip is longer than a window"
        np.testing.assert_allclose(wav.numpy(), np.stack(expected), atol=0 if data.store is None else 0.5 / 32768)


def test_a_long_clip_is_decoded_once_for_all_its_windows(tmp_path, monkeypatch):
    path = write(tmp_path / "long.wav", noise(16000))
    decoded = []

    def counting(*given, **own):
        decoded.append(given)
        return audio.read_scaled(*given, **own)

    monkeypatch.setattr("vcrast.data.dataset.read_scaled", counting)
    data = dataset([Clip(str(path), (0,))])
    rows = list(evaluation_batches(data, batch_size=4, num_workers=0, device="cpu", windows="all"))
    assert sum(len(batch.wav) for batch in rows) == len(window_starts(16000, data.num_samples)) > 4
    assert len(decoded) == 1


def test_unreadable_clip_among_windows_is_left_out(clips):
    damage(clips, 4, 13)
    data = dataset(clips, max_bad_fraction=0.9)
    rows = list(evaluation_batches(data, batch_size=4, num_workers=0, device="cpu", windows="all"))
    assert set(torch.cat([batch.index for batch in rows]).tolist()) == set(range(14)) - {4, 13}


def test_mean_by_clip_by_hand():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0], [7.0, 7.0]])
    means, clips = mean_by_clip(rows, torch.tensor([2, 2, 3, 9]))
    assert means.tolist() == [[2.0, 3.0], [5.0, 0.0], [7.0, 7.0]]
    assert clips.tolist() == [2, 3, 9]
    alone, index = mean_by_clip(rows, torch.arange(4))
    assert alone is rows
    assert index.tolist() == [0, 1, 2, 3]
