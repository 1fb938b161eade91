import math

import pytest
import torch
from shipped import shipped
from torch import Tensor, nn

from vcrast.features.augment import mix_at_snr
from vcrast.features.draws import PARTNER_BLOCK, Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views, crop, roll, stretch

OFF = shipped("views/none")
EVERYTHING = {
    "time_stretch": [0.8, 1.2],
    "roll": True,
    "gain_db": 6.0,
    "background_probability": 0.5,
    "freq_mask_bins": 48,
    "time_mask_frames": 192,
    "num_masks": 1,
    "noise_std": 0.1,
    "noise_uniform": 0.1,
    "shift_frames": 3,
    "patch_drop": 0.5,
}
# Of unequal lengths; two are shorter than the clips of the tests, and no sample is there twice.
RECORDINGS = tuple(torch.rand(n, generator=torch.Generator().manual_seed(n)) for n in (5000, 61, 20_000, 7))
RECORDED = {"background_probability": 0.7, "background_folder": "noise", "recordings": RECORDINGS}


class Waveform(nn.Module):
    """Stands in for the filterbank, so that a view shows the waveform it was made of: (B, S) -> (B, S, 1)."""

    sample_rate = 16000

    def power(self, wavs: Tensor) -> Tensor:
        return wavs.unsqueeze(2)

    def log_mel(self, power: Tensor) -> Tensor:
        return power

    def normalize(self, fbank: Tensor) -> Tensor:
        return fbank

    def channels(self, fbank: Tensor) -> Tensor:
        return fbank


def make_views(fbank: nn.Module | None = None, **options) -> Views:
    return Views(
        fbank or Fbank(**shipped("features/fbank", sample_rate=16000, mean=-5.0, std=4.0)), **{**OFF, **options}
    )


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_all_off_is_the_filterbank():
    wavs, views = noise(3, 4000), make_views()
    torch.testing.assert_close(views.make(wavs, Draws(0, 0, 3), "a"), views.fbank(wavs), rtol=0, atol=0)
    assert views.keep(Draws(0, 0, 3), "a", (5, 2)) is None


def test_two_is_both_views_and_they_differ():
    wavs, views = noise(4, 8000), make_views(**EVERYTHING)
    two = views.two(wavs, Draws(0, 0, 4))
    assert two.shape == (2, 4, 48, 128)
    for position, name in enumerate("ab"):
        torch.testing.assert_close(two[position], views.make(wavs, Draws(0, 0, 4), name), rtol=0, atol=0)
    assert (two[0] - two[1]).abs().mean() > 0.05
    assert not torch.equal(views.keep(Draws(0, 0, 4), "a", (10, 4)), views.keep(Draws(0, 0, 4), "b", (10, 4)))


def test_same_step_same_view_and_another_step_another_view():
    wavs, views = noise(4, 8000), make_views(**EVERYTHING)
    first = views.two(wavs, Draws(7, 3, 4))
    torch.testing.assert_close(views.two(wavs, Draws(7, 3, 4)), first, rtol=0, atol=0)
    for other in (Draws(7, 4, 4), Draws(8, 3, 4)):
        assert (views.two(wavs, other) - first).flatten(2).abs().mean(dim=2).min() > 0.01


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 8])
def test_micro_batches_make_the_views_of_the_whole(micro_batch):
    num_clips = 2 * PARTNER_BLOCK
    # A partner must lie in the same micro-batch; whole blocks guarantee it.
    whole_blocks = micro_batch % PARTNER_BLOCK == 0
    views = make_views(**{**EVERYTHING, **({"background_probability": 0.7} if whole_blocks else RECORDED)})
    wavs, draws = noise(num_clips, 6000), Draws(0, 5, num_clips)
    whole = views.two(wavs, draws)
    starts = range(0, num_clips, micro_batch)
    stops = [min(start + micro_batch, num_clips) for start in starts]
    parts = [views.two(wavs[a:b], draws.slice(a, b)) for a, b in zip(starts, stops, strict=True)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-5)
    kept = [views.keep(draws.slice(a, b), "a", (10, 3)) for a, b in zip(starts, stops, strict=True)]
    assert torch.equal(torch.cat(kept), views.keep(draws, "a", (10, 3)))


def test_roll_by_hand():
    wavs = torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]])
    expected = torch.tensor([[0.0, 1.0, 2.0, 3.0], [7.0, 4.0, 5.0, 6.0], [9.0, 10.0, 11.0, 8.0]])
    torch.testing.assert_close(roll(wavs, torch.tensor([0, 1, 3])), expected)


def test_roll_of_a_view_is_the_drawn_shift():
    wavs = noise(5, 97)
    rolled = make_views(Waveform(), roll=True).make(wavs, Draws(0, 0, 5), "a").squeeze(2)
    shifts = Draws(0, 0, 5).integers("a/roll", 97)
    assert shifts.unique().numel() > 1
    torch.testing.assert_close(rolled, torch.stack([w.roll(int(s)) for w, s in zip(wavs, shifts, strict=True)]))


