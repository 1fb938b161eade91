"""Check program `audiopg`: a clip's parameters are what an analysis finds."""

import itertools
import math
import os
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measure import NUM_DRAWS, RATE, assert_sounds, level_at, loudness, strongest_hz
from parts import assert_a_gpu_makes_the_same, make_doppelgangers

from extensions.audiopg.program import LAYER, SCENE, WAVEFORMS, AudioPG, tone
from vcrast.data.synth.control import Grid
from vcrast.data.synth.counter import Dice

GRID = Grid(2 * RATE, RATE, torch.device("cpu"))
PROGRAM = AudioPG(num_layers=1, grid=GRID)
# One steady undamped event from the start to the end; every test changes what it is about.
PLAIN = {
    "1/waveform": "sawtooth", "1/num_events": 1, "1/f0_hz": 400.0, "1/attack_s": 0.004, "1/decay_s": 0.01,
    "1/sustain": 1.0, "1/hold_s": 3.0, "1/release_s": 1.0, "1/damping_hz": 0.0, "1/event_levels_db": 0.0,
    "1/event_times": 0.0, "1/layer_db": 0.0, "num_bursts": 0, "background_db": -60.0, "level_db": -1.0,
}  # fmt: skip


def unit(parameter, value):
    """The place in [0, 1] of a value in its unit."""
    low, high = parameter.low, parameter.high
    if parameter.law == "choice":
        return ((parameter.names.index(value) if parameter.names else value) - low + 0.5) / (high - low)
    values = np.asarray(value, dtype=np.float64)
    if parameter.law == "log":
        return (np.log(values / low) / math.log(high / low)).tolist()
    return np.cbrt((values - low) / (high - low)).tolist() if parameter.law == "rare" else (
        (values - low) / (high - low)).tolist()  # fmt: skip


def sound(number=0, program=PROGRAM, **changes):
    """(S,) one clip; `changes` are values, those of the layer under names with an underscore `l_`."""
    wanted = {**PLAIN, **{name.replace("l_", "1/", 1): value for name, value in changes.items()}}
    places = {p.name: unit(p, wanted[p.name]) for p in program.space.parameters if p.name in wanted}
    dice = Dice.of(3, "sound", torch.tensor([number]))
    return program.render(program.space.units(**places), program.draw_material(dice))[0]


def bessel(order, x):
    """J_order(x) from its integral, the mean of cos(order tau - x sin tau) over a half turn."""
    tau = (np.arange(4000) + 0.5) / 4000 * math.pi
    return np.cos(order * tau - x * np.sin(tau)).mean()


def harmonics(wav, f0, count):
    return np.array([level_at(wav, k * f0) for k in range(1, count + 1)])


@given(st.floats(60, 2000), st.sampled_from(("sawtooth", "square", "triangle", "additive tone")))
@settings(max_examples=40)
def test_pitch(f0, waveform):
    wav = sound(l_f0_hz=f0, l_waveform=waveform, l_gamma=2.0, l_num_partials=20.0)
    assert strongest_hz(wav) == pytest.approx(f0, abs=0.15)


@pytest.mark.parametrize(
    ("waveform", "law"),
    [
        ("sawtooth", lambda k: 1 / k),
        ("square", lambda k: k % 2 / k),
        ("triangle", lambda k: k % 2 / k**2),
        ("additive tone", lambda k: k**-1.3 * (k <= 9)),
    ],
)
def test_the_spectrum_is_that_of_the_waveform(waveform, law):
    wav = sound(l_waveform=waveform, l_f0_hz=520.0, l_gamma=1.3, l_num_partials=9.0)
    found = harmonics(wav, 520.0, 13)
    wanted = np.array([law(k) for k in range(1, 14)])
    np.testing.assert_allclose(found / found[0], wanted / wanted[0], atol=0.004)
    assert 0.45 * RATE < 14 * 520  # the next one is left out, so nothing folds back
    between = [level_at(wav, (k + 0.5) * 520.0, 200.0) for k in range(15)]
    assert max(between) < 0.006 * found[0]


