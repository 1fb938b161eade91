import pytest
import torch
from torch import Tensor

from vcrast.features.fbank import Fbank
from vcrast.synth.counter import Dice
from vcrast.synth.engine import CLASSES, finish, render, render_class
from vcrast.synth.impacts import BELL_PARTIALS
from vcrast.synth.sound import SOUNDS, Range, Scene, find_sound, linear, log, sound

RATE = 16000


def dry(
    name: str, num_clips: int, duration_s: float = 2.0, first: int = 0, **fixed: float
) -> tuple[dict[str, Tensor], Tensor]:
    """Parameters and waveforms before background and level; `fixed` replaces drawn parameters."""
    dice = Dice.of(0, name, torch.arange(first, first + num_clips))
    chosen = find_sound(name)
    assert set(fixed) <= set(chosen.ranges)
    parameters = chosen.draw(dice) | {key: torch.full((num_clips, 1), value) for key, value in fixed.items()}
    return parameters, chosen.formula(parameters, Scene(dice, int(duration_s * RATE), RATE))


def clips(name: str, *numbers: int, seed: int = 0, seconds: float = 1.0) -> Tensor:
    return render_class(name, torch.tensor(numbers), seed=seed, num_samples=int(seconds * RATE), sample_rate=RATE)


def test_there_are_enough_classes():
    assert len(CLASSES) >= 12
    assert list(CLASSES) == sorted(set(CLASSES))


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_finite_audible_and_never_clips(name):
    wavs = clips(name, *range(100))
    assert wavs.shape == (100, RATE)
    assert wavs.dtype == torch.float32
    assert torch.isfinite(wavs).all()
    peaks = wavs.abs().amax(dim=1)
    assert peaks.min() >= 0.0999
    assert peaks.max() <= 10 ** (-1 / 20) + 1e-6
    _, sounds = dry(name, 100, 1.0)
    # Without background: silence would leave a clip that is noise under a label.
    assert sounds.var(dim=1).sqrt().min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_thousands_of_parameters(name):
    for first in range(100, 1000, 100):
        wavs = clips(name, *range(first, first + 100))
        assert torch.isfinite(wavs).all()
        assert wavs.abs().max() < 1
        _, sounds = dry(name, 100, 1.0, first)
        assert sounds.var(dim=1).sqrt().min() > 1e-3


@pytest.mark.parametrize("name", CLASSES)
def test_a_clip_depends_on_seed_class_and_number_alone(name):
    together = clips(name, 7, 3, 11)
    torch.testing.assert_close(clips(name, 3)[0], together[1], rtol=0, atol=2e-5)
    torch.testing.assert_close(clips(name, 7, 3, 11), together, rtol=0, atol=0)
    for other in (clips(name, 4)[0], clips(name, 3, seed=1)[0]):
        correlation = torch.corrcoef(torch.stack([together[1], other]))[0, 1]
        assert abs(correlation) < 0.6


def test_render_of_mixed_classes_is_each_class():
    index, numbers = torch.tensor([2, 0, 2, 5]), torch.tensor([1, 1, 4, 0])
    wavs = render(index, numbers, seed=5, num_samples=RATE, sample_rate=RATE)
    for wav, i, number in zip(wavs, index.tolist(), numbers.tolist(), strict=True):
        torch.testing.assert_close(wav, clips(CLASSES[i], number, seed=5)[0], rtol=0, atol=2e-5)


def spectrum_peak(wavs: Tensor) -> Tensor:
    """(n,) frequency of the strongest component, Hz."""
    windowed = wavs * torch.hann_window(wavs.shape[1])
    return torch.fft.rfft(windowed).abs().argmax(dim=1) * RATE / wavs.shape[1]


@pytest.mark.parametrize(
    ("name", "fixed"), [("beeps", {}), ("crickets", {}), ("siren", {"depth_octaves": 0.0}), ("bird_chirps", {})]
)
def test_pitch_is_the_parameter(name, fixed):
    parameters, wavs = dry(name, 50, 4.0, **fixed)
    octaves = (spectrum_peak(wavs) / parameters["pitch_hz"][:, 0]).log2().abs()
    # A bird's notes wander by a sixth of an octave and sweep by up to 0.4 to either side; crickets pulse at 25-55 Hz.
    assert octaves.max() < {"bird_chirps": 0.17 + 0.4 + 0.12, "crickets": 0.03}.get(name, 0.01)