def test_gain_in_db_is_uniform_and_exact():
    wavs = noise(4000, 50)
    louder = make_views(Waveform(), gain_db=6.0).make(wavs, Draws(0, 0, 4000), "a").squeeze(2)
    gain_db = 10 * (louder.square().sum(dim=1) / wavs.square().sum(dim=1)).log10()
    torch.testing.assert_close(gain_db, Draws(0, 0, 4000).uniform("a/gain", low=-6.0, high=6.0), rtol=0, atol=1e-4)
    assert -6 <= gain_db.min() < -5.9
    assert 5.9 < gain_db.max() <= 6
    assert abs(gain_db.mean()) < 5 * 12 / math.sqrt(12 * 4000)


def test_gain_is_a_constant_in_the_filterbank():
    wavs, fbank = noise(2, 4000), Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=40))
    view = make_views(fbank, gain_db=6.0).make(wavs, Draws(0, 0, 2), "a")
    gain_db = Draws(0, 0, 2).uniform("a/gain", low=-6.0, high=6.0)
    expected = (gain_db / 10 * math.log(10)).reshape(2, 1, 1).expand_as(view)
    torch.testing.assert_close(view - fbank(wavs), expected, rtol=1e-3, atol=1e-3)


def test_measured_snr_is_the_drawn_one():
    wavs, background = noise(6, 500), noise(6, 500, seed=1) * torch.logspace(-3, 1, 6).unsqueeze(1) + 0.3
    snr_db = torch.tensor([-5.0, 0.0, 3.0, 10.0, 20.0, torch.inf])
    added = mix_at_snr(wavs, background, snr_db) - wavs
    measured = 10 * (wavs.var(dim=1, correction=0) / added.square().mean(dim=1)).log10()
    torch.testing.assert_close(measured, snr_db, rtol=0, atol=1e-2)
    assert not added[5].any()


def test_silent_clips_and_silent_backgrounds_stay_finite():
    sound, silence = noise(1, 100), torch.zeros(1, 100)
    torch.testing.assert_close(mix_at_snr(sound, silence, torch.tensor([5.0])), sound)
    torch.testing.assert_close(mix_at_snr(silence, sound, torch.tensor([5.0])), silence)
    for loud in (100 * sound, torch.ones(1, 100)):
        assert torch.isfinite(mix_at_snr(loud, silence, torch.tensor([torch.inf]))).all()


def test_background_is_another_clip_with_the_wanted_probability():
    num_clips = 64
    wavs = torch.eye(num_clips) - 1 / num_clips  # mean-free; clip i is recognised by its sample i
    views = make_views(Waveform(), background_probability=0.4, background_snr_db=[5, 5])
    mixed = 0
    for step in range(50):
        draws = Draws(0, step, num_clips)
        added = views.make(wavs, draws, "a").squeeze(2) - wavs
        is_mixed = added.abs().amax(dim=1) > 1e-3
        mixed += int(is_mixed.sum())
        assert torch.equal(added.argmax(dim=1)[is_mixed], draws.permutation("a/background_partner")[is_mixed])
    share = mixed / (50 * num_clips)
    assert abs(share - 0.4) < 5 * math.sqrt(0.24 / (50 * num_clips))


def test_recordings_underneath_are_those_of_a_slow_loop():
    wavs, draws = noise(40, 300), Draws(3, 1, 40)
    views = make_views(Waveform(), background_snr_db=[-3.0, 12.0], **RECORDED)
    made = views.make(wavs, draws, "b").squeeze(2)
    numbers = draws.integers("b/background_recording", len(RECORDINGS)).tolist()
    starts = draws.integers("b/background_start", 2**62).tolist()
    heard = set()
    for clip in range(40):
        if draws.uniform("b/background")[clip] >= 0.7:
            assert torch.equal(made[clip], wavs[clip])
            continue
        recording = RECORDINGS[numbers[clip]].tolist()
        under = torch.tensor([recording[(starts[clip] + i) % len(recording)] for i in range(300)], dtype=torch.float64)
        under -= under.mean()
        snr = 10 ** (draws.uniform("b/background_snr", low=-3.0, high=12.0)[clip].item() / 10)
        level = (wavs[clip].double().var(correction=0) / under.square().mean() / snr).sqrt()
        torch.testing.assert_close(made[clip], (wavs[clip] + level * under).float(), rtol=1e-4, atol=1e-5)
        heard.add(numbers[clip])
    assert heard == {0, 1, 2, 3}