def test_the_wave_of_a_square_is_square():
    wav = sound(l_waveform="square", l_f0_hz=50.0)[8000:24000].double()
    # Seen once through an average of 1 ms, which hides Gibbs's overshoots, it has two levels, half of the time each.
    smooth = torch.nn.functional.avg_pool1d(wav[None], 16, 1)[0]
    middle = smooth.abs().quantile(0.5)
    assert ((smooth.abs() / middle - 1).abs() < 0.05).double().mean() > 0.85
    assert (smooth > 0).double().mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("carrier", "ratio", "index"), [(1000.0, 0.31, 2.5), (600.0, 1.37, 4.0), (1900.0, 0.5, 0.8)])
def test_fm_sidebands_are_bessel_functions_of_the_index(carrier, ratio, index):
    wav = sound(l_waveform="FM tone", l_f0_hz=carrier, l_fm_ratio=ratio, l_fm_index=index)
    expected = {}
    for k in range(-12, 13):
        hertz = round(carrier + k * ratio * carrier, 3)
        if abs(hertz) < RATE / 2:
            # sin(-2 pi f t) is -sin(2 pi f t): what lies below 0 Hz is heard above it, turned over.
            expected[abs(hertz)] = expected.get(abs(hertz), 0.0) + bessel(k, index) * np.sign(hertz)
    loudest = max(expected.values(), key=abs)
    top = max(level_at(wav, hertz) for hertz, level in expected.items() if level == loudest)
    for hertz, level in expected.items():
        assert level_at(wav, hertz) / top == pytest.approx(abs(level / loudest), abs=0.012), hertz


@pytest.mark.parametrize(
    ("attack", "decay", "sustain", "hold", "release"), [(0.2, 0.3, 0.4, 0.5, 0.6), (0.05, 0.1, 0.7, 0.9, 0.3)]
)
def test_adsr_times(attack, decay, sustain, hold, release):
    wav = sound(l_f0_hz=2000.0, l_waveform="triangle", l_attack_s=attack, l_decay_s=decay, l_sustain=sustain,
                l_hold_s=hold, l_release_s=release)  # fmt: skip
    curve, frames_per_s = loudness(wav, 0.01)
    curve = curve / curve.max()
    middle = (np.arange(len(curve)) + 0.5) / frames_per_s
    held = (middle > attack + decay + 0.02) & (middle < attack + decay + hold - 0.02)
    assert curve[held] == pytest.approx(sustain, abs=0.02)
    assert (curve[:60].argmax() + 0.5) / frames_per_s == pytest.approx(attack, abs=0.011)
    end = attack + decay + hold
    for share in (0.25, 0.5, 0.75):
        place = np.interp(end + share * release, middle, curve)
        assert place == pytest.approx(sustain * (1 - share), abs=0.02)
    assert curve[middle > end + release + 0.02].max(initial=0.0) < 0.01


@pytest.mark.parametrize("damping", [2.0, 9.0, 27.0])
def test_damping_is_an_exponential(damping):
    curve, frames_per_s = loudness(sound(l_f0_hz=1000.0, l_damping_hz=damping), 0.01)
    first, last = 3, 3 + round(1.2 / damping * frames_per_s)
    found = math.log(curve[first] / curve[last]) / ((last - first) / frames_per_s)
    assert found == pytest.approx(damping, rel=0.03)


def test_events_are_where_they_should_be_and_as_loud():
    times, levels = [0.1, 0.5, 0.75, 0.9, 0.2, 0.3, 0.4, 0.6], [0.0, -12.0, -6.0, -3.0] + [0.0] * 4
    wav = sound(l_num_events=4, l_event_times=times, l_event_levels_db=levels, l_hold_s=0.04, l_release_s=0.02,
                l_f0_hz=1000.0)  # fmt: skip
    curve, frames_per_s = loudness(wav, 0.01)
    curve = 20 * np.log10(curve / curve.max())
    for time, level in zip(times[:4], levels, strict=False):
        assert curve[round(2 * time * frames_per_s) + 3] == pytest.approx(level, abs=0.5)
    for silent in times[4:]:
        assert curve[round(2 * silent * frames_per_s) + 3] < -40


