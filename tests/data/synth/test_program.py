"""The whole program: what a clip's parameters say is what an analysis of the clip finds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from measure import RATE, decay_60_s, instantaneous_hz, loudness, repeats_hz, strongest_hz

from vcrast.data.synth.control import Grid
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.program import KINDS, LAYER, SCENE, Layers

SPACE = Layers.space_of(1)
GRID = Grid(2 * RATE, RATE, torch.device("cpu"))
# A pure, steady, dry tone; every test changes what it is about.
PLAIN = {
    "1/kind": 1.0, "1/slow_depth": 0.0, "1/glide_octaves": 0.5, "1/vibrato_semitones": 0.0, "1/slope": 1.0,
    "1/even_db": 0.0, "1/partials_db": [1.0] + [0.0] * 11, "1/formant_share": 0.0, "1/sparsity": 0.0,
    "1/noise_share": 0.0, "1/floor_db": 0.0, "body_share": 0.0, "reverb_share": 0.0, "level_db": 1.0,
}  # fmt: skip


def unit(name, value, space=SPACE):
    """The place in [0, 1] of a value whose law is linear or logarithmic."""
    found = next(parameter for parameter in space.parameters if parameter.name == name)
    if found.law == "log":
        return math.log(value / found.low) / math.log(found.high / found.low)
    assert found.law == "linear"
    return (value - found.low) / (found.high - found.low)


def sound(number=0, grid=GRID, **changes):
    """(S,) one clip of one layer; `changes` are places in [0, 1]."""
    units = SPACE.units(**{**PLAIN, **changes})
    program = Layers(num_layers=1, grid=grid)
    return program.render(units, program.draw_material(Dice.of(3, "sound", torch.tensor([number]))))[0]


def layer(**changes):
    return {f"1/{name}": value for name, value in changes.items()}


@given(st.floats(45, 3500))
def test_pitch(f0):
    wav = sound(**layer(f0_hz=unit("1/f0_hz", f0)))
    assert strongest_hz(wav) == pytest.approx(f0, abs=0.15)


@pytest.mark.parametrize("octaves", [-1.5, -0.1875, 1.5])
def test_glide(octaves):
    place = 0.5 + np.cbrt(octaves / 1.5) / 2
    found = instantaneous_hz(sound(**layer(f0_hz=unit("1/f0_hz", 800), glide_octaves=place)))
    for time_s in (0.3, 1.0, 1.7):
        wanted = 800 * 2 ** (octaves * (time_s / 2 - 0.5))
        assert np.median(found[int(time_s * RATE) - 50 : int(time_s * RATE) + 50]) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(("rate", "semitones"), [(4.0, 0.5), (7.0, 2.0), (11.0, 3.0)])
def test_vibrato(rate, semitones):
    wav = sound(**layer(f0_hz=unit("1/f0_hz", 1500), vibrato_hz=unit("1/vibrato_hz", rate),
                        vibrato_semitones=(semitones / 3) ** (1 / 3)))  # fmt: skip
    found = instantaneous_hz(wav)[RATE // 10 : -RATE // 10]
    assert repeats_hz(found, RATE, 0.6 * rate, 1.6 * rate) == pytest.approx(rate, rel=0.02)
    assert np.percentile(found, 99) == pytest.approx(1500 * 2 ** (semitones / 12), rel=0.01)


def test_spectrum_of_the_noise_follows_the_equaliser():
    levels = torch.rand(16)
    wavs = torch.stack([sound(n, **layer(noise_share=1.0, equaliser_db=levels)) for n in range(24)]).double()
    power = torch.fft.rfft(wavs).abs().square().mean(dim=0).numpy()
    low, high = math.log1p(50 / 700), math.log1p(8000 / 700)
    centres = [700 * math.expm1(low + number / 15 * (high - low)) for number in range(1, 15)]
    found = np.array([10 * math.log10(power[2 * round(hz) - 10 : 2 * round(hz) + 11].mean()) for hz in centres])
    wanted = LAYER.physical(LAYER.units(equaliser_db=levels))["equaliser_db"][0, 1:15].numpy()
    np.testing.assert_allclose(found - found.mean(), wanted - wanted.mean(), atol=3)


def test_formants_stand_out_of_a_pulse_train():
    places = {"formant_1_hz": 600, "formant_2_hz": 1400, "formant_3_hz": 2600, "formant_width_hz": 100, "f0_hz": 50}
    changes = {name: unit(f"1/{name}", value) for name, value in places.items()}
    wav = sound(**layer(**changes, slope=0.0, even_db=1.0, partials_db=1.0, formant_share=1.0))
    for name, low, high in (("formant_1_hz", 300, 1000), ("formant_2_hz", 1100, 1900), ("formant_3_hz", 2200, 3100)):
        assert strongest_hz(wav, low, high) == pytest.approx(places[name], abs=26)  # the nearest harmonic


@pytest.mark.parametrize("rate", [1.5, 4.0, 9.0, 18.0])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_bursts_come_at_their_rate(rate, noise):
    wav = sound(**layer(kind=0.0, burst_hz=unit("1/burst_hz", rate), burst_duty=0.4, noise_share=noise))
    curve, frames_per_s = loudness(wav, 0.005)
    assert repeats_hz(curve, frames_per_s, 0.8 * rate, 1.9 * rate) == pytest.approx(rate, rel=0.03)


def test_bursts_sound_for_their_share_of_the_period():
    for duty in (0.2, 0.5, 0.9):
        changes = {"kind": 0.0, "burst_hz": unit("1/burst_hz", 2.0), "burst_duty": unit("1/burst_duty", duty)}
        wav = sound(**layer(**changes, burst_attack=0.0, burst_decay=0.0))
        curve, _ = loudness(wav, 0.005)
        assert (curve > 0.05 * curve.max()).mean() == pytest.approx(duty, abs=0.02)


def test_onsets_are_where_they_should_be():
    times = torch.tensor([0.05, 0.3, 0.5, 0.8])
    changes = {"kind": 0.5, "count": (4 - 0.5) / 12, "onset_attack_s": 0.0, "onset_levels_db": 1.0}
    changes["onset_times"] = torch.cat([times / 0.95, torch.rand(8)])
    changes["onset_decay_s"] = unit("1/onset_decay_s", 0.04)
    curve, frames_per_s = loudness(sound(**layer(**changes, noise_share=0.0)), 0.005)
    rises = np.diff(curve, prepend=0.0)
    starts = (rises > 0.3 * rises.max()).nonzero()[0] / frames_per_s
    firsts = [start for number, start in enumerate(starts) if number == 0 or start - starts[number - 1] > 0.05]
    assert firsts == pytest.approx((2 * times).tolist(), abs=0.011)


@pytest.mark.parametrize("rate", [1.5, 3.0, 7.5])
def test_slow_modulation_has_its_rate_and_depth(rate):
    changes = {"slow_hz": unit("1/slow_hz", rate), "slow_depth": 0.7, "start": 0.0}
    curve, frames_per_s = loudness(sound(**layer(**changes, f0_hz=unit("1/f0_hz", 1000))))
    assert repeats_hz(curve, frames_per_s, 0.7 * rate, 1.6 * rate) == pytest.approx(rate, rel=0.03)
    assert curve.min() / curve.max() == pytest.approx(0.3, abs=0.02)


def test_grains_come_at_their_rate():
    changes = {"grain_hz": unit("1/grain_hz", 20.0), "sparsity": 0.75, "noise_share": 1.0, "slow_depth": 0.0}
    wavs = [sound(number, grid=Grid(8 * RATE, RATE, GRID.device), **layer(**changes)) for number in range(4)]
    curves = [np.log(loudness(wav, 0.005)[0] + 1e-4) for wav in wavs]
    # A new grain every 50 ms: its jump up or down is the largest change of level.
    jumps = np.abs(np.diff(np.stack(curves), axis=1)).mean(axis=0)
    assert repeats_hz(jumps, 200, 12, 33) == pytest.approx(20, rel=0.03)


def test_reverberation_is_heard_after_the_sound():
    changes = layer(kind=0.5, count=0.0, onset_times=0.0, onset_attack_s=0.0, onset_decay_s=0.0, noise_share=1.0)
    dry = sound(**changes, reverb_share=0.0)
    wet = sound(**changes, reverb_share=1.0, reverb_s=unit("reverb_s", 0.4))
    assert decay_60_s(dry) < 0.12
    assert decay_60_s(wet) == pytest.approx(0.4, rel=0.25)


def test_the_body_rings_at_its_modes():
    modes = torch.tensor([unit("modes_hz", hz, SCENE) for hz in (400.0, 1100.0, 2500.0, 5000.0)])
    changes = layer(kind=0.5, count=0.0, onset_times=0.0, onset_attack_s=0.0, onset_decay_s=0.0, noise_share=1.0)
    wav = sound(**changes, **layer(equaliser_db=1.0), body_share=1.0, modes_hz=modes, mode_decay_s=1.0)[RATE // 5 :]
    for hertz in (400, 1100, 2500, 5000):
        assert strongest_hz(wav, hertz - 150, hertz + 150) == pytest.approx(hertz, abs=8)


def test_level_is_that_of_the_highest_peak():
    for level_db in (-20.0, -7.5, -1.0):
        wav = sound(level_db=unit("level_db", level_db, SCENE))
        assert 20 * math.log10(wav.abs().max()) == pytest.approx(level_db, abs=1e-3)


def test_layers_add_up_at_their_levels():
    program = Layers(num_layers=2, grid=GRID)
    space = program.space
    assert space.size == 2 * LAYER.size + SCENE.size
    units = space.units(
        **{**PLAIN, **{name.replace("1/", "2/"): value for name, value in PLAIN.items() if "/" in name}},
        **{"1/f0_hz": unit("1/f0_hz", 500), "2/f0_hz": unit("1/f0_hz", 900), "1/layer_db": 1.0},
        **{"2/layer_db": unit("1/layer_db", -9.0)},
    )
    wav = program.render(units, program.draw_material(Dice.of(0, "two", torch.tensor([0]))))[0]
    magnitude = torch.fft.rfft(wav).abs()
    assert 20 * torch.log10(magnitude[1800] / magnitude[1000]).item() == pytest.approx(-9, abs=0.15)
    with pytest.raises(ValueError, match=r"source\.num_layers=0: a sound needs at least 1 layer"):
        Layers(num_layers=0, grid=GRID)


def test_the_kinds_are_what_the_names_say():
    assert KINDS == ("bursts", "onsets", "slow modulation")
    kinds = LAYER.physical(torch.tensor([[0.0], [0.34], [1.0]]).expand(-1, LAYER.size))["kind"]
    assert kinds.flatten().tolist() == [0, 1, 2]
