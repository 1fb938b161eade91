import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped import shipped
from torchaudio.compliance import kaldi

from vcrast.features.fbank import BLOCK_NUMBERS, Fbank


def kaldi_fbank(wav: torch.Tensor, sample_rate: int, num_mel_bins: int, **options) -> torch.Tensor:
    return kaldi.fbank(
        (wav - wav.mean()).unsqueeze(0),
        htk_compat=True,
        sample_frequency=sample_rate,
        use_energy=False,
        num_mel_bins=num_mel_bins,
        dither=0.0,
        **{"window_type": "hanning", **options},
    )


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) + 0.02


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050, 32000, 44100])
@pytest.mark.parametrize("num_mel_bins", [23, 64, 128])
def test_equals_torchaudio_at_every_rate(sample_rate, num_mel_bins):
    wavs = noise(3, sample_rate // 4 + 37)
    ours = Fbank(**shipped("features/fbank", sample_rate=sample_rate, num_mel_bins=num_mel_bins))(wavs)
    for wav, fbank in zip(wavs, ours, strict=True):
        torch.testing.assert_close(fbank, kaldi_fbank(wav, sample_rate, num_mel_bins), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("sample_rate", "options", "empty"),
    [
        (8000, {}, [4, 7, 12, 17]),
        (8000, {"num_mel_bins": 64}, []),
        (16000, {}, [3]),
        (32000, {}, []),
        (44100, {}, []),
        (48000, {}, []),
        (250_000, {}, []),
        (250_000, {"low_freq_hz": 10_000.0, "window_ms": 2.0, "frame_shift_ms": 1.0}, []),
        (250_000, {"low_freq_hz": 10_000.0, "high_freq_hz": -5000.0, "window_ms": 1.0, "frame_shift_ms": 0.5},
         [0, 1, 4, 5, 8, 9, 12, 13, 16, 17]),
    ],
)  # fmt: skip
def test_the_mel_range_follows_the_rate_as_torchaudios_in_float64(sample_rate, options, empty):
    fbank = Fbank(**shipped("features/fbank", sample_rate=sample_rate, **options)).double()
    assert fbank.empty_filters[: len(empty) or None] == empty
    # kaldi makes its window in float64, ours was rounded to float32.
    fbank.window = torch.hann_window(fbank.window_samples, periodic=False, dtype=torch.float64)
    wavs = noise(2, fbank.window_samples + 3 * fbank.shift_samples + 5, dtype=torch.float64)
    ours = fbank(wavs)
    assert ours.shape == (2, 4, fbank.num_mel_bins)
    words = {"window_ms": "frame_length", "frame_shift_ms": "frame_shift", "low_freq_hz": "low_freq",
             "high_freq_hz": "high_freq"}  # fmt: skip
    given = {words[key]: value for key, value in options.items() if key in words}
    for wav, found in zip(wavs, ours, strict=True):
        torch.testing.assert_close(found, kaldi_fbank(wav, sample_rate, fbank.num_mel_bins, **given), rtol=0, atol=1e-8)
    floor = torch.tensor(torch.finfo(torch.float32).eps, dtype=torch.float64).log()
    assert ((ours == floor).all(dim=1).all(dim=0).nonzero().flatten().tolist()) == fbank.empty_filters


def test_kaldis_own_window_equals_torchaudios():
    wav = noise(4000)
    ours = Fbank(**shipped("features/fbank", sample_rate=16000, window="povey"))(wav[None])[0]
    theirs = kaldi_fbank(wav, 16000, 128, window_type="povey")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
    assert (ours - kaldi_fbank(wav, 16000, 128)).abs().max() > 0.1
    with pytest.raises(ValueError, match=r"features\.window=hamming: choose from hann, povey"):
        Fbank(**shipped("features/fbank", sample_rate=16000, window="hamming"))


@pytest.mark.parametrize("num_samples", [400, 401, 559, 560, 561, 719, 1001])
def test_equals_torchaudio_from_one_window_up(num_samples):
    wav = noise(num_samples)
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000))
    ours = fbank(wav.unsqueeze(0))[0]
    assert ours.shape == (fbank.num_frames(num_samples), 128)
    torch.testing.assert_close(ours, kaldi_fbank(wav, 16000, 128), rtol=1e-5, atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(
    num_samples=st.integers(800, 6000),
    seed=st.integers(0, 999),
    window_ms=st.sampled_from([16.0, 25.0, 32.0, 50.0]),
    shift_ms=st.sampled_from([5.0, 10.0, 12.5]),
    low_hz=st.floats(0, 500),
    high_hz=st.sampled_from([0.0, -400.0, 7000.0]),
    preemphasis=st.sampled_from([0.0, 0.97]),
)
def test_equals_torchaudio_for_any_option(num_samples, seed, window_ms, shift_ms, low_hz, high_hz, preemphasis):
    wav = noise(num_samples, seed=seed)
    ours = Fbank(
        **shipped(
            "features/fbank",
            sample_rate=16000,
            num_mel_bins=40,
            window_ms=window_ms,
            frame_shift_ms=shift_ms,
            low_freq_hz=low_hz,
            high_freq_hz=high_hz,
            preemphasis=preemphasis,
        )
    )(wav.unsqueeze(0))[0]
    reference = kaldi_fbank(
        wav,
        16000,
        40,
        frame_length=window_ms,
        frame_shift=shift_ms,
        low_freq=low_hz,
        high_freq=high_hz,
        preemphasis_coefficient=preemphasis,
    )
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=5e-5)


