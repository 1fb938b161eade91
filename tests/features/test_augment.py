import itertools
import math

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped import shipped

from vcrast.features.augment import build_augment, echoes, part_of, shift_pitch
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views

OFF = shipped("views/none")["augment"]
RATE = 16000
ALL = dict.fromkeys((f"{name}_probability" for name in ("polarity", "pitch", "high_pass", "band_stop", "noise")), 0.6)
ALL["reverb_probability"] = 0.6


def make(**options):
    return build_augment({**OFF, **options}, sample_rate=RATE)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spectrum_db(changed, wavs):
    """(B, bins) gain of each bin."""
    return 20 * (torch.fft.rfft(changed).abs() / torch.fft.rfft(wavs).abs()).log10()


def test_each_sine_passes_the_filters_as_scipys_analogue_ones_let_it():
    num_clips, order = 12, 3
    augment = make(high_pass_probability=0.7, band_stop_probability=0.7, filter_order=order, band_stop_width=[0.3, 2.5])
    draws = Draws(1, 0, num_clips)
    numbers = {key: each.double().tolist() for key, each in augment.strengths(draws, "a").items()}
    seconds = torch.arange(RATE, dtype=torch.float64) / RATE
    for hertz in (40, 333, 1000, 2500, 7000):
        sines = torch.sin(2 * math.pi * hertz * seconds).expand(num_clips, RATE)
        found = (augment.change_wavs(sines, draws, "a").var(dim=1, correction=0) / 0.5).sqrt()
        for clip in range(num_clips):
            expected = 1.0
            if cutoff := numbers["high_pass_hz"][clip]:
                parts = scipy.signal.butter(order, 2 * math.pi * cutoff, "highpass", analog=True)
                expected *= abs(scipy.signal.freqs(*parts, worN=[2 * math.pi * hertz])[1][0])
            if width := numbers["band_stop_width"][clip]:
                centre = numbers["band_stop_hz"][clip]
                low = centre * (math.sqrt(1 + width**2 / 4) - width / 2)
                edges = [2 * math.pi * low, 2 * math.pi * (low + width * centre)]
                zeros, poles, gain = scipy.signal.butter(order, edges, "bandstop", analog=True, output="zpk")
                expected *= abs(scipy.signal.freqs_zpk(zeros, poles, gain, worN=[2 * math.pi * hertz])[1][0])
            assert float(found[clip]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert 0 < sum(cutoff == 0 for cutoff in numbers["high_pass_hz"]) < num_clips


def test_3_db_are_lost_at_the_cutoff_and_the_level_of_the_rest_stays():
    wavs = noise(3, 8001)
    augment = make(high_pass_probability=1.0, high_pass_hz=[999.9999, 1000.0001])
    gain_db = spectrum_db(augment.change_wavs(wavs, Draws(0, 0, 3), "a"), wavs)
    hertz = torch.fft.rfftfreq(8001, 1 / RATE)
    torch.testing.assert_close(
        gain_db[:, (hertz - 1000).abs().argmin()], torch.tensor([-3.01] * 3).double(), atol=0.05, rtol=0
    )
    assert gain_db[:, hertz > 4000].abs().max() < 0.01
    octave = gain_db[:, (hertz - 250).abs().argmin()] - gain_db[:, (hertz - 125).abs().argmin()]
    torch.testing.assert_close(octave, torch.tensor([24.08] * 3).double(), atol=0.4, rtol=0)


def test_measured_snr_of_the_noise_is_the_drawn_one_and_the_noise_is_white():
    wavs, draws = 0.1 * noise(40, 16001) + 0.3, Draws(0, 3, 40)
    augment = make(noise_probability=0.7, noise_snr_db=[-3.0, 30.0])
    added = augment.change_wavs(wavs, draws, "a") - wavs
    snr_db = augment.strengths(draws, "a")["noise_snr_db"].double()
    measured = 10 * (wavs.var(dim=1, correction=0) / added.square().mean(dim=1)).log10()
    heard = snr_db.isfinite()
    torch.testing.assert_close(measured[heard], snr_db[heard], rtol=0, atol=1e-3)
    assert not added[~heard].any()
    assert 15 < heard.sum() < 40
    power = torch.fft.rfft(added[heard] / added[heard].std(dim=1, keepdim=True)).abs().square()
    bands = torch.stack([band.mean() for band in power.mean(dim=0)[1:8001].split(2000)]) / 16001
    assert (bands - 1).abs().max() < 0.15
    # Of one stretch, but from other places: no two clips hear the same.
    alike = torch.corrcoef(added[heard]).fill_diagonal_(0).abs()
    assert alike.max() < 5 / math.sqrt(16001) * 1.5


def test_parts_of_a_circle_by_hand():
    found = part_of(torch.arange(1.0, 6.0), torch.tensor([0, 3, 5, 9]), 4)
    assert found.tolist() == [[1, 2, 3, 4], [4, 5, 1, 2], [-1, -2, -3, -4], [-5, -1, -2, -3]]


def test_time_and_level_of_the_echoes_are_the_drawn_ones():
    num_clips, draws = 24, Draws(0, 6, 24)
    augment = make(reverb_probability=0.7, reverb_s=[0.1, 0.5], reverb_direct_db=[-6.0, 12.0])
    click = torch.zeros(num_clips, RATE, dtype=torch.float64)
    click[:, 100] = 1.0
    heard = augment.change_wavs(click, draws, "a").numpy()
    numbers = augment.strengths(draws, "a")
    direct_db = numbers["reverb_direct_db"].tolist()
    for clip in range(num_clips):
        assert heard[clip, 100] == pytest.approx(1, abs=1e-6)
        tail = heard[clip, 101:]
        if direct_db[clip] == math.inf:
            assert np.abs(tail).max() < 1e-9
            continue
        assert -10 * math.log10(np.sum(tail**2)) == pytest.approx(direct_db[clip], abs=1e-3)
        # Schroeder 1965: the energy that is still to come, in dB, falls along a line of 60 dB per reverberation time.
        to_come = np.cumsum(tail[::-1] ** 2)[::-1]
        level = 10 * np.log10(to_come[to_come > 0] / to_come[0])
        fits = (level < -5) & (level > -25)
        slope = np.polyfit(np.flatnonzero(fits) / RATE, level[fits], 1)[0]
        assert -60 / slope == pytest.approx(float(numbers["reverb_s"][clip]), rel=0.12)
    assert sum(direct == math.inf for direct in direct_db) not in (0, num_clips)


def test_a_room_convolves_circularly_with_the_response_of_a_slow_loop():
    wavs, draws = noise(2, 301), Draws(0, 1, 2)
    augment = make(reverb_probability=1.0, reverb_s=[0.004, 0.01], reverb_direct_db=[-3.0, 3.0])
    numbers = augment.strengths(draws, "b")
    shared, places = (
        draws.shared_normal("b/augment/shared_reverb", 301).tolist(),
        draws.integers("b/augment/place_reverb", 602),
    )
    found = augment.change_wavs(wavs, draws, "b")
    for clip in range(2):
        place, seconds = int(places[clip]), float(numbers["reverb_s"][clip])
        tail = [shared[(place + i) % 301] * 10 ** (-3 * (i + 1) / RATE / seconds) for i in range(160)]
        level = 10 ** (-float(numbers["reverb_direct_db"][clip]) / 20) / math.sqrt(sum(value**2 for value in tail))
        level = -level if place >= 301 else level
        for n in range(301):
            expected = float(wavs[clip, n]) + level * sum(t * float(wavs[clip, n - 1 - i]) for i, t in enumerate(tail))
            assert float(found[clip, n]) == pytest.approx(expected, abs=1e-5)


def test_all_changes_at_once_are_one_after_the_other():
    wavs, draws = noise(16, 5001), Draws(0, 2, 16)
    wanted = make(**ALL).change_wavs(wavs, draws, "a")
    heard = wavs
    for name in ("reverb", "high_pass", "band_stop", "noise", "polarity"):
        heard = make(**{f"{name}_probability": 0.6}).change_wavs(heard, draws, "a")
    torch.testing.assert_close(wanted, heard, rtol=1e-6, atol=1e-6)


def test_polarity_and_probabilities_are_those_asked_for():
    wavs, shares = noise(4000, 8), {}
    augment = make(**{**ALL, "polarity_probability": 0.3, "noise_probability": 0.9})
    strengths = augment.strengths(Draws(0, 0, 4000), "a")
    shares["polarity"] = (strengths["polarity"] < 0).double().mean()
    shares["noise"] = strengths["noise_snr_db"].isfinite().double().mean()
    shares["pitch"] = (strengths["pitch_semitones"] != 0).double().mean()
    for name, share in shares.items():
        wanted = augment.probability[name]
        assert abs(share - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / 4000)
    turned = make(polarity_probability=0.3).change_wavs(wavs, Draws(0, 0, 4000), "a")
    assert torch.equal(turned, wavs * strengths["polarity"].unsqueeze(1))
    octaves = strengths["high_pass_hz"][strengths["high_pass_hz"] > 0].log2()
    assert abs(octaves.mean() - math.log2(math.sqrt(20 * 2400))) < 0.2


@pytest.mark.parametrize("semitones", [-12.0, -3.5, 0.0, 2.0, 7.0])
def test_the_pitch_of_a_sine_after_the_shift(semitones):
    hertz, ratio = torch.tensor([700.0, 1500.0]), 2 ** (semitones / 12)
    sines = 0.3 * torch.sin(2 * math.pi * hertz.unsqueeze(1) * torch.arange(RATE) / RATE)
    fbank = Fbank(**shipped("features/fbank", sample_rate=RATE))
    power = fbank.power(sines)
    shifted = shift_pitch(power, torch.full((2,), ratio))
    bins = torch.arange(257) * RATE / 512
    centroid = (shifted * bins).sum(dim=2) / shifted.sum(dim=2)
    torch.testing.assert_close(centroid, (hertz * ratio).unsqueeze(1).expand_as(centroid), rtol=0.01, atol=0)
    torch.testing.assert_close(shifted.sum(dim=2), power.sum(dim=2), rtol=0.12, atol=0)  # straight lines between bins
    if semitones == 0:
        torch.testing.assert_close(shifted, power, rtol=1e-5, atol=0)


@settings(deadline=None, max_examples=25)
@given(num_bins=st.integers(2, 40), ratios=st.lists(st.floats(0.25, 4.0), min_size=1, max_size=4))
def test_shifts_are_those_of_numpys_interpolation(num_bins, ratios):
    power = noise(len(ratios), 3, num_bins).square()
    found = shift_pitch(power, torch.tensor(ratios, dtype=torch.float64))
    for clip, ratio in enumerate(ratios):
        for frame in range(3):
            magnitude = power[clip, frame].sqrt().numpy()
            read = np.interp(np.arange(num_bins) / ratio, np.arange(num_bins), magnitude, right=0.0)
            np.testing.assert_allclose(found[clip, frame], read**2 / ratio, atol=1e-12)


@settings(deadline=None, max_examples=15)
@given(num_samples=st.integers(2, 700), num_clips=st.integers(1, 5), step=st.integers(0, 99))
def test_any_length_gives_finite_sounds_and_silence_stays_silent(num_samples, num_clips, step):
    wavs = 0.1 * noise(num_clips, num_samples).float()
    wavs[0] = 0
    heard = make(**dict.fromkeys(ALL, 1.0)).change_wavs(wavs, Draws(0, step, num_clips), "a")
    assert heard.shape == wavs.shape
    assert heard.dtype == torch.float32
    assert heard.isfinite().all()
    assert not heard[0].any()


@pytest.mark.parametrize("cuts", [(0, 1, 2, 6, 7), (0, 4, 7)])
def test_a_clip_does_not_depend_on_the_others_nor_on_how_the_batch_is_cut(cuts, monkeypatch):
    wavs, draws = noise(7, 4001).float(), Draws(0, 1, 7)
    views = Views(
        Fbank(**shipped("features/fbank", sample_rate=RATE, mean=-5.0, std=4.0)),
        **shipped("views/sounds", augment={**OFF, **ALL}),
    )
    whole, heard = views.make(wavs, draws, "a"), views.change_wavs(wavs, draws, "a")
    pieces = [(a, b, draws.slice(a, b)) for a, b in itertools.pairwise(cuts)]
    parts = torch.cat([views.change_wavs(wavs[a:b], part, "a") for a, b, part in pieces])
    torch.testing.assert_close(parts, heard, rtol=1e-5, atol=1e-6)
    parts = torch.cat([views.make(wavs[a:b], part, "a") for a, b, part in pieces])
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-3)
    others = noise(7, 4001, seed=1).float()
    others[3] = wavs[3]
    torch.testing.assert_close(views.make(others, draws, "a")[3], whole[3], rtol=1e-3, atol=1e-3)
    monkeypatch.setattr("vcrast.features.augment.BLOCK_NUMBERS_CPU", 2 * 4001)
    torch.testing.assert_close(views.change_wavs(wavs, draws, "a"), heard, rtol=1e-5, atol=1e-6)
    assert (views.make(wavs, draws, "b") - whole).abs().flatten(1).mean(dim=1).min() > 0.05


