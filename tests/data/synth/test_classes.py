"""Check by measurement that clips of a class are what its region says."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from measure import RATE, loudness, repeats_hz, spectrum, strongest_hz
from shipped import shipped

from vcrast.data.synth.classes import BURSTS, ONSETS, REGIONS, SPACE, SWELLS, TABLE, band, falling, point_hz
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.engine import CLASSES, render_class
from vcrast.features.fbank import Fbank

# Parameters without effect unless another one, the value, is above 0 throughout.
NEEDS = {
    "formant_1_hz": "formant_share", "formant_2_hz": "formant_share", "formant_3_hz": "formant_share",
    "formant_width_hz": "formant_share", "modes_hz": "body_share", "mode_decay_s": "body_share",
    "reverb_s": "reverb_share", "equaliser_db": "noise_share", "grain_hz": "sparsity", "sparsity": "noise_share",
}  # fmt: skip
OF_TONES = {"f0_hz", "glide_octaves", "vibrato_hz", "vibrato_semitones", "slope", "even_db", "partials_db"}
OF_KINDS = {"burst": BURSTS, "onset": ONSETS, "count": ONSETS, "slow": SWELLS}


def clips(name, num_clips=10, seconds=4.0):
    """Waveforms with hardly any background, and the values of their parameters."""
    wavs, units = render_class(
        name, torch.arange(num_clips), seed=3, num_samples=int(seconds * RATE), sample_rate=RATE, snr_db=(70.0, 70.0)
    )
    return wavs.numpy(), {key: value.numpy() for key, value in SPACE.physical(units).items()}


def row(name, parameter):
    """Lowest and highest value in the table."""
    span = REGIONS[name].spans[parameter]
    return span if isinstance(span, tuple) else (span, span)


def test_there_are_twenty():
    assert len(CLASSES) == len(TABLE) == 20
    assert list(CLASSES) == sorted(TABLE)


@pytest.mark.parametrize(
    ("name", "tolerance"),  # the pitch may swing, glide, or have bursts as side bands
    [
        ("beeps", 0.01), ("telephone_ring", 0.03), ("crickets", 0.02), ("dripping", 0.03), ("siren", 0.2),
        ("bird_chirps", 0.2),
    ],
)  # fmt: skip
def test_the_strongest_component_is_the_pitch(name, tolerance):
    wavs, values = clips(name)
    found = np.array([strongest_hz(wav) for wav in wavs])
    low, high = row(name, "f0_hz")
    assert (1 - tolerance) * low < found.min() < found.max() < (1 + tolerance) * high
    np.testing.assert_allclose(found, values["f0_hz"][:, 0], rtol=tolerance)


@pytest.mark.parametrize("name", ["engine_hum", "vowel_voice"])
def test_the_waveform_repeats_at_the_pitch(name):
    wavs, values = clips(name)
    # The middle of the clip, where a glide passes the pitch; a vibrato shifts it by up to 0.6 semitones.
    middle = wavs[:, int(1.9 * RATE) : int(2.1 * RATE)]
    for wav, f0 in zip(middle, values["f0_hz"][:, 0], strict=True):
        assert repeats_hz(wav, RATE, 0.8 * f0, 1.4 * f0) == pytest.approx(f0, rel=0.045)


def track_hz(wav, low, high):
    """(frames,) strongest frequency between two in windows of 64 ms, one every 16 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(wav, 1024)[::256] * np.hanning(1024)
    magnitude = np.abs(np.fft.rfft(frames, 8192))
    first, last = int(low * 8192 / RATE), int(high * 8192 / RATE)
    return (first + magnitude[:, first:last].argmax(axis=1)) * RATE / 8192


def test_a_siren_swings():
    wavs, values = clips("siren")
    for wav, f0, rate in zip(wavs, values["f0_hz"][:, 0], values["vibrato_hz"][:, 0], strict=True):
        octaves = np.log2(track_hz(wav, 0.7 * f0, 1.4 * f0) / f0)
        assert 0.13 < octaves.max() < 0.29  # 2 to 3 semitones, and what drifts or is lost in a window
        assert repeats_hz(octaves, RATE / 256, 0.7 * rate, 1.5 * rate) == pytest.approx(rate, rel=0.03)


