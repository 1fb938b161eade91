"""Check what a run that learns nothing is told, from numbers made by hand."""

import random
from types import SimpleNamespace

import pytest

from vcrast.runs.reasons import distance_of_views, ends, fallen, reasons

WATCHED = {"effective_rank": 20.0}


def lines(loss, *, noise=0.0, **parts):
    """Twenty logged steps: each number stays at the first of its pair, then moves, and ends at the second."""
    draws = random.Random(0)
    pairs = {"loss": loss, **parts}
    return [
        {"step": step, "stage": "pretrain", **{
            key: a + (b - a) * min(max(step - 4, 0), 11) / 11 + (draws.gauss(0, noise) if key == "loss" else 0.0)
            for key, (a, b) in pairs.items()
        }}
        for step in range(20)
    ]  # fmt: skip


def told(steps, *, after=WATCHED, seen=None, can_collapse=True):
    objective = SimpleNamespace(collapsed=lambda *_: seen, remedy="weaken the views", can_collapse=can_collapse)
    return reasons(steps, before=WATCHED, after=after, objective=objective, batch_size=16)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (lines((20, 10), above_floor=(10, 0.01)), ["the loss is at its floor (0.01 above, 10 at first)"]),
        (lines((20, 10), invariance=(0.0, 0.0), std=(0.3, 1.0)), ["the views are too weak", "differ by 0 % of"]),
        (
            lines((20, 10), invariance=(0.18, 2.0), std=(0.3, 1.0)),
            ["too strong", "still differ by 100 %", "100 % at first"],
        ),
        (lines((20, 19.95)), ["the loss has not fallen (20 at first"]),
        (lines((20, 19), noise=2.0), ["the loss has not fallen"]),
        (lines((20, 10), invariance=(0.18, 0.2), std=(0.3, 1.0), above_floor=(18, 8)), ["falls as it should"]),
        (lines((20, 10)), ["falls as it should"]),
        ([{"step": 1, "loss": None}, {"step": 2, "loss": 3.0}], ["falls as it should"]),
        ([{"step": 1, "loss": 3.0}], ["falls as it should"]),
    ],
    ids=["floor", "weak", "strong", "still", "noisy", "healthy parts", "no parts", "unknown loss", "one step"],
)
def test_each_sign_is_told_by_itself_with_what_to_change(steps, said):
    found = told(steps)
    assert all(text in found for text in said)
    assert ";" not in found


def test_what_the_objective_sees_and_a_lost_rank_are_told_too():
    fell = lines((20, 10))
    assert told(fell, seen="the std is 0.01") == "the std is 0.01: weaken the views"
    low = {"effective_rank": 4.0}
    assert told(fell, after=low) == "the embeddings' effective rank has fallen from 20.0 to 4.0: weaken the views"
    assert "falls as it should" in told(fell, after=low, can_collapse=False)


def test_unrelated_views_are_at_distance_one():
    assert distance_of_views({"invariance": 2 * 0.3**2, "std": 0.3}) == pytest.approx(1.0)
    assert distance_of_views({"loss": 1.0, "std": 0.3}) is None


def test_a_fall_within_the_noise_of_the_batches_is_none():
    assert fallen(*ends(lines((20, 15), noise=0.5)))
    assert not fallen(*ends(lines((20, 19.5), noise=1.0)))
