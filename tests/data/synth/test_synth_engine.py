import pytest
import torch

from vcrast.data.synth.classes import REGIONS
from vcrast.data.synth.control import Grid
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.engine import CLASSES, render_class, unit_power, with_background
from vcrast.data.synth.program import Layers

RATE = 16000


def clips(name, *numbers, seed=0, seconds=1.0):
    return render_class(name, torch.tensor(numbers), seed=seed, num_samples=int(seconds * RATE), sample_rate=RATE).wavs


def dry(name, first, num_clips, seconds):
    """The sounds without background."""
    dice = Dice.of(0, name, torch.arange(first, first + num_clips))
    grid = Grid(int(seconds * RATE), RATE, torch.device("cpu"))
    program = Layers(num_layers=1, grid=grid)
    return program.render(REGIONS[name].draw(dice), program.draw_material(dice))


def assert_audible(name, first, num_clips, seconds):
    wavs = clips(name, *range(first, first + num_clips), seconds=seconds)
    assert wavs.shape == (num_clips, seconds * RATE)
    assert wavs.dtype == torch.float32
    assert torch.isfinite(wavs).all()
    peaks = wavs.abs().amax(dim=1)
    assert peaks.min() >= 0.1 - 1e-4  # -20 dB
    assert peaks.max() <= 10 ** (-1 / 20) + 1e-4
    # Silence would leave a clip that is noise under a label; a peak alone may be the foot of a burst, made louder.
    sounds = dry(name, first, num_clips, seconds)
    assert (sounds.abs().amax(dim=1) >= 0.1 - 1e-4).all()
    assert torch.isfinite(sounds).all()


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_finite_audible_and_never_clips(name):
    assert_audible(name, 0, 60, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_thousands_of_draws(name):
    for first in (100, 200):
        assert_audible(name, first, 100, 1)


@pytest.mark.parametrize("name", CLASSES)
def test_a_clip_depends_on_seed_class_and_number_alone(name):
    together = clips(name, 7, 3, 11)
    torch.testing.assert_close(clips(name, 3)[0], together[1], rtol=0, atol=2e-5)
    torch.testing.assert_close(clips(name, 7, 3, 11), together, rtol=0, atol=0)
    for other in (clips(name, 4)[0], clips(name, 3, seed=1)[0]):
        assert not torch.allclose(unit_power(together[1:2]), unit_power(other[None]), atol=0.1)


def test_another_length_or_rate_keeps_the_parameters():
    shapes = ((RATE, RATE), (2 * RATE, RATE), (44100, 44100))
    drawn = [render_class("beeps", torch.arange(5), seed=0, num_samples=s, sample_rate=r).units for s, r in shapes]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("sample_rate", [16000, 22050, 44100])
def test_other_rates_keep_the_pitch(sample_rate):
    one, other = (
        render_class("beeps", torch.arange(5), seed=0, num_samples=2 * rate, sample_rate=rate, snr_db=(60.0, 60.0)).wavs
        for rate in (16000, sample_rate)
    )
    peaks = [torch.fft.rfft(wavs * torch.hann_window(wavs.shape[1])).abs().argmax(dim=1) / 2 for wavs in (one, other)]
    torch.testing.assert_close(peaks[0], peaks[1], rtol=0, atol=1.0)


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_background_has_the_wanted_level(snr_db):
    tone = torch.sin(torch.arange(4 * RATE) * 0.3).expand(20, -1)
    grid = Grid(4 * RATE, RATE, torch.device("cpu"))
    wavs = with_background(tone, Dice.of(0, "x", torch.arange(20)), grid, (snr_db, snr_db))
    share = (wavs * tone).sum(dim=1, keepdim=True) / (tone * tone).sum(dim=1, keepdim=True)
    signal, rest = (share * tone).square().mean(dim=1), (wavs - share * tone).square().mean(dim=1)
    torch.testing.assert_close(10 * (signal / rest).log10(), torch.full((20,), snr_db), rtol=0, atol=0.1)


def test_background_falls_by_0_to_6_db_per_octave():
    grid = Grid(4 * RATE, RATE, torch.device("cpu"))
    silence = torch.zeros(200, 4 * RATE)
    power = torch.fft.rfft(with_background(silence, Dice.of(0, "x", torch.arange(200)), grid, (0.0, 0.0))).abs() ** 2
    levels = torch.stack([10 * power[:, hz : 2 * hz].mean(dim=1).log10() for hz in (4000, 8000, 16000)], dim=1)
    falls = (levels[:, 0] - levels[:, 2]) / 2
    assert -0.4 < falls.min() < 0.3
    assert 5.7 < falls.max() < 6.4
    assert falls.mean().item() == pytest.approx(3, abs=4 * 6 / 12**0.5 / 200**0.5)


def test_unit_power():
    assert unit_power(torch.tensor([[3.0, -3.0], [0.0, 0.0]])).tolist() == [[1.0, -1.0], [0.0, 0.0]]


def test_mistakes_are_named():
    with pytest.raises(KeyError, match=r"siern.*did you mean siren"):
        clips("siern", 0)
    with pytest.raises(ValueError, match=r"sample_rate=8000.*16000"):
        render_class("siren", torch.arange(1), seed=0, num_samples=9000, sample_rate=8000)
    with pytest.raises(ValueError, match=r"0\.5 s.*clip_duration_s"):
        clips("siren", 0, seconds=0.5)
    with pytest.raises(ValueError, match="lowest"):
        render_class("siren", torch.arange(1), seed=0, num_samples=RATE, sample_rate=RATE, snr_db=(9.0, 1.0))


@pytest.mark.gpu
def test_gpu_renders_the_same_sounds():
    ours, reference = (
        [render_class(name, numbers, seed=0, num_samples=RATE, sample_rate=RATE) for name in CLASSES]
        for numbers in (torch.zeros(1, dtype=torch.int64).cuda(), torch.zeros(1, dtype=torch.int64))
    )
    for found, wanted in zip(ours, reference, strict=True):
        assert torch.equal(found.units.cpu(), wanted.units)
        torch.testing.assert_close(found.wavs.cpu(), wanted.wavs, rtol=0, atol=5e-3)
