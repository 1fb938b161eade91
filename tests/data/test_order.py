"""The order of an epoch: blocks, weights, and that everybody sees the same one."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vcrast.data.loader import TrainingKeys
from vcrast.data.order import Order, clips_by_weight


def shares(count):
    return st.lists(st.floats(0.1, 9), min_size=count, max_size=count)


@given(
    st.integers(1, 60), st.integers(1, 12), st.none() | st.integers(1, 5), st.none() | st.integers(1, 4),
    st.integers(0, 3), st.data(),
)  # fmt: skip
def test_any_ranks_and_any_stops_see_one_sequence(num_clips, num_blocks, mixed, num_parts, seed, data):
    """8 -> 2 -> 8 processes, stops at any step, more than one in an epoch, at its end: each place is read once."""
    random = np.random.default_rng(seed)
    part = None if num_parts is None else np.sort(np.append(np.arange(num_parts), random.integers(0, num_parts, 60)))
    if part is not None:
        num_clips = len(part)
    order = Order(
        num_clips, seed, block=random.integers(0, num_blocks, num_clips), mixed_blocks=mixed, part=part,
        weights=None if num_parts is None else data.draw(shares(num_parts)),
    )  # fmt: skip
    batch_size = data.draw(st.integers(1, max(1, num_clips // 8))) * 8
    if batch_size > num_clips:
        return
    steps = 3 * (num_clips // batch_size) + 1
    whole = list(TrainingKeys(order, batch_size, range(steps)))
    stops = sorted(data.draw(st.lists(st.integers(0, steps), max_size=4)))
    seen = []
    for first, last, world in zip([0, *stops], [*stops, steps], (8, 2, 8, 1, 4), strict=False):
        ranks = [list(TrainingKeys(order, batch_size, range(first, last), rank, world)) for rank in range(world)]
        seen += [list(chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)]
    assert seen == whole
    positions = [position for keys in whole for _, position in keys]
    assert positions == list(range(steps * batch_size))


@given(st.integers(1, 400), st.integers(1, 30), st.integers(1, 10), st.integers(0, 5))
def test_blocks_change_the_order_alone(num_clips, num_blocks, mixed, seed):
    block = np.random.default_rng(seed).integers(0, num_blocks, num_clips)
    order = Order(num_clips, seed, block=block, mixed_blocks=mixed)
    for epoch in (0, 1, 7):
        assert sorted(order.epoch(epoch).tolist()) == list(range(num_clips))
        assert order.epoch(epoch).tolist() == order.epoch(epoch).tolist()


def test_few_files_are_open_at_a_time_and_each_stays_so_for_one_stretch():
    block = np.repeat(np.arange(100), 50)
    order = Order(5000, 3, block=block, mixed_blocks=8)
    told = block[order.epoch(0).numpy()]
    window = 50  # a file's worth
    for start in range(0, 5000 - window, window):
        assert len(set(told[start : start + window])) <= 8 + 1 + 1
    for number in range(100):
        places = np.flatnonzero(told == number)
        gaps = np.diff(np.append(places, places[0] + 5000))  # round the end
        assert 5000 - gaps.max() <= 9 * window, "all of a file within eight files' worth of clips"
    # Clips of a file do not follow one another: neighbours are of one file as seldom as 1 in 8.
    assert abs((told[1:] == told[:-1]).mean() - 1 / 8) < 0.03
    assert order.epoch(0).tolist() != order.epoch(1).tolist()


def test_as_many_blocks_as_are_mixed_are_as_good_as_none():
    block = np.arange(40) % 8
    every = [
        Order(40, seed, block=block, mixed_blocks=8).epoch(epoch).tolist() for seed in range(40) for epoch in (0, 1)
    ]
    place = np.array([np.argsort(order) for order in every])
    # Each clip's place is spread over the whole epoch: mean 19.5, standard error 11.5 / sqrt(80) = 1.3.
    assert np.abs(place.mean(axis=0) - 19.5).max() < 5


def test_each_dataset_of_a_mixture_has_its_exact_share_and_wears_evenly():
    part = np.repeat([0, 1, 2], [10, 50, 140])
    order = Order(200, 5, part=part, weights=[0.5, 0.25, 0.25])
    counts = Counter()
    for epoch in range(7):
        drawn = order.epoch(epoch).numpy()
        assert np.bincount(part[drawn]).tolist() == [100, 50, 50]
        counts.update(drawn.tolist())
    assert {counts[clip] for clip in range(10)} == {70}
    assert {counts[clip] for clip in range(10, 60)} == {7}
    assert {counts[clip] for clip in range(60, 200)} == {2, 3}, "350 draws of 140 clips"
    firsts = order.epoch(0).numpy()[:50]
    assert len(set(part[firsts])) == 3, "mixed, not one behind the other"


def test_weights_and_blocks_together():
    part, block = np.repeat([0, 1], [40, 360]), np.arange(400) // 20
    order = Order(400, 0, part=part, weights=[1, 1], block=block, mixed_blocks=3)
    drawn = order.epoch(2)
    assert np.bincount(part[drawn]).tolist() == [200, 200]
    assert sorted(drawn.tolist()) == sorted(Order(400, 0, part=part, weights=[1, 1]).epoch(2).tolist())
    chances = torch.full((400,), 1 / 400, dtype=torch.float64)
    balanced = Order(400, 0, chances, block=block, mixed_blocks=3).epoch(2)
    assert sorted(balanced.tolist()) == sorted(Order(400, 0, chances).epoch(2).tolist())


@given(st.integers(0, 10_000), st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_shares_are_whole_and_add_up(num_clips, weights):
    counts = clips_by_weight(num_clips, weights)
    assert sum(counts) == num_clips
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - num_clips * weight / sum(weights)) < 1 + 1e-6


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="dataset 2 has no clips"):
        Order(3, 0, part=np.zeros(3, np.int16), weights=[1, 1]).epoch(0)
