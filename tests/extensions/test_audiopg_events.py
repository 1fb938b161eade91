"""ADSR and events against a slow loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from extensions.audiopg.events import adsr, events
from vcrast.data.synth.control import Grid

seconds = st.floats(0.01, 2)


def slow(x, attack, decay, sustain, hold, release):
    """The four stretches one after the other."""
    if x <= 0:
        return 0.0
    if x < attack:
        return x / attack
    x -= attack
    if x < decay:
        return 1 + (sustain - 1) * x / decay
    x -= decay
    if x < hold:
        return sustain
    x -= hold
    return sustain * (1 - x / release) if x < release else 0.0


@given(st.floats(-1, 8), st.tuples(seconds, seconds, st.floats(0, 1), seconds, seconds))
def test_adsr_is_four_straight_lines(x, shape):
    found = adsr(*(torch.tensor(value, dtype=torch.float64) for value in (x, *shape)))
    assert float(found) == pytest.approx(slow(x, *shape), abs=1e-9)


def test_adsr_by_hand():
    times = torch.tensor([-0.1, 0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.8, 0.9, 1.0, 1.1])
    found = adsr(times, *(torch.tensor(value) for value in (0.1, 0.2, 0.5, 0.5, 0.2)))
    wanted = [0, 0, 0.5, 1, 0.75, 0.5, 0.5, 0.5, 0.25, 0, 0]
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=1e-6)


def test_events_add_up_damped_and_only_so_many():
    grid = Grid(24001, 16000, torch.device("cpu"))
    times, levels = torch.rand(2, 5) * 0.9, torch.rand(2, 5)
    count, damping = torch.tensor([[3.0], [5.0]]), torch.tensor([[0.0], [7.0]])
    shape = tuple(torch.rand(2, 1) * 0.2 + 0.02 for _ in range(5))
    found = events(times, levels, count, shape, damping, grid)
    assert found.shape == (2, grid.num_points)
    for clip in range(2):
        for point in range(0, grid.num_points, 37):
            total = 0.0
            for event in range(int(count[clip])):
                x = point * 0.002 - float(times[clip, event]) * 24001 / 16000
                curve = slow(x, *(float(value[clip]) for value in shape))
                total += float(levels[clip, event]) * curve * math.exp(-float(damping[clip]) * max(x, 0))
            assert float(found[clip, point]) == pytest.approx(total, abs=1e-4)
