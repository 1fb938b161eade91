"""Compare waveforms and noise with integrals, Bessel functions and slopes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from extensions.audiopg.waveforms import NUM_HARMONICS, SERIES, below_limit, modulation, power_law, series, tilt
from vcrast.data.synth.spectra import Bins

# One period of each, drawn from its definition: a ramp that falls from 1 to -1, two levels, two ramps.
DRAWN = {
    "sawtooth": lambda x: 1 - 2 * x,
    "square": lambda x: np.where(x < 0.5, 1.0, -1.0),
    "triangle": lambda x: 1 - 4 * np.abs((x + 0.25) % 1 - 0.5),
}


@pytest.mark.parametrize("name", SERIES)
def test_series_are_the_integrals_of_the_waveform(name):
    x = (np.arange(2**18) + 0.5) / 2**18
    wave = DRAWN[name](x)
    found = series()[SERIES.index(name)].double().numpy()
    for k in (1, 2, 3, 4, 5, 7, 50, 51, 143, 144):
        wanted = 2 * (wave * np.sin(2 * math.pi * k * x)).mean()
        scale = 2 * (wave * np.sin(2 * math.pi * x)).mean()  # the series are in units of their first harmonic
        assert found[k - 1] == pytest.approx(wanted / scale, abs=1e-5), k
        assert 2 * (wave * np.cos(2 * math.pi * k * x)).mean() == pytest.approx(0, abs=1e-5)


@given(st.floats(0, 4), st.floats(1, 144))
def test_power_law_by_hand(gamma, count):
    found = power_law(torch.tensor([[gamma]]), torch.tensor([[count]]))[0].tolist()
    whole = int(count)
    parts = [1.0] * whole + [count - whole] + [0.0] * NUM_HARMONICS
    assert found == pytest.approx([parts[k - 1] * k**-gamma for k in range(1, NUM_HARMONICS + 1)], rel=1e-4, abs=2e-5)


def test_no_partial_passes_the_limit():
    levels = below_limit(torch.ones(3, NUM_HARMONICS), torch.tensor([[50.0], [2000.0], [1799.0]]), 16000)
    assert levels.sum(dim=1).tolist() == [144, 3, 4]


@given(st.floats(50, 2000), st.floats(0.25, 4), st.floats(0, 8), st.sampled_from([16000, 22050, 48000]))
def test_modulation_fits_below_the_limit(carrier, ratio, index, rate):
    carrier_hz, wanted_ratio, wanted_index = (torch.tensor([[value]]) for value in (carrier, ratio, index))
    modulator_hz, found = modulation(carrier_hz, wanted_ratio, wanted_index, rate)
    assert carrier + (float(found) + 1) * float(modulator_hz) <= 0.45 * rate * (1 + 1e-5) or float(found) == 0
    assert float(found) >= 0
    # Where it fits as it is, nothing is changed.
    if carrier + (index + 1) * ratio * carrier < 0.45 * rate and ratio * carrier < (0.45 * rate - carrier) / 2:
        assert float(modulator_hz) == pytest.approx(ratio * carrier, rel=1e-5)
        assert float(found) == pytest.approx(index)


@pytest.mark.parametrize(("exponent", "db"), [(0.0, 0.0), (1.0, -3.0103), (2.0, -6.0206)])
def test_tilt_falls_by_so_many_decibels_an_octave(exponent, db):
    bins = Bins(32000, 16000, torch.device("cpu"))
    gain = tilt(torch.tensor([[exponent]]), bins)[0]
    level = dict(zip(bins.hertz.tolist(), (20 * gain.log10()).tolist(), strict=True))
    for hertz in (64.0, 256.0, 2048.0):
        assert level[2 * hertz] - level[hertz] == pytest.approx(db, abs=1e-3)
    assert level[0.0] == level[48.0] == 0
