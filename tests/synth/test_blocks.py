import math

import pytest
import torch

from vcrast.synth.blocks import (
    attack_decay,
    band_gain,
    harmonics,
    hump,
    phase,
    place,
    resonance_gain,
    rolloff,
    shape_spectrum,
    since_last_beat,
    sine,
    slope_gain,
    smooth_noise,
    unit_power,
)

RATE = 16000


def constant(*hertz: float, num_samples: int = RATE) -> torch.Tensor:
    return torch.tensor(hertz).unsqueeze(1).expand(-1, num_samples)


def test_sine_equals_the_formula_in_float64():
    time = torch.arange(10 * RATE, dtype=torch.float64) / RATE
    expected = torch.sin(2 * math.pi * 4321.0 * time)
    wave = sine(constant(4321.0, num_samples=10 * RATE), RATE)[0]
    torch.testing.assert_close(wave.double(), expected, rtol=0, atol=1e-5)


def test_phase_of_a_glide_by_hand():
    # Cycles pass at the frequency of the sample that is reached.
    assert phase(torch.tensor([[9.0, 1.0, 2.0, 3.0]]), 4).tolist() == [[0.0, 0.25, 0.75, 0.5]]


def test_nothing_sounds_above_the_limit():
    assert not sine(constant(7300.0), RATE).any()
    wave = harmonics(constant(3000.0), torch.ones(1, 10), RATE)
    spectrum = torch.fft.rfft(wave)[0].abs() / (RATE / 2)
    loud = (spectrum > 0.01).nonzero().flatten().tolist()
    assert loud == [3000, 6000]


def test_harmonics_have_the_wanted_amplitudes():
    wave = harmonics(constant(200.0), rolloff(5, torch.tensor([[2.0]])), RATE)
    spectrum = torch.fft.rfft(wave)[0].abs() / (RATE / 2)
    expected = torch.tensor([1, 1 / 4, 1 / 9, 1 / 16, 1 / 25])
    torch.testing.assert_close(spectrum[200:1001:200], expected, rtol=1e-3, atol=1e-4)


def test_envelopes_by_hand():
    time = torch.tensor([-0.1, 0.0, 0.5])
    expected = torch.tensor([0.0, 0.0, (1 - math.exp(-5)) * math.exp(-1)])
    torch.testing.assert_close(attack_decay(time, 0.1, 0.5), expected)
    torch.testing.assert_close(hump(torch.tensor([-0.5, 0.25, 0.5, 1.5])), torch.tensor([0.0, 0.5, 1.0, 0.0]))


def test_smooth_noise_passes_through_its_knots():
    knots = torch.tensor([[1.0, -1.0, 3.0], [0.0, 2.0, 5.0]])
    control = smooth_noise(knots, torch.tensor([[2.0], [4.0]]), 16, 8)
    assert control[0, [0, 2, 4, 6, 8, 15]].tolist() == pytest.approx([1, 0, -1, 1, 3, 3], abs=1e-6)
    assert control[1, [0, 1, 2, 4, 15]].tolist() == pytest.approx([0, 1, 2, 5, 5], abs=1e-6)


@pytest.mark.parametrize(
    ("gain", "hertz", "expected"),
    [
        (lambda hz: band_gain(hz, torch.tensor([[1000.0]]), 0.5), [1000, 2000, 500], [1.0, math.exp(-2), math.exp(-2)]),
        (lambda hz: slope_gain(hz, torch.tensor([[-6.0]])), [10, 50, 100, 800], [1.0, 1.0, 0.501187, 0.063096]),
        (
            lambda hz: resonance_gain(hz, torch.tensor([[1000.0]]), torch.tensor([[100.0]])),
            [1000, 1050, 950],
            [1.0, 0.5**0.5, 0.5**0.5],
        ),
    ],
)
def test_gains_by_hand(gain, hertz, expected):
    torch.testing.assert_close(gain(torch.tensor(hertz, dtype=torch.float32))[0], torch.tensor(expected))


def test_shape_spectrum_scales_a_tone_and_does_not_wrap_around():
    tone = sine(constant(440.0), RATE)
    halved = shape_spectrum(tone, lambda hz: torch.full_like(hz, 0.5), RATE)
    torch.testing.assert_close(halved, 0.5 * tone, rtol=0, atol=1e-5)
    late = torch.zeros(1, RATE)
    late[0, -1] = 1.0
    filtered = shape_spectrum(late, lambda hz: resonance_gain(hz, torch.tensor([[0.0]]), torch.tensor([[50.0]])), RATE)
    assert filtered[0, -1] > 10 * filtered[0, :100].abs().max()


def test_beats_by_hand():
    since, number = since_last_beat(torch.tensor([[2.0], [1.0]]), torch.tensor([[0.0], [0.75]]), 8, 8)
    torch.testing.assert_close(since[0], torch.tensor([0, 0.125, 0.25, 0.375, 0, 0.125, 0.25, 0.375]))
    assert number[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    torch.testing.assert_close(since[1, :4], torch.tensor([0.75, 0.875, 0.0, 0.125]))
    assert number[1].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_place_by_hand():
    grains = torch.tensor([[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]])
    assert place(grains, torch.tensor([[0.5, 1.0]]), 6, 4).tolist() == [[0, 0, 1, 2, 13, 20]]
    shared = place(grains[:, :1], torch.tensor([[0.0, 99.0]]), 6, 4)
    assert shared.tolist() == [[1, 2, 3, 0, 0, 0]]


def test_unit_power():
    wave = unit_power(torch.tensor([[3.0, 1.0], [5.0, 5.0]]))
    assert wave.tolist() == [[1.0, -1.0], [0.0, 0.0]]