def test_every_recording_and_every_place_in_it_is_heard_as_often():
    recordings = (torch.arange(10.0), 100 + torch.arange(5.0))
    views = make_views(background_probability=1.0, background_folder="x", recordings=recordings)
    first = views._background(torch.zeros(30_000, 3), Draws(0, 0, 30_000), "a")[:, 0].long()
    counts = torch.cat([first.bincount(minlength=105)[:10], 2 * first.bincount(minlength=105)[100:]])
    expected = torch.tensor([1500] * 10 + [6000] * 5)
    assert ((counts - expected).abs() < 5 * torch.sqrt(2.0 * expected)).all()


def test_recordings_do_not_come_into_checkpoints():
    assert not make_views(**RECORDED).state_dict().keys() & {"recorded", "first", "length"}


def test_noise_of_the_ast_is_of_random_height_and_moved_in_time():
    wavs, draws = noise(50, 8000), Draws(0, 2, 50)
    views = make_views(noise_uniform=0.1, shift_frames=10)
    made, plain = views.make(wavs, draws, "a"), views.fbank(wavs)
    heights = draws.uniform("a/noise_height", 1, 1, high=0.1)
    added = heights * draws.uniform("a/noise_uniform", *plain.shape[1:])
    shifts = (draws.integers("a/shift", 20) - 10).tolist()
    for clip, shift in enumerate(shifts):
        expected = torch.roll(plain[clip] + added[clip], shift, dims=0)
        torch.testing.assert_close(made[clip], expected, rtol=0, atol=0)
    assert (min(shifts), max(shifts)) == (-10, 9)
    assert 0 <= heights.min() < 0.01
    assert 0.09 < heights.max() < 0.1


def test_crops_by_a_loop():
    fbank, place = noise(5, 10, 3), torch.tensor([0.0, 0.3, 0.5, 0.99, 1.0 - 2**-24])
    found = crop(fbank, place, 4)
    for clip, first in enumerate([0, 2, 3, 6, 6]):  # seven starts
        assert torch.equal(found[clip], fbank[clip, first : first + 4])
    assert torch.equal(crop(fbank, place, 10), fbank)
    with pytest.raises(ValueError, match=r"views\.crop=1\.2: must lie above 0"):
        make_views(crop=1.2)


def test_crops_of_a_view_begin_anywhere():
    ramp = torch.arange(200.0).expand(300, 200) / 200
    views = make_views(Waveform(), crop=0.75)
    first = (views.make(ramp.square(), Draws(0, 0, 300), "a")[:, 0, 0].sqrt() * 200).round()
    assert (first.min(), first.max()) == (0, 50)


def test_stretch_at_rate_one_is_the_identity():
    power = noise(3, 37, 5).square()
    torch.testing.assert_close(stretch(power, torch.ones(3)), power, rtol=1e-6, atol=0)


def test_stretch_of_a_ramp_by_hand():
    # Magnitudes 0..9; at half rate 0, .5, 1 ...; at 1.5 the clip restarts after 9, between 9 and 0 at 9.5 it is 4.5.
    power = torch.arange(10.0).square().reshape(1, 10, 1).expand(3, 10, 1)
    magnitude = stretch(power, torch.tensor([0.5, 1.5, 1.9])).sqrt().squeeze(2)
    torch.testing.assert_close(magnitude[0], torch.arange(10) / 2)
    torch.testing.assert_close(magnitude[1], torch.tensor([0, 1.5, 3, 4.5, 6, 7.5, 9, 0.5, 2, 3.5]))
    torch.testing.assert_close(magnitude[2, :6], torch.tensor([0, 1.9, 3.8, 5.7, 7.6, 4.5]))


def test_stretch_keeps_pitch_and_scales_time():
    time = torch.arange(16000) / 16000
    beats = torch.sin(2 * math.pi * 1000 * time) * (0.5 + 0.5 * torch.cos(2 * math.pi * 4 * time))
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000))
    for rate in (0.8, 1.25):
        power = stretch(fbank.power(beats.unsqueeze(0)), torch.tensor([rate]))[0]
        assert power.mean(dim=0).argmax() == 32  # 1000 Hz of 512 bins at 16 kHz
        envelope = power[:70, 32].sqrt()
        spectrum = torch.fft.rfft((envelope - envelope.mean()) * torch.hann_window(70), n=4096).abs()
        assert float(spectrum.argmax()) * 100 / 4096 == pytest.approx(4 * rate, rel=0.1)


def test_stretch_rates_of_a_view_differ_and_stay_in_range():
    wavs = torch.arange(200.0).expand(300, 200) / 200
    view = make_views(Waveform(), time_stretch=[0.8, 1.2]).make(wavs.square(), Draws(0, 0, 300), "a")
    rates = view[:, 1, 0].sqrt() * 200  # the second frame of a ramp of magnitudes is the rate
    assert 0.8 <= rates.min() < 0.82
    assert 1.18 < rates.max() <= 1.2