def test_a_slide_whistle_falls():
    wavs, values = clips("slide_whistle")
    for wav, f0, glide in zip(wavs, values["f0_hz"][:, 0], values["glide_octaves"][:, 0], strict=True):
        track = np.log2(track_hz(wav, 0.5 * f0, 1.9 * f0) / f0)
        times = np.linspace(-0.5, 0.5, len(track))
        assert np.polyfit(times, track, 1)[0] == pytest.approx(glide, abs=0.08)
        assert -1.6 < np.polyfit(times, track, 1)[0] < -0.5


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("beeps", "burst_hz"), ("telephone_ring", "burst_hz"), ("crickets", "burst_hz"), ("dog_bark", "burst_hz"),
        ("helicopter", "burst_hz"), ("clock_ticks", "burst_hz"), ("knocking", "burst_hz"), ("sea_waves", "slow_hz"),
        ("vowel_voice", "slow_hz"),
    ],
)  # fmt: skip
def test_the_loudness_repeats_at_its_rate(name, rate):
    wavs, values = clips(name, seconds=8.0)
    low, high = row(name, rate)
    for wav, wanted in zip(wavs, values[rate][:, 0], strict=True):
        # Windows of a twentieth of the period, long enough for the swells to hold many cycles of a low voice.
        curve, frames_per_s = loudness(wav, 0.05 / high)
        found = repeats_hz(curve, frames_per_s, 0.65 * wanted, 1.6 * wanted)
        assert found == pytest.approx(wanted, rel=0.05)
        assert 0.95 * low < found < 1.05 * high


@pytest.mark.parametrize("name", ["bell", "bird_chirps", "dripping", "glass_clinks", "hand_claps"])
def test_irregular_sounds_come_as_often_as_they_say(name):
    wavs, values = clips(name, seconds=8.0)
    for wav, count in zip(wavs, values["count"][:, 0], strict=True):
        curve, _ = loudness(wav, 0.01)
        level = np.concatenate([np.zeros(5), curve])
        # An onset: twice as loud as anything of the 50 ms before. Some come too soon after a louder one to be found.
        before = np.lib.stride_tricks.sliding_window_view(level, 5)[:-1].max(axis=1)
        jumps = (curve > 2 * before) & (curve > 0.02 * curve.max())
        starts = jumps & ~np.concatenate([[False], jumps[:-1]])
        assert 0.6 * count <= starts.sum() <= count


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("rain", 800, 8000), ("crackling_fire", 800, 8000), ("helicopter", 0, 900), ("hand_claps", 500, 3500),
        ("knocking", 70, 900), ("clock_ticks", 1300, 5500), ("glass_clinks", 2400, 6400), ("bell", 270, 2400),
        ("crickets", 3100, 7300), ("wind", 40, 5500), ("engine_hum", 30, 4000), ("dog_bark", 200, 4500),
    ],
)  # fmt: skip
def test_nine_tenths_of_the_power_lie_in_the_band(name, low, high):
    for wav in clips(name)[0]:
        hertz, magnitude = spectrum(wav)
        power = magnitude**2
        assert power[(hertz >= low) & (hertz <= high)].sum() > 0.9 * power.sum()


def test_rain_falls_densely_and_fire_crackles():
    crest = {}
    for name in ("rain", "crackling_fire"):
        curves = [loudness(wav, 0.002)[0] for wav in clips(name)[0]]
        crest[name] = np.array([(curve**4).mean() / (curve**2).mean() ** 2 for curve in curves])
    assert crest["rain"].max() < 6 < crest["crackling_fire"].min()


@pytest.mark.parametrize("name", CLASSES)
def test_every_sound_lies_in_its_region(name):
    _, units = render_class(name, torch.arange(30), seed=1, num_samples=RATE, sample_rate=RATE)
    assert units.shape == (30, SPACE.size)
    more = REGIONS[name].draw(Dice.of(1, name, torch.arange(2000)))
    assert torch.equal(units, more[:30])
    units = more
    low, high = torch.tensor(REGIONS[name].places).unbind(dim=1)
    assert (units >= low - 1e-6).all()
    assert (units <= high + 1e-6).all()
    values = SPACE.physical(units)
    for parameter, spans in REGIONS[name].spans.items():
        each = spans if isinstance(spans, list) else [spans] * values[parameter].shape[1]
        for number, span in enumerate(each):
            lowest, highest = span if isinstance(span, tuple) else (span, span)
            slack = 1e-5 * max(1, abs(lowest), abs(highest))
            assert lowest - slack <= values[parameter][:, number].min()
            assert values[parameter][:, number].max() <= highest + slack