def test_siren_swings_over_its_depth():
    parameters, wavs = dry("siren", 20, 4.0, rate_hz=0.5, hardness=0.3, slope=2.0)
    spectra = torch.stft(wavs, 2048, 512, window=torch.hann_window(2048), return_complex=True).abs()
    track = spectra.argmax(dim=1) * RATE / 2048
    depth = (track.amax(dim=1) / track.amin(dim=1)).log2()
    torch.testing.assert_close(depth, parameters["depth_octaves"][:, 0], rtol=0.05, atol=0.03)


def test_telephone_has_two_tones():
    parameters, wavs = dry("telephone_ring", 20, 4.0, warble_hz=2.0, slope=2.5)
    spectra = torch.stft(wavs, 1024, 256, window=torch.hann_window(1024), return_complex=True).abs()
    track = spectra.argmax(dim=1) * RATE / 1024
    loud = spectra.amax(dim=1) > 0.7 * spectra.amax(dim=(1, 2)).unsqueeze(1)
    tones = torch.stack([frames[on].quantile(torch.tensor([0.1, 0.9])) for frames, on in zip(track, loud, strict=True)])
    torch.testing.assert_close(tones[:, :1], parameters["pitch_hz"], rtol=0, atol=RATE / 1024)
    torch.testing.assert_close(tones[:, 1:], parameters["pitch_hz"] * parameters["interval"], rtol=0, atol=RATE / 1024)