def test_noise_has_the_wanted_deviation():
    wavs, views = noise(4, 16000), make_views(noise_std=0.3)
    added = views.make(wavs, Draws(0, 0, 4), "a") - views.fbank(wavs)
    assert added.std().item() == pytest.approx(0.3, rel=0.02)
    assert added.mean().item() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("patch_drop", "num_tokens", "kept"),
    [
        (0.5, 40, 20),
        (0.5, 7, 3),
        (0.75, 600, 150),
        (0.01, 10, 10),
        (0.999, 10, 1),
        (1, 10, 9),
        (250, 256, 6),
        (9, 10, 1),
    ],
)
def test_patch_drop_counts(patch_drop, num_tokens, kept):
    keep = make_views(patch_drop=patch_drop).keep(Draws(0, 0, 20), "a", (num_tokens, 1))
    assert keep.shape == (20, kept)
    assert keep.dtype == torch.int64
    assert (keep.diff(dim=1) > 0).all()
    assert keep.min() >= 0
    assert keep.max() < num_tokens


def test_every_token_is_kept_equally_often_and_clips_differ():
    keep = make_views(patch_drop=0.75).keep(Draws(0, 0, 8000), "a", (4, 4))
    counts = keep.flatten().bincount(minlength=16)
    # Each count has mean 2000 and variance 8000 / 4 * 3 / 4.
    assert ((counts - 2000).abs() < 5 * math.sqrt(1500)).all()
    assert keep.unique(dim=0).shape[0] > 1500  # of 1820 subsets of 4 in 16


def test_too_large_a_count_names_both():
    with pytest.raises(ValueError, match=r"patch_drop=250.*249 tokens"):
        make_views(patch_drop=250).keep(Draws(0, 0, 2), "a", (249, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_stretch": [1.2, 0.8]}, r"time_stretch=\[1\.2, 0\.8\].*lowest"),
        ({"time_stretch": [1.2]}, "lowest"),
        ({"time_stretch": [0.0, 1.0]}, "above 0"),
        ({"background_snr_db": [5]}, "background_snr_db"),
        ({"gain_db": -1.0}, r"gain_db=-1\.0"),
        ({"freq_mask_bins": -1}, "freq_mask_bins=-1"),
        ({"time_mask_frames": -1}, "time_mask_frames=-1"),
        ({"num_masks": -1}, "num_masks=-1"),
        ({"noise_std": -0.1}, r"noise_std=-0\.1"),
        ({"noise_uniform": -0.1}, r"noise_uniform=-0\.1"),
        ({"shift_frames": -1}, r"shift_frames=-1"),
        ({"background_folder": "x"}, r"background_folder=x: views\.background_probability=0 switches it off"),
        ({"patch_drop": -0.1}, r"patch_drop=-0\.1"),
        ({"patch_drop": 1.5}, r"patch_drop=1\.5.*whole"),
        ({"background_probability": 1.1}, r"background_probability=1\.1"),
        ({"patch_drop_mode": "zero"}, "patch_drop_mode=zero.*drop, mask"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_views(**options)


def test_a_batch_of_another_size_is_refused():
    with pytest.raises(ValueError, match="3 clips and draws for 4"):
        make_views().make(noise(3, 4000), Draws(0, 0, 4), "a")


@pytest.mark.parametrize("name", ["default", "sounds", "none"])
def test_the_shipped_options_build(name):
    views = Views(Fbank(**shipped("features/fbank", sample_rate=16000)), **shipped(f"views/{name}"))
    wavs = noise(2, 16000)
    view = views.make(wavs, Draws(0, 0, 2), "a")
    assert view.shape == (2, 98, 128)
    assert torch.equal(view, views.fbank(wavs)) == (name == "none")


@pytest.mark.gpu
@pytest.mark.parametrize("backgrounds", [{}, RECORDED], ids=["clips", "recordings"])
def test_no_view_waits_for_the_gpu(backgrounds):
    views = make_views(**{**EVERYTHING, **backgrounds}).cuda()
    wavs = noise(16, 16000).cuda()
    views.two(wavs, Draws(0, 0, 16, device="cuda"))  # plans and workspaces of the first call may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        draws = Draws(0, 1, 16, device="cuda")
        two, keep = views.two(wavs, draws), views.keep(draws, "a", (10, 4))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(two.cpu(), views.cpu().two(wavs.cpu(), Draws(0, 1, 16)), rtol=1e-3, atol=1e-3)
    assert torch.equal(keep.cpu(), views.keep(Draws(0, 1, 16), "a", (10, 4)))


def test_autocast_does_not_change_a_view():
    wavs, views = noise(4, 8000), make_views(**EVERYTHING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = views.two(wavs, Draws(0, 0, 4))
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, views.two(wavs, Draws(0, 0, 4)), rtol=0, atol=0)
