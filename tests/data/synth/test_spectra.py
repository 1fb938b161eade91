import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from measure import RATE, decay_60_s, spectrum, strongest_hz

from vcrast.data.synth import spectra
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.spectra import Bins

CPU = torch.device("cpu")


def column(*values):
    return torch.tensor(values).unsqueeze(1)


@given(st.integers(1, 200_000))
def test_fast_lengths(num_samples):
    length = spectra.fast_length(num_samples)
    assert num_samples <= length
    assert length % 2 == 0
    rest = length
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1
    assert length <= 1.2 * num_samples + 2


@given(st.integers(8000, 90_000))
def test_gains_are_joined_by_straight_lines(num_samples):
    bins = Bins(num_samples, RATE, CPU)
    gain = torch.rand(2, len(bins.hertz))
    dense = torch.arange(bins.size).numpy() * RATE / bins.length
    expected = np.stack([np.interp(dense, bins.hertz.numpy(), row) for row in gain.numpy()])
    np.testing.assert_allclose(bins.upsample(gain).numpy(), expected, atol=2e-4)


def noise(gain, num_clips=64, num_samples=RATE):
    bins = Bins(num_samples, RATE, CPU)
    white = Dice.of(0, "noise", torch.arange(num_clips)).complex_normal("noise", bins.size)
    return spectra.coloured(white, gain(bins).expand(num_clips, -1), bins, num_samples)


def test_white_noise_is_normal_flat_and_of_power_one():
    wave = noise(lambda bins: torch.ones(1, len(bins.hertz))).double()
    num_values = wave.numel()
    assert wave.mean().abs().item() < 5 / math.sqrt(num_values)
    assert wave.square().mean().item() == pytest.approx(1, abs=5 * math.sqrt(2 / num_values))
    assert wave.pow(4).mean().item() == pytest.approx(3, abs=0.05)  # the fourth moment of a normal
    neighbours = (wave[:, 1:] * wave[:, :-1]).mean().item()
    assert abs(neighbours) < 5 / math.sqrt(num_values)


def test_noise_has_the_equalisers_spectrum():
    points_db = torch.linspace(-30, 0, 16)[torch.randperm(16)].unsqueeze(0)
    wave = noise(lambda bins: spectra.equaliser(points_db, bins))
    assert wave.square().mean().item() == pytest.approx(1, rel=0.02)
    power = torch.fft.rfft(wave.double()).abs().square().mean(dim=0).numpy()
    low, high = math.log1p(50 / 700), math.log1p(8000 / 700)
    found = []
    for number in range(1, 15):
        centre = 700 * math.expm1(low + number / 15 * (high - low))
        # Ten bins around a point lie within a tenth of the way to the next: the lines bend by up to 3 dB there.
        found.append(10 * math.log10(power[round(centre) - 5 : round(centre) + 6].mean()))
    wanted = points_db[0, 1:15].numpy()
    np.testing.assert_allclose(np.array(found) - np.mean(found), wanted - wanted.mean(), atol=2.5)


def test_noise_turns_from_the_same_to_another():
    bins = Bins(RATE, RATE, CPU)
    dice = Dice.of(0, "turn", torch.arange(8))
    first, second = dice.complex_normal("a", bins.size), dice.complex_normal("b", bins.size)
    assert torch.equal(spectra.mix_noise(first, second, 0.0), first)
    assert torch.equal(spectra.mix_noise(first, second, 1.7), second)
    flat = torch.ones(8, len(bins.hertz))
    sounds = [
        spectra.coloured(spectra.mix_noise(first, second, d), flat, bins, RATE).flatten() for d in (0.0, 0.5, 1.0)
    ]
    correlation = torch.corrcoef(torch.stack(sounds))
    assert correlation[0, 1].item() == pytest.approx(math.cos(math.pi / 4), abs=0.02)
    assert abs(correlation[0, 2].item()) < 0.02
    assert sounds[1].square().mean().item() == pytest.approx(1, rel=0.03)


