import math

import pytest
import torch
from measure import RATE, instantaneous_hz, level_at, repeats_hz, strongest_hz

from vcrast.data.synth import oscillators
from vcrast.data.synth.control import Grid, pitch_contour

LONG = Grid(5 * RATE + 7, RATE, torch.device("cpu"))  # no multiple of the control step
PURE = torch.eye(1, oscillators.NUM_HARMONICS)


def column(*values):
    return torch.tensor(values).unsqueeze(1)


def tone(f0, glide=0.0, vibrato_hz=5.0, semitones=0.0, levels=PURE, grid=LONG):
    contour = pitch_contour(column(f0), column(glide), column(vibrato_hz), column(semitones), grid)
    return oscillators.read_table(oscillators.period(levels), oscillators.cycles(contour, grid))[0]


@pytest.mark.parametrize("f0", [40.0, 441.25, 3999.0])
def test_a_steady_tone_is_a_sine_to_its_last_sample(f0):
    time = torch.arange(LONG.num_samples, dtype=torch.float64) / RATE
    expected = math.sqrt(2) * torch.sin(2 * math.pi * f0 * time)
    # Straight lines in the table: (2 pi / 2048)^2 / 8 of the amplitude; float32 phases: 7 cycles in a step.
    torch.testing.assert_close(tone(f0).double(), expected, rtol=0, atol=2e-5)
    assert strongest_hz(tone(f0)) == pytest.approx(f0, abs=0.06)


def test_phase_is_the_integral_of_the_frequency():
    """Against a sum of float64 frequencies at every sample, straight lines between control points."""
    contour = pitch_contour(column(300.0), column(1.3), column(7.0), column(2.0), LONG)
    dense = torch.nn.functional.interpolate(contour.double()[None], size=(LONG.num_points - 1) * LONG.hop + 1,
                                            mode="linear", align_corners=True)[0, 0]  # fmt: skip
    middle = (dense[1:] + dense[:-1]) / 2
    expected = torch.cat([torch.zeros(1, dtype=torch.float64), middle.cumsum(0) / RATE])[: LONG.num_samples]
    phase = oscillators.cycles(contour, LONG)[0].double()
    off = (phase - expected + 0.5) % 1.0 - 0.5
    assert off.abs().max() < 2e-5


def test_glide_and_vibrato_are_heard_as_asked():
    found = instantaneous_hz(tone(800.0, glide=1.0))
    assert found[RATE // 2] == pytest.approx(800 * 2 ** (0.1 - 0.5), rel=2e-3)
    assert found[9 * RATE // 2] == pytest.approx(800 * 2**0.4, rel=2e-3)
    found = instantaneous_hz(tone(1000.0, vibrato_hz=6.0, semitones=1.0))[RATE // 2 : -RATE // 2]
    assert repeats_hz(found, RATE, 4, 9) == pytest.approx(6.0, rel=5e-3)
    assert found.max() == pytest.approx(1000 * 2 ** (1 / 12), rel=2e-3)


def test_harmonics_have_their_levels():
    grid = Grid(5 * RATE, RATE, torch.device("cpu"))  # harmonics fall on bins of the spectrum
    contour = torch.full((1, grid.num_points), 200.0)
    partials = torch.linspace(1.0, 0.1, oscillators.NUM_PARTIALS).unsqueeze(0)
    levels = oscillators.harmonic_levels(column(1.5), column(0.25), partials, contour, RATE)
    wave = tone(200.0, levels=levels, grid=grid)
    first = level_at(wave, 200)
    for order in (2, 3, 7, 12, 13, 30):
        wanted = order**-1.5 * (0.25 if order % 2 == 0 else 1) * (partials[0, order - 1] if order <= 12 else 1)
        # Straight lines miss a sine of `order` periods in the table by (2 pi order / size)^2 / 8.
        allowed = (2 * math.pi * order / oscillators.TABLE) ** 2 / 8 + 0.003
        assert level_at(wave, 200 * order) / first == pytest.approx(float(wanted), rel=allowed), order
    assert wave.square().mean().item() == pytest.approx(1, rel=1e-3)


def test_nothing_above_the_limit_not_even_while_gliding():
    contour = pitch_contour(column(3000.0), column(1.0), column(5.0), column(0.0), LONG)
    ones = torch.ones(1, oscillators.NUM_PARTIALS)
    levels = oscillators.harmonic_levels(column(0.0), column(1.0), ones, contour, RATE)
    assert levels.nonzero().tolist() == [[0, 0]]  # the second would reach 8.5 kHz
    assert oscillators.harmonic_levels(column(0.0), column(1.0), ones, contour / 10, RATE).count_nonzero() == 16


def test_the_table_is_read_at_its_ends():
    table = torch.arange(2049.0).unsqueeze(0)
    phase = torch.tensor([[0.0, 0.5, 1.0, -1e-9, 1 - 2**-24, 7.25]])
    assert oscillators.read_table(table, phase)[0].tolist() == pytest.approx([0, 1024, 0, 2048, 2048, 512], abs=1e-3)