def is_heard(name, parameter):
    """Whether a parameter matters to every sound of a class."""
    kinds = [kind for beginning, kind in OF_KINDS.items() if parameter.startswith(beginning)]
    if kinds:
        return row(name, "kind") == (kinds[0], kinds[0])
    if parameter in OF_TONES:
        return row(name, "noise_share")[1] < 1
    needed = NEEDS.get(parameter)
    return needed is None or (row(name, needed)[0] > 0 and is_heard(name, needed))


def heard(one, other):
    """Parameters that tell any sound of one class from any sound of the other, and matter to both."""
    return {name for name in REGIONS[one].apart(REGIONS[other]) if is_heard(one, name) and is_heard(other, name)}


def test_a_label_is_a_fact():
    pairs = list(itertools.combinations(CLASSES, 2))
    assert len(pairs) == 190
    assert [pair for pair in pairs if not heard(*pair)] == []


def test_some_classes_differ_in_time_only_and_some_in_spectrum_only():
    assert heard("beeps", "telephone_ring") == {"burst_hz"}
    assert heard("rain", "crackling_fire") == {"grain_hz", "sparsity"}
    assert heard("siren", "slide_whistle") == {"glide_octaves", "vibrato_semitones"}
    assert heard("clock_ticks", "knocking") == {"equaliser_db", "modes_hz"}


def test_the_documented_table_is_the_code():
    page = (Path(__file__).parents[3] / "docs" / "synthetic.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|$", page, re.MULTILINE))
    assert sorted(rows) == list(CLASSES)
    for name, text in rows.items():
        told = re.findall(r"`(\w+)` (-?[\d.]+) to (-?[\d.]+)", text)
        assert len(told) == text.count("`") / 2 >= 2
        for parameter, low, high in told:
            assert row(name, parameter) == (float(low), float(high))


def test_equalisers_by_hand():
    # mel = 1127 ln(1 + f / 700) of 50 and 8000 Hz are 77.8 and 2840.0; the fifth of fifteen steps ends at 998.5.
    assert point_hz(0) == pytest.approx(50)
    assert point_hz(5) == pytest.approx(700 * (np.exp(998.5 / 1127) - 1), rel=1e-3)
    assert point_hz(15) == pytest.approx(8000)
    # 1297 Hz and 4629 Hz lie inside; 100 Hz would be 3.3 octaves below 1 kHz, more than 40 dB.
    spans = band(1000, 5000)
    assert spans[6] == (-10, 0)
    assert spans[12] == (-10, 0)
    assert spans[0] == (-40, -40)
    assert spans[15][1] == pytest.approx(-20 * np.log2(8 / 5))
    # 7.32 octaves from 50 to 8000 Hz.
    assert falling(2, 4)[15] == pytest.approx((-29.288, -14.644), abs=1e-3)
    assert falling(2, 4)[0] == (0, 0)


def test_classes_can_be_told_apart_but_not_by_their_mean_spectrum_alone():
    fbank = Fbank(**shipped("features/fbank", sample_rate=RATE))
    wavs = [render_class(n, torch.arange(16), seed=0, num_samples=2 * RATE, sample_rate=RATE).wavs for n in CLASSES]
    shapes = torch.stack([fbank(each).mean(dim=1) for each in wavs])
    shapes = shapes - shapes.mean(dim=2, keepdim=True)  # without the level
    centroids = shapes[:, :8].mean(dim=1)
    nearest = torch.cdist(shapes[:, 8:].flatten(0, 1), centroids).argmin(dim=1)
    accuracy = (nearest == torch.arange(len(CLASSES)).repeat_interleave(8)).float().mean()
    assert 4 / len(CLASSES) < accuracy < 0.9