def test_gradient_equals_torchaudio_in_float64():
    # With 40 filters none is empty, so the floor, where the two derivatives might differ, is never reached.
    wav = noise(1333, dtype=torch.float64).requires_grad_()
    weight = noise(6, 40, seed=1, dtype=torch.float64)
    ours = Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=40)).double()(wav.unsqueeze(0))[0]
    reference = kaldi_fbank(wav, 16000, 40)
    assert ours.dtype == torch.float64
    # kaldi makes its window in float64, ours was rounded to float32.
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-6)
    (mine,), (theirs,) = (torch.autograd.grad((fbank * weight).sum(), wav) for fbank in (ours, reference))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))


def test_gradient_by_finite_differences():
    fbank = Fbank(**shipped("features/fbank", sample_rate=8000, num_mel_bins=10)).double()
    wav = noise(1, 290, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(fbank, (wav,), atol=1e-4)


def test_gradient_of_silence_is_finite():
    wav = torch.zeros(1, 800, requires_grad=True)
    Fbank(**shipped("features/fbank", sample_rate=16000))(wav).sum().backward()
    assert torch.isfinite(wav.grad).all()


def test_batch_equals_single_clips_and_mean_is_removed():
    wavs = noise(4, 3001)
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000))
    batch = fbank(wavs)
    for i in range(4):
        torch.testing.assert_close(fbank(wavs[i : i + 1])[0], batch[i], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fbank(wavs + 0.25), batch, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("num_clips", [1, 5, 13])
def test_a_batch_larger_than_a_block_equals_single_clips_to_the_bit(num_clips):
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000))
    wavs = noise(num_clips, 40037)
    assert fbank.num_frames(40037) * fbank.window_samples * 4 > BLOCK_NUMBERS  # more than one block from 5 clips on
    assert torch.equal(fbank(wavs), torch.cat([fbank(wav.unsqueeze(0)) for wav in wavs]))


def test_gradients_cross_blocks():
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000))
    wavs = noise(5, 40037).requires_grad_()
    fbank(wavs).square().sum().backward()
    for wav, gradient in zip(wavs.detach(), wavs.grad, strict=True):
        alone = wav.unsqueeze(0).requires_grad_()
        fbank(alone).square().sum().backward()
        torch.testing.assert_close(alone.grad[0], gradient, rtol=1e-4, atol=1e-3 * float(gradient.abs().max()))


