from __future__ import annotations

import warnings

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st

from vcrast.data.arrays import one_sound, split_sounds, to_mono
from vcrast.data.audio import read_wav


def noise(*shape, peak=0.9):
    wav = np.random.default_rng(0).normal(size=shape)
    return wav * peak / abs(wav).max()


@pytest.mark.parametrize(
    ("subtype", "dtype"),
    [
        ("PCM_16", "int16"), ("PCM_24", "int32"), ("PCM_32", "int32"), ("PCM_16", "float32"), ("PCM_16", "float64"),
        ("FLOAT", "float32"), ("DOUBLE", "float64"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_samples_as_soundfile_reads_them_are_the_file(tmp_path, subtype, dtype, channels, rate):
    path = str(tmp_path / "a.wav")
    sf.write(path, noise(rate // 2, channels), rate, subtype=subtype)
    samples, _ = sf.read(path, dtype=dtype)
    (sound,), several = split_sounds(samples)
    assert not several
    wav, scale = to_mono(sound, rate, 16000)
    assert scale == 1.0
    np.testing.assert_array_equal(wav, read_wav(path, sample_rate=16000))


def test_eight_bits_lie_around_128(tmp_path):
    path = tmp_path / "a.wav"
    sf.write(path, noise(8000), 16000, subtype="PCM_U8")
    samples = np.frombuffer(path.read_bytes()[-8000:], np.uint8)
    np.testing.assert_array_equal(to_mono(samples, 16000, 16000)[0], read_wav(str(path), sample_rate=16000))


@pytest.mark.parametrize(("peak", "scale"), [(1.0, 1.0), (1.5, 2.0), (20.0, 32.0), (30000.0, 32768.0)])
def test_floats_beyond_1_have_the_full_scale_of_the_file(tmp_path, peak, scale):
    path = str(tmp_path / "a.wav")
    samples = noise(30000, 2, peak=peak).astype(np.float32)
    sf.write(path, samples, 44100, subtype="FLOAT")
    wav, found = to_mono(samples, 44100, 16000)
    assert found == scale
    np.testing.assert_array_equal(wav, read_wav(path, sample_rate=16000))


def test_other_orders_of_bytes_strides_and_views():
    samples = noise(3000).astype(np.float32)
    expected = to_mono(samples, 16000, 8000)[0]
    np.testing.assert_array_equal(to_mono(samples.astype(">f4"), 16000, 8000)[0], expected)
    np.testing.assert_array_equal(to_mono(np.repeat(samples, 2)[::2], 16000, 8000)[0], expected)
    np.testing.assert_array_equal(to_mono(samples[::-1][::-1], 16000, 8000)[0], expected)


SHAPES = {
    (500,): "one", (500, 1): "one", (500, 2): "one", (500, 32): "one", (33, 32): "one", (1, 500): "batch",
    (2, 500): "either", (8, 500): "either", (9, 500): "batch", (500, 400): "batch", (500, 399): "neither",
    (500, 33): "neither", (3, 5): "neither", (8, 300): "neither", (): "no sound", (0,): "no sound",
    (0, 500): "no sound", (500, 0): "no sound", (2, 2, 500): "no sound",
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_which_axis_is_time(shape):
    samples, said = np.zeros(shape, np.float32), SHAPES[shape]
    if said == "one":
        (sound,), several = split_sounds(samples, shortest=400)
        assert (sound.shape, several) == (shape, False)
    elif said == "batch":
        sounds, several = split_sounds(samples, shortest=400)
        assert ([sound.shape for sound in sounds], several) == ([shape[1:]] * shape[0], True)
    else:
        words = {"either": "may be one sound of", "neither": "neither", "no sound": r"give \(S,\)"}
        with pytest.raises(ValueError, match=words[said]):
            split_sounds(samples, shortest=400)


def test_layout_decides():
    samples = np.arange(12.0).reshape(2, 6)
    (sound,), several = split_sounds(samples, layout="channels")
    assert not several
    np.testing.assert_array_equal(sound, samples.T)
    np.testing.assert_array_equal(split_sounds(samples.T, layout="channels")[0][0], samples.T)
    sounds, several = split_sounds(samples, layout="batch")
    assert several
    np.testing.assert_array_equal(sounds, samples)
    with pytest.raises(ValueError, match="a batch is"):
        split_sounds(samples[0], layout="batch")
    with pytest.raises(ValueError, match="as many channels"):
        split_sounds(np.zeros((7, 7)), layout="channels")
    hall = np.broadcast_to(np.float32(0.1), (10**9, 16000))  # no memory is taken
    with pytest.raises(ValueError, match="16000 channels cannot be, at most 1024"):
        split_sounds(hall, layout="channels")


def test_many_channels_are_averaged_a_block_at_a_time():
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, (1_100_000, 3), np.int16)  # two blocks and a bit
    wav, _ = to_mono(samples, 16000, 16000)
    np.testing.assert_allclose(wav, samples.mean(axis=1) / 2**15, atol=1e-7)


def test_samples_that_may_not_be_written_are_read():
    samples = np.frombuffer(noise(8000).astype(np.float32).tobytes(), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wav = torch.from_numpy(to_mono(samples, 16000, 16000)[0])
    wav[0] = 0.5
    np.testing.assert_array_equal(wav[1:].numpy(), samples[1:])
    assert samples[0] != 0.5, "what was given stays as it was"


def test_in_place_of_one_sound_there_is_one():
    samples = np.arange(80.0).reshape(2, 40)
    np.testing.assert_array_equal(one_sound(samples, layout="channels"), samples.T)
    np.testing.assert_array_equal(one_sound(samples.T), samples.T)
    assert one_sound(np.zeros((1, 40))).shape == (40,)
    assert one_sound(np.zeros(40)).shape == (40,)
    with pytest.raises(ValueError, match=r"2 channels .* or 2 clips"):
        one_sound(samples)
    with pytest.raises(ValueError, match="20 sounds in place of one"):
        one_sound(np.zeros((20, 500)))


@given(rows=st.integers(1, 40), columns=st.integers(33, 60), seed=st.integers(0, 99))
def test_the_mean_of_the_channels_is_what_is_heard(rows, columns, seed):
    samples = np.random.default_rng(seed).uniform(-1, 1, (columns, rows)).astype(np.float32)
    wav, _ = to_mono(samples if rows < 33 else samples[:, :32], 16000, 16000)
    expected = [sum(map(float, frame[:32])) / min(rows, 32) for frame in samples]
    np.testing.assert_allclose(wav, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros(9, np.int64), "int16, int32 or uint8"),
        (np.zeros(9, np.complex64), "complex64"),
        (np.zeros(9, bool), "bool"),
        (np.array(["a"]), "<U1"),
        (np.array([0.0, np.inf]), "NaN or infinite"),
        (np.full(9, 1e300), "NaN or infinite"),
        (np.full((9, 2), 1e12, np.float32), "no full scale"),
    ],
)
def test_what_is_no_sound(samples, said):
    with pytest.raises(ValueError, match=said):
        to_mono(samples, 16000, 16000)


@pytest.mark.parametrize("rate", [0, -1, 44.1, float("nan"), float("inf"), "16000", None])
def test_rates_that_are_none(rate):
    with pytest.raises(ValueError, match="must be a number in Hz"):
        to_mono(np.zeros(9), rate, 16000)


def test_a_tensors_array_is_not_changed():
    samples = torch.full((9,), 4.0)
    to_mono(samples.numpy(), 16000, 16000)
    assert samples.tolist() == [4.0] * 9