def test_off_is_the_same_tensor_and_draws_nothing():
    wavs, power, draws = noise(3, 100), noise(3, 5, 9).square(), Draws(0, 0, 3)
    assert make().change_wavs(wavs, draws, "a") is wavs
    assert make().change_power(power, draws, "a") is power
    assert not draws._drawn


def test_stretch_and_gain_come_with_their_probability():
    views = Views(
        Fbank(**shipped("features/fbank", sample_rate=RATE)),
        **shipped(
            "views/none", time_stretch=[0.7, 1.3], time_stretch_probability=0.7, gain_db=6.0, gain_probability=0.3
        ),
    )
    draws = Draws(0, 0, 4000)
    for numbers, neutral, wanted in ((views.rates(draws, "a"), 1, 0.7), (views.gains_db(draws, "a"), 0, 0.3)):
        share = (numbers != neutral).double().mean()
        assert abs(share - wanted) < 5 * math.sqrt(0.21 / 4000)


def test_autocast_changes_nothing():
    wavs, augment = noise(4, 3000).float(), make(**ALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = augment.change_wavs(wavs, Draws(0, 0, 4), "a")
    assert torch.equal(inside, augment.change_wavs(wavs, Draws(0, 0, 4), "a"))


def test_echoes_of_a_silent_stretch_are_silent():
    assert not echoes(torch.zeros(1, 50), torch.tensor([0.3]), torch.tensor([0.0]), RATE).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"polarity_probability": 1.2}, r"views\.augment\.polarity_probability=1\.2: must lie in \[0, 1\]"),
        ({"pitch_semitones": [2.0, -2.0]}, r"views\.augment\.pitch_semitones=\[2\.0, -2\.0\]: give \[lowest"),
        ({"pitch_semitones": [-30.0, 0.0]}, "within two octaves"),
        ({"pitch_semitones": [0.0, 0.0], "pitch_probability": 0.5}, "pitch_probability=0 switches it off"),
        ({"high_pass_hz": [0.0, 100.0]}, r"high_pass_hz=\[0\.0, 100\.0\]: must be above 0"),
        ({"high_pass_hz": [50.0, 8000.0], "high_pass_probability": 0.1}, r"below 8000 Hz, half of data"),
        ({"band_stop_hz": [50.0, 9000.0], "band_stop_probability": 1.0}, r"band_stop_hz=.*below 8000 Hz"),
        ({"band_stop_width": [0.0, 1.0]}, "band_stop_width"),
        ({"filter_order": 0}, "filter_order=0"),
        ({"reverb_s": [-1.0, 1.0]}, "reverb_s"),
        ({"noise_snr_db": [1.0]}, "noise_snr_db"),
        ({"pitch": 1.0}, r"views\.augment\.pitch: views\.augment has no such option"),
        ({"filter_order": 2.5}, r"filter_order=2\.5: views\.augment expects int"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_range_that_is_not_used_may_lie_above_half_the_rate():
    assert make(high_pass_hz=[20.0, 12000.0]).ranges["high_pass_hz"] == (20.0, 12000.0)
    with pytest.raises(ValueError, match="below 8000 Hz"):
        make(high_pass_hz=[20.0, 12000.0], high_pass_probability=0.5)


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu_and_it_hears_what_the_cpu_hears():
    wavs, augment = noise(16, 16001).float(), make(**ALL)
    power = Fbank(**shipped("features/fbank", sample_rate=RATE)).power(wavs)
    on_device, power_on_device = wavs.cuda(), power.cuda()
    for step in range(2):  # plans of the first call may wait
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            draws = Draws(0, 1, 16, device="cuda")
            heard, shifted = (
                augment.change_wavs(on_device, draws, "a"),
                augment.change_power(power_on_device, draws, "a"),
            )
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(heard.cpu(), augment.change_wavs(wavs, Draws(0, 1, 16), "a"), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(shifted.cpu(), augment.change_power(power, Draws(0, 1, 16), "a"), rtol=1e-3, atol=1e-3)