@pytest.mark.parametrize("clips", [32])
def test_pink_noise_falls_by_three_decibels_an_octave(clips):
    wavs = torch.stack([sound(number, l_waveform="pink noise") for number in range(clips)]).double()
    power = torch.fft.rfft(wavs).abs().square().mean(dim=0).numpy()
    hertz = np.arange(len(power)) / 2
    bands = [(low, 2 * low) for low in (100, 200, 400, 800, 1600, 3200)]
    levels = [10 * math.log10(power[(hertz >= low) & (hertz < high)].mean()) for low, high in bands]
    slope = np.polyfit(range(len(levels)), levels, 1)[0]
    assert slope == pytest.approx(-3.01, abs=0.15)


@pytest.mark.parametrize("tilt", [0.2, 1.7])
def test_background_has_its_tilt_and_level(tilt):
    changes = {"l_f0_hz": 1000.0, "l_waveform": "triangle", "background_db": -20.0, "background_tilt": tilt}
    # The window keeps the tones, which are 20 dB louder, to themselves.
    wavs = torch.stack([sound(number, **changes) for number in range(24)]).double() * torch.hann_window(2 * RATE)
    power = torch.fft.rfft(wavs).abs().square().mean(dim=0).numpy()
    tones = np.zeros(len(power), dtype=bool)
    for k in (1, 3, 5, 7):
        tones[2 * k * 1000 - 40 : 2 * k * 1000 + 41] = True
    assert 10 * math.log10(power[1:][~tones[1:]].sum() / power[tones].sum()) == pytest.approx(-20, abs=0.6)
    hertz = np.arange(len(power)) / 2
    levels = [10 * math.log10(power[(hertz > low) & (hertz < 2 * low) & ~tones].mean()) for low in (120, 480, 1920)]
    assert np.diff(levels) == pytest.approx(-3.0103 * 2 * tilt, abs=0.5)


def test_bursts_are_short_and_in_their_places():
    times = [0.1, 0.35, 0.8, 0.5, 0.6, 0.7]
    wav = sound(l_layer_db=-18.0, l_hold_s=0.02, l_release_s=0.02, l_sustain=0.0, num_bursts=3, burst_times=times,
                burst_levels_db=0.0, burst_decay_s=0.02, bursts_db=0.0)  # fmt: skip
    curve, frames_per_s = loudness(wav, 0.005)
    for time in times[:3]:
        there = curve[round(2 * time * frames_per_s) :]
        assert there[:2].max() > 0.3 * curve.max()
        assert there[24] < 0.1 * curve.max()  # six time constants later
    for time in times[3:]:
        assert curve[round(2 * time * frames_per_s) : round(2 * time * frames_per_s) + 10].max() < 0.1 * curve.max()


def test_layers_lie_on_top_of_each_other():
    program = AudioPG(num_layers=2, grid=GRID)
    assert program.space.size == 2 * LAYER.size + SCENE.size
    second = {f"2/{name[2:]}": value for name, value in PLAIN.items() if name.startswith("1/")}
    second |= {"2/f0_hz": 900.0, "2/waveform": "triangle", "2/layer_db": -9.0}
    wav = sound(program=program, l_f0_hz=500.0, l_waveform="triangle", **second)
    assert 20 * math.log10(level_at(wav, 900) / level_at(wav, 500)) == pytest.approx(-9, abs=0.1)
    with pytest.raises(ValueError, match=r"source\.num_layers=0: a sound needs at least 1 layer"):
        AudioPG(num_layers=0, grid=GRID)


