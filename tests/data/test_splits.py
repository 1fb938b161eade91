"""Names of splits in any spelling."""

from __future__ import annotations

import pytest

from vcrast.data.splits import standard_split


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Train", "train"), ("TRAINING", "train"), ("train_set", "train"), ("audio-train", "train"),
        ("Val", "val"), ("validation", "val"), ("Dev", "val"), ("valid split", "val"),
        ("Test", "test"), ("testing", "test"), ("test.wav", "test"),
        ("eval", "eval"), ("Evaluation", "eval"), ("eval_clips", "eval"),
    ],
)  # fmt: skip
def test_any_spelling_of_a_split_is_known(name: str, split: str) -> None:
    assert standard_split(name) == split


@pytest.mark.parametrize("name", ["dog", "trainer", "train_station", "test_train", "steam train", "set", "", "1"])
def test_other_names_are_no_splits(name: str) -> None:
    assert standard_split(name) is None
