"""Check what is held out of the training clips: even in every class, recordings whole."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcrast.data.clip import Clip
from vcrast.data.holdout import hold_out


def clips_of(sizes, *, takes=1):
    """For each class so many recordings of so many takes, named as ESC-50 names them."""
    names = [
        (f"/x/1-{1000 * label + number}-{'ABC'[take]}-{label}.wav", label)
        for label, size in enumerate(sizes)
        for number in range(size)
        for take in range(takes)
    ]
    return [Clip(path, (label,)) for path, label in names]


def held_of(clips, share, seed=0):
    return Counter(clips[place].labels[0] for place in hold_out(clips, share, seed=seed))


@pytest.mark.parametrize(("share", "expected"), [(0.1, 4), (0.25, 10), (0.3, 12), (0.5, 20), (0.05, 2), (0.9, 36)])
def test_every_class_gives_its_share(share, expected):
    assert held_of(clips_of([40, 40, 40]), share) == {0: expected, 1: expected, 2: expected}


def test_recordings_stay_whole_and_seeds_differ():
    clips = clips_of([20, 20], takes=3)
    held = set(hold_out(clips, 0.2, seed=0))
    recordings = Counter(clip.path.split("-")[1] for place, clip in enumerate(clips) if place in held)
    assert set(recordings.values()) == {3}
    assert len(held) == 24
    assert held == set(hold_out(clips, 0.2, seed=0))
    assert held != set(hold_out(clips, 0.2, seed=1))


def test_stretches_of_one_file_are_one_recording():
    clips = [Clip(f"/x/{i // 5}.wav", (i // 5 % 2,), start_s=float(i % 5)) for i in range(100)]
    held = hold_out(clips, 0.1, seed=3)
    files = Counter(clips[place].path for place in held)
    assert set(files.values()) == {5}
    assert len(files) == 2


def test_what_has_one_recording_is_trained_on():
    clips = [*clips_of([20]), *(Clip("/x/9-77-A-1.wav", (1,), start_s=float(start)) for start in range(5))]
    for seed in range(10):
        assert held_of(clips, 0.5, seed) == {0: 10}


def test_order_does_not_matter():
    clips = clips_of([13, 7], takes=2)
    held = {clips[place].path for place in hold_out(clips, 0.2, seed=0)}
    back = clips[::-1]
    assert {back[place].path for place in hold_out(back, 0.2, seed=0)} == held


@given(
    labels=st.lists(st.lists(st.integers(0, 3), max_size=2, unique=True), min_size=2, max_size=40),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_no_class_is_lost_to_training(labels, share, seed):
    clips = [Clip(f"/x/{i}.wav", tuple(sorted(each))) for i, each in enumerate(labels)]
    held = set(hold_out(clips, share, seed=seed))
    trained = {label for place, clip in enumerate(clips) if place not in held for label in clip.labels}
    assert trained == {label for each in labels for label in each}


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2, float("nan")])
def test_a_share_lies_between_0_and_1(share):
    with pytest.raises(ValueError, match=r"finetune\.validation\.clips=.* must lie between 0 and 1"):
        hold_out(clips_of([4]), share, seed=0)