def test_silence_reads_the_floor_and_normalisation_by_hand():
    silence = torch.zeros(1, 400)
    floor = torch.log(torch.tensor(torch.finfo(torch.float32).eps))
    torch.testing.assert_close(Fbank(**shipped("features/fbank", sample_rate=16000))(silence), floor.expand(1, 1, 128))
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000, mean=-4.2677393, std=4.5689974))
    assert fbank(silence)[0, 0, 0].item() == pytest.approx((-15.9424 + 4.2677393) / 9.1379948, abs=1e-4)
    assert fbank(silence)[0, 0, 0].item() == pytest.approx(-1.278, abs=1e-3)  # AST's AudioSet pair


@pytest.mark.parametrize("low_precision", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(low_precision):
    wavs = noise(2, 1600)
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000, mean=-5.0, std=4.0))
    with torch.autocast("cpu", dtype=low_precision):
        inside = fbank(wavs)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, fbank(wavs), rtol=0, atol=0)


@pytest.mark.parametrize(("seconds", "frames"), [(1, 98), (5, 498), (10, 998)])
def test_frame_counts_of_the_ast(seconds, frames):
    assert Fbank(**shipped("features/fbank", sample_rate=16000)).num_frames(seconds * 16000) == frames


def test_one_filter_of_128_is_empty_at_16_khz():
    filters = Fbank(**shipped("features/fbank", sample_rate=16000)).mel
    assert filters.shape == (128, 257)
    assert int((filters.sum(dim=1) == 0).sum()) == 1
    assert filters.min() >= 0
    assert filters.max() <= 1


def test_nothing_is_saved_with_a_checkpoint():
    assert Fbank(**shipped("features/fbank", sample_rate=16000, mean=0.0, std=1.0)).state_dict() == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_ms": 0.0}, r"window_ms=0\.0"),
        ({"frame_shift_ms": 0.01}, r"frame_shift_ms=0\.01"),
        ({"num_mel_bins": 3}, "num_mel_bins=3"),
        ({"low_freq_hz": -1.0}, r"low_freq_hz=-1\.0"),
        ({"high_freq_hz": 9000.0}, r"high_freq_hz=9000\.0.*8000"),
        ({"high_freq_hz": 10.0}, r"high_freq_hz=10\.0"),
        ({"preemphasis": 1.5}, r"preemphasis=1\.5"),
        ({"mean": 1.0}, "set both"),
        ({"mean": 1.0, "std": 0.0}, r"std=0\.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Fbank(**shipped("features/fbank", sample_rate=16000, **options))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"399 samples.*400"):
        Fbank(**shipped("features/fbank", sample_rate=16000))(torch.zeros(1, 399))
    with pytest.raises(ValueError, match=r"\(B, S\).*\(800,\)"):
        Fbank(**shipped("features/fbank", sample_rate=16000))(torch.zeros(800))


@pytest.mark.gpu
def test_gpu_equals_cpu():
    wavs = noise(3, 16000)
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000))
    torch.testing.assert_close(fbank.cuda()(wavs.cuda()).cpu(), fbank.cpu()(wavs), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("length", [100, 399, 400, 2000, 4000])
def test_frames_that_are_not_wholly_of_the_sound_are_zero_before_normalisation(length):
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000, mean=-4.0, std=3.0))
    wavs = noise(2, 4000)
    wavs[0, length:] = torch.nan
    found, whole = fbank.zero_filled(wavs), max(0, (length - 400) // 160 + 1)
    torch.testing.assert_close(found[1], fbank(wavs[1:])[0], rtol=1e-5, atol=2e-5)  # the other fills the clip
    assert torch.equal(found[0, whole:], torch.full_like(found[0, whole:], 4 / 6))
    if whole:
        torch.testing.assert_close(found[0, :whole], fbank(wavs[:1, :length])[0], rtol=0, atol=1e-3)