def stream(num_samples=RATE // 2, **options):
    return make_doppelgangers(**{"num_samples": num_samples, "sample_rate": RATE, "program": "audiopg", **options})


@given(st.data(), st.integers(2, 21), st.integers(0, 10**9))
@settings(max_examples=15)
def test_any_slice_is_that_part_of_the_batch_bit_for_bit(data, batch_size, step):
    sounds = stream()
    whole = sounds.batch(step, batch_size)
    cuts = sorted(data.draw(st.sets(st.integers(1, batch_size - 1), max_size=3)))
    parts = [sounds.batch(step, batch_size, start=a, stop=b) for a, b in itertools.pairwise([0, *cuts, batch_size])]
    assert torch.equal(torch.cat([part.wavs for part in parts]), whole.wavs)
    assert torch.equal(torch.cat([part.units for part in parts]), whole.units)


def test_distance_moves_groups_and_never_the_structure():
    pairs = stream(distance=0.0, distances={"pitch": 0.05, "noise": 1.0}).batch(0, 40)
    sounds = stream()
    for parameter in sounds.space.parameters:
        apart = pairs.units.diff(dim=1)[..., sounds.space.columns[parameter.name]].abs().amax()
        assert (apart > 0) == (parameter.group == "pitch"), parameter.name
    assert "structure" not in sounds.space.groups
    assert torch.equal(*stream(distance=0.0, distances={"noise": 0.0}).batch(0, 4).wavs.unbind(1))
    near, far = (stream(distance=d, distances={"noise": d}).batch(0, 24).wavs for d in (1e-5, 0.3))
    assert near.diff(dim=1).square().mean() < 0.3 * far.diff(dim=1).square().mean()


def test_the_six_waveforms_are_equally_likely_and_recipes_differ():
    units = stream(num_layers=1).batch(0, 600).units[:, 0]
    kinds = LAYER.physical(units[:, : LAYER.size])["waveform"].long().flatten()
    counts = torch.bincount(kinds, minlength=len(WAVEFORMS))
    assert counts.min() > 100 - 5 * math.sqrt(600 * 5 / 36)


@given(st.integers(0, 2**32 - 1), st.sampled_from([8000, 8001, 9973, 16000]), st.integers(1, 3))
@settings(max_examples=40)
def test_corners_of_the_space_sound(seed, num_samples, num_layers):
    """Every parameter at 0, at 1 or in between."""
    chance = random.Random(seed)
    program = AudioPG(num_layers=num_layers, grid=Grid(num_samples, RATE, torch.device("cpu")))
    corners = [chance.choice((0.0, 1.0, chance.random())) for _ in range(4 * program.space.size)]
    units = torch.tensor(corners).view(4, program.space.size)
    assert_sounds(program.render(units, program.draw_material(Dice.of(seed, "corner", torch.arange(4)))))


@pytest.mark.parametrize("rate", [16000, 44100])
def test_high_rates_sound_too(rate):
    wavs = make_doppelgangers(num_samples=rate, sample_rate=rate, program="audiopg").batch(0, 8).wavs
    assert_sounds(wavs.flatten(0, 1))


@pytest.mark.slow
def test_a_great_many_draws_sound():
    sounds, size = stream(), 50
    for step in range(math.ceil(int(os.environ.get("VCRAST_SYNTH_DRAWS", NUM_DRAWS)) / (2 * size))):
        pairs = sounds.batch(step, size)
        assert_sounds(pairs.wavs.flatten(0, 1))
        levels = sounds.space.physical(pairs.units.flatten(0, 1))["level_db"]
        peaks = 20 * pairs.wavs.abs().flatten(0, 1).amax(dim=1, keepdim=True).log10()
        torch.testing.assert_close(peaks, levels, rtol=0, atol=1e-3)


def test_an_unknown_program_is_named():
    with pytest.raises(KeyError, match=r"source\.program 'audiopq' is not registered; did you mean audiopg\?"):
        stream(program="audiopq")


@pytest.mark.gpu
def test_a_gpu_makes_the_same_sounds_and_waits_for_nothing():
    assert_a_gpu_makes_the_same(num_samples=RATE, program="audiopg")


def test_all_waveforms_have_mean_square_1():
    values = {p.name: LAYER.physical(torch.rand(48, LAYER.size))[p.name] for p in LAYER.parameters}
    wave = tone(values, GRID)
    kind = values["waveform"].flatten()
    for number in range(len(WAVEFORMS)):
        power = wave[kind == number].square().mean(dim=1)
        torch.testing.assert_close(power, torch.ones_like(power), rtol=0, atol=0.05)
