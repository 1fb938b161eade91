"""Check `finetune.sampling`: chances by hand, frequencies, ranks and resume."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vcrast.data.clip import Clip
from vcrast.data.loader import TrainingKeys
from vcrast.data.order import Order
from vcrast.data.sampling import class_clips, sampling_chances


def clips(*labels):
    return [Clip(f"{number}.wav", tuple(own)) for number, own in enumerate(labels)]


def test_chances_by_hand():
    some = clips([0], [0], [0], [1])  # a class first, then one of its clips; class 2 has none
    assert sampling_chances(some, "balanced").tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert sampling_chances(some, "uniform") is None
    assert class_clips(some, 3) == (3, 1, 0)


def test_a_clip_of_several_labels_is_found_through_each_and_one_without_is_a_class_of_its_own():
    some = clips([0, 1], [0], [], [1], [1])  # three things: 0 (2 clips), 1 (3 clips), none (1 clip)
    expected = [(1 / 2 + 1 / 3) / 3, 1 / 6, 1 / 3, 1 / 9, 1 / 9]
    assert sampling_chances(some, "balanced").tolist() == pytest.approx(expected)
    assert class_clips(some, 2) == (2, 3)


def test_an_unknown_sampling_is_named():
    with pytest.raises(ValueError, match=r"finetune\.sampling=balance: did you mean balanced\?"):
        sampling_chances(clips([0]), "balance")


def test_classes_are_drawn_equally_often_and_clips_of_a_class_alike():
    labels = [0] * 900 + [1] * 90 + [2] * 10
    chances = sampling_chances(clips(*([label] for label in labels)), "balanced")
    drawn = torch.cat([Order(1000, 0, chances).epoch(epoch) for epoch in range(60)])
    shares = torch.tensor(labels)[drawn].bincount() / len(drawn)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.01)  # standard error 0.002
    rare = (drawn[drawn >= 990] - 990).bincount() / (drawn >= 990).sum()
    assert rare.tolist() == pytest.approx([0.1] * 10, abs=0.01)
    assert Order(1000, 0, chances).epoch(3).tolist() == drawn[3000:4000].tolist()
    assert Order(1000, 1, chances).epoch(3).tolist() != drawn[3000:4000].tolist()


def test_a_clip_without_a_chance_is_never_drawn():
    chances = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
    assert set(torch.cat([Order(5, 0, chances).epoch(n) for n in range(99)]).tolist()) == {1, 3}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 30), st.integers(0, 20), st.integers(0, 9))
def test_ranks_and_resume_draw_the_same(world_size, share, extra, start, seed):
    batch_size, steps = world_size * share, start + 7
    num_clips = batch_size + extra
    chances = sampling_chances(clips(*([number % 3] for number in range(num_clips))), "balanced")
    whole = list(TrainingKeys(Order(num_clips, seed, chances), batch_size, range(steps)))
    parts = [
        list(TrainingKeys(Order(num_clips, seed, chances), batch_size, range(start, steps), each, world_size))
        for each in range(world_size)
    ]
    for step in range(start, steps):
        assert [key for part in parts for key in part[step - start]] == whole[step]
    assert [key[1] for step in whole for key in step] == list(range(steps * batch_size))  # other crops of the same clip