def test_clock_alternates_between_tick_and_tock():
    parameters, wavs = dry("clock_ticks", 20, 1.0, rate_hz=2.0, start=0.0, decay_s=0.012, click=0.0)
    spectra = torch.fft.rfft(wavs.reshape(20, 2, RATE // 2), n=2 * RATE).abs()
    tick, tock = spectra.argmax(dim=2).unbind(dim=1)
    torch.testing.assert_close(tick / 2, parameters["pitch_hz"][:, 0], rtol=0.02, atol=0)
    torch.testing.assert_close(tock / tick, parameters["tock"][:, 0], rtol=0.02, atol=0)


def test_bell_has_its_partials():
    parameters, wavs = dry("church_bell", 20, 4.0, rate_hz=0.6, hardness=1.0, decay_s=1.5)
    spectra = torch.fft.rfft(wavs * torch.hann_window(wavs.shape[1])).abs()
    for ratio in BELL_PARTIALS[:6]:
        bins = (ratio * parameters["pitch_hz"][:, 0] * wavs.shape[1] / RATE).round().long()
        near = torch.stack([spectrum[b - 8 : b + 9].max() for spectrum, b in zip(spectra, bins, strict=True)])
        assert (near > 10 * spectra.median(dim=1).values).all()


def period_s(wavs: Tensor, low_hz: float, high_hz: float) -> Tensor:
    """(n,) lag of the largest autocorrelation between the periods of two rates; longer lags have smaller ones."""
    spectrum = torch.fft.rfft(wavs - wavs.mean(dim=1, keepdim=True), n=2 * wavs.shape[1])
    correlation = torch.fft.irfft(spectrum.abs().square())
    first, last = int(RATE / high_hz), int(RATE / low_hz)
    return (first + correlation[:, first : last + 1].argmax(dim=1)) / RATE


@pytest.mark.parametrize(
    ("name", "key", "fixed"),
    [
        ("engine_hum", "firing_hz", {"wobble": 0.0, "hiss": 0.0}),
        ("baby_cry", "pitch_hz", {"arch_octaves": 0.0, "rasp": 0.0}),
    ],
)
def test_voiced_period_is_the_parameter(name, key, fixed):
    parameters, wavs = dry(name, 30, 2.0, **fixed)
    span = SOUNDS[name].ranges[key]
    measured = period_s(wavs, 0.9 * span.low, 1.1 * span.high)
    torch.testing.assert_close(measured, 1 / parameters[key][:, 0], rtol=0.02, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("clock_ticks", "rate_hz"),
        ("dog_bark", "rate_hz"),
        ("footsteps", "rate_hz"),
        ("laser_sweep", "rate_hz"),
        ("beeps", "rate_hz"),
        ("church_bell", "rate_hz"),
        ("sea_waves", "rate_hz"),
        ("drum_roll", "rate_hz"),
        ("helicopter", "blade_hz"),
        ("crickets", "chirp_hz"),
    ],
)
def test_beat_is_the_parameter(name, key):
    fixed = {"drum_roll": {"swell": 0.0}, "crickets": {"pulse_hz": 55.0}}.get(name, {})
    parameters, wavs = dry(name, 20, 12.0, **fixed)
    span = SOUNDS[name].ranges[key]
    # Loudness over 20 ms (2 ms for the fast ones), so that pitch does not count as a beat.
    width = 321 if span.high < 10 else 33
    loudness = torch.nn.functional.avg_pool1d(wavs.square().unsqueeze(1), width, 1, width // 2).squeeze(1).sqrt()
    measured = period_s(loudness, 0.9 * span.low, 1.1 * span.high)
    error = (measured * parameters[key][:, 0] - 1).abs()
    assert (error < 0.03).float().mean() >= 0.9


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_background_has_the_wanted_level(snr_db):
    tone = torch.sin(torch.arange(4 * RATE) * 0.3).expand(20, -1)
    wavs = finish(tone, Dice.of(0, "x", torch.arange(20)), RATE, (snr_db, snr_db))
    share = (wavs * tone).sum(dim=1, keepdim=True) / (tone * tone).sum(dim=1, keepdim=True)
    signal, rest = (share * tone).square().mean(dim=1), (wavs - share * tone).square().mean(dim=1)
    torch.testing.assert_close(10 * (signal / rest).log10(), torch.full((20,), snr_db), rtol=0, atol=0.3)


def test_classes_can_be_told_apart_but_not_trivially():
    fbank = Fbank(sample_rate=RATE)
    num_clips = 16
    shapes = torch.stack([fbank(clips(name, *range(num_clips), seconds=1.5)).mean(dim=1) for name in CLASSES])
    shapes = shapes - shapes.mean(dim=2, keepdim=True)  # without the level
    centroids = shapes[:, : num_clips // 2].mean(dim=1)
    nearest = torch.cdist(shapes[:, num_clips // 2 :].flatten(0, 1), centroids).argmin(dim=1)
    truth = torch.arange(len(CLASSES)).repeat_interleave(num_clips // 2)
    accuracy = (nearest == truth).float().mean()
    assert 4 / len(CLASSES) < accuracy < 0.9


def test_ranges_are_respected():
    dice = Dice.of(0, "x", torch.arange(5000))
    even, octaves = linear(2, 6).draw(dice, "a"), log(2, 8).draw(dice, "b")
    for drawn, span in ((even, (2, 6)), (octaves, (2, 8))):
        assert drawn.shape == (5000, 1)
        assert span[0] <= drawn.min() < drawn.max() <= span[1] + 1e-5
    assert even.median().item() == pytest.approx(4, rel=0.03)
    assert octaves.median().item() == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize("sample_rate", [16000, 22050, 44100])
def test_other_rates_keep_pitch(sample_rate):
    dice = Dice.of(0, "beeps", torch.arange(5))
    chosen = find_sound("beeps")
    wavs = chosen.formula(chosen.draw(dice), Scene(dice, 2 * sample_rate, sample_rate))
    peak = torch.fft.rfft(wavs * torch.hann_window(2 * sample_rate)).abs().argmax(dim=1) / 2
    torch.testing.assert_close(peak, chosen.draw(dice)["pitch_hz"][:, 0], rtol=0.01, atol=1.0)


def test_mistakes_are_named():
    with pytest.raises(KeyError, match=r"siern.*did you mean siren"):
        clips("siern", 0)
    with pytest.raises(ValueError, match=r"sample_rate=8000.*16000"):
        render_class("siren", torch.arange(1), seed=0, num_samples=9000, sample_rate=8000)
    with pytest.raises(ValueError, match=r"0\.5 s.*clip_duration_s"):
        clips("siren", 0, seconds=0.5)
    with pytest.raises(ValueError, match="lowest"):
        render_class("siren", torch.arange(1), seed=0, num_samples=RATE, sample_rate=RATE, snr_db=(9.0, 1.0))
    with pytest.raises(ValueError, match="defined twice"):
        sound("siren", pitch_hz=Range(1, 2))(lambda parameters, scene: scene.time_s)


@pytest.mark.gpu
def test_gpu_renders_the_same_sounds():
    index, numbers = torch.arange(len(CLASSES)), torch.zeros(len(CLASSES), dtype=torch.int64)
    ours = render(index.cuda(), numbers.cuda(), seed=0, num_samples=RATE, sample_rate=RATE).cpu()
    reference = render(index, numbers, seed=0, num_samples=RATE, sample_rate=RATE)
    torch.testing.assert_close(ours, reference, rtol=0, atol=2e-3)