def test_gains_by_hand():
    slope = spectra.sloped(torch.tensor([0.0, 10, 50, 100, 800]), column(-6.0, 0.0))
    # 6 dB is a factor of 0.501187, and four octaves 24 dB.
    torch.testing.assert_close(slope[0], torch.tensor([1.0, 1.0, 1.0, 0.501187, 0.063096]))
    assert slope[1].tolist() == [1.0] * 5
    resonance = spectra.resonance_gain(torch.tensor([1000.0, 1050, 950, 1500]), column(1000.0), column(100.0))
    torch.testing.assert_close(resonance[0], torch.tensor([1.0, 0.5**0.5, 0.5**0.5, 101**-0.5]))


def test_formants_by_hand():
    hertz = torch.tensor([500.0, 550.0, 1500.0, 2500.0, 20000.0])
    gain = spectra.formants(hertz, torch.tensor([[500.0, 1500.0, 2500.0]]), column(100.0), column(1.0))[0]

    def tails(f):
        return sum(2.0**-i / math.hypot(1, 2 * (f - c) / 100) for i, c in enumerate((500, 1500, 2500)))

    assert gain[:4].tolist() == pytest.approx([tails(f) for f in (500, 550, 1500, 2500)], rel=1e-5)
    assert gain[4].item() == pytest.approx(0.01)
    none = spectra.formants(hertz, torch.tensor([[500.0, 1500.0, 2500.0]]), column(100.0), column(0.0))
    assert torch.equal(none, torch.ones(1, 5))


def test_a_struck_body_rings_at_its_modes_for_its_decay():
    modes = torch.tensor([[300.0, 1210.0, 2500.0, 5000.0]])
    ringing = spectra.body_ringing(modes, column(0.05), RATE // 2, RATE)[0]
    for mode in modes[0].tolist():
        assert strongest_hz(ringing, mode - 200, mode + 200) == pytest.approx(mode, abs=2)
    alone = spectra.body_ringing(torch.full((1, 4), 1000.0), column(0.05), RATE // 2, RATE)[0]
    assert decay_60_s(alone) == pytest.approx(0.05 * math.log(1000), rel=0.02)
    # As a filter: unit gain at the mode, half the power 1 / (2 pi decay) Hz beside it.
    hertz = np.fft.rfftfreq(8 * RATE, 1 / RATE)
    gain = np.abs(np.fft.rfft(alone.double().numpy(), 8 * RATE))
    beside = 1000 + 1 / (2 * math.pi * 0.05)
    assert gain[np.abs(hertz - 1000).argmin()] == pytest.approx(1, rel=0.02)
    assert gain[np.abs(hertz - beside).argmin()] == pytest.approx(0.5**0.5, rel=0.03)


@pytest.mark.parametrize("reverb_s", [0.1, 0.3, 0.45])
def test_echoes_fall_by_60_db_in_the_reverberation_time(reverb_s):
    room = Dice.of(0, "room", torch.arange(4)).normal("room", RATE // 2)
    echoes = spectra.room_echoes(room, torch.full((4, 1), reverb_s), RATE)
    torch.testing.assert_close(echoes.square().sum(dim=1), torch.ones(4))
    found = np.mean([decay_60_s(echo) for echo in echoes])
    assert found == pytest.approx(reverb_s, rel=0.1)


def test_convolution_equals_the_sum():
    wave, response = torch.randn(2, 301, dtype=torch.float64), torch.randn(2, 77, dtype=torch.float64)
    expected = np.stack([np.convolve(a, b)[:301] for a, b in zip(wave.numpy(), response.numpy(), strict=True)])
    np.testing.assert_allclose(spectra.convolved(wave, response).numpy(), expected, atol=1e-10)


def test_the_analysis_itself_finds_a_known_tone():
    wav = np.sin(2 * np.pi * 1234.5 * np.arange(RATE) / RATE)
    assert strongest_hz(wav) == pytest.approx(1234.5, abs=0.13)
    hertz, magnitude = spectrum(wav)
    assert magnitude[np.abs(hertz - 1234.5) > 10].max() < 1e-2 * magnitude.max()
