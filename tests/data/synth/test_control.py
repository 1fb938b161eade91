import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vcrast.data.synth import control
from vcrast.data.synth.control import Grid

GRID = Grid(32000, 16000, torch.device("cpu"))


def column(*values):
    return torch.tensor(values).unsqueeze(1)


@given(st.integers(1, 5000), st.sampled_from([16000, 22050, 44100]))
def test_the_grid_covers_the_clip_and_lines_pass_through_its_points(num_samples, rate):
    grid = Grid(num_samples, rate, torch.device("cpu"))
    assert (grid.num_points - 2) * grid.hop < num_samples <= (grid.num_points - 1) * grid.hop
    curve = torch.randn(2, grid.num_points)
    line = grid.upsample(curve)
    assert line.shape == (2, num_samples)
    expected = [np.interp(np.arange(num_samples), np.arange(grid.num_points) * grid.hop, row) for row in curve.numpy()]
    np.testing.assert_allclose(line.numpy(), np.stack(expected), atol=1e-5)


def test_pitch_contour_by_hand():
    steady = control.pitch_contour(column(440.0), column(0.0), column(5.0), column(0.0), GRID)
    torch.testing.assert_close(steady, torch.full((1, 1001), 440.0))
    glide = control.pitch_contour(column(400.0), column(1.0), column(5.0), column(0.0), GRID)[0]
    assert [glide[0].item(), glide[500].item(), glide[1000].item()] == pytest.approx([400 / 2**0.5, 400, 400 * 2**0.5])
    # A quarter of a period of 5 Hz, 50 ms, is the 25th point: one semitone up.
    vibrato = control.pitch_contour(column(400.0), column(0.0), column(5.0), column(1.0), GRID)[0]
    assert vibrato[25].item() == pytest.approx(400 * 2 ** (1 / 12))
    high = control.pitch_contour(column(4000.0), column(1.5), column(5.0), column(3.0), GRID)
    assert high.max().item() == pytest.approx(7200)


def test_bursts_by_hand():
    # 2 Hz, half of the period sounds, rises in a fifth of it: 250 ms bursts with edges of 50 and 25 ms.
    curve = control.bursts(column(2.0), column(0.5), column(0.2), column(0.0), column(0.0), GRID)[0]
    assert [curve[int(t * 500)].item() for t in (0.0, 0.024, 0.1, 0.2, 0.24, 0.3, 0.6)] == pytest.approx(
        [0.0, 0.48, 1.0, 1.0, 0.4, 0.0, 1.0], abs=1e-3
    )
    falling = control.bursts(column(2.0), column(0.5), column(0.01), column(6.0), column(0.0), GRID)[0]
    assert falling[50].item() == pytest.approx(math.exp(-6 * 0.4), rel=1e-4)
    steady = control.bursts(column(2.0), column(0.5), column(0.2), column(0.0), column(0.0), GRID)[0]
    shifted = control.bursts(column(2.0), column(0.5), column(0.2), column(0.0), column(0.24), GRID)[0]
    torch.testing.assert_close(shifted[:900], steady[60:960], atol=1e-3, rtol=0)  # 0.24 periods are 60 points


def test_onsets_equal_a_loop():
    times, levels = torch.rand(3, 12) * 0.95, torch.rand(3, 12)
    count, attack, decay = column(1.0, 5.0, 12.0), column(0.002, 0.05, 0.2), column(0.01, 0.3, 1.0)
    curve = control.onsets(times, levels, count, attack, decay, GRID)
    expected = torch.zeros(3, 1001)
    for clip in range(3):
        for event in range(int(count[clip])):
            for point, t in enumerate(GRID.time_s.tolist()):
                since = t - times[clip, event].item() * 2.0
                if since >= 0:
                    rise = 1 - math.exp(-since / attack[clip].item())
                    expected[clip, point] += levels[clip, event] * rise * math.exp(-since / decay[clip].item())
    torch.testing.assert_close(curve, expected, atol=1e-4, rtol=1e-4)


def test_attack_and_decay_by_hand():
    level = control.attack_decay(torch.tensor([-0.1, 0.0, 0.5]), torch.tensor(0.1), torch.tensor(0.5))
    torch.testing.assert_close(level, torch.tensor([0.0, 0.0, (1 - math.exp(-5)) * math.exp(-1)]))


def test_slow_modulation_by_hand():
    curve = control.slow_modulation(column(1.0), column(0.8), column(0.0), GRID)[0]
    assert [curve[point].item() for point in (0, 125, 250, 500)] == pytest.approx([1.0, 0.6, 0.2, 1.0], abs=1e-5)


def test_grains_are_steady_at_0_and_crackle_at_20():
    values = torch.rand(2, control.max_grains(250, GRID))
    steady = control.grains(column(10.0, 50.0), column(0.0, 0.0), values, GRID)
    torch.testing.assert_close(steady, torch.ones(2, 1001))
    sparse = control.grains(column(10.0, 10.0), column(20.0, 5.0), values, GRID)
    torch.testing.assert_close(sparse.square().mean(dim=1), torch.ones(2), rtol=1e-3, atol=0)
    assert (sparse > 0.1).float().mean(dim=1)[0] < 0.3
    # Grain 3 of 10 a second lasts from 0.3 to 0.4 s and falls by sparsity / 4 nepers.
    inside = sparse[1, 151:199].log()
    assert (inside[0] - inside[-1]).item() == pytest.approx(5 / 4 * 47 / 50, rel=1e-3)


def test_peak_and_floor():
    assert control.peak_one(torch.tensor([[0.0, 2.0, 4.0], [0.0, 0.0, 0.0]])).tolist() == [[0, 0.5, 1], [0, 0, 0]]
    assert control.with_floor(torch.tensor([[0.0, 0.5, 1.0]]), column(0.1)).tolist() == [pytest.approx([0.1, 0.55, 1])]
