import multiprocessing
import os
import pickle
import struct
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from sound_files import cut, noise, sine, without_length, write

from vcrast.data import audio
from vcrast.data.audio import AudioFault, read_wav


def reason(path, **options):
    with pytest.raises(AudioFault) as caught:
        read_wav(str(path), sample_rate=16000, **options)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    return caught.value.reason


def frequency_and_level(wav, rate):
    """Of the loudest partial, from the middle of the clip; a Hann window and the exact bin of a whole-Hz sine."""
    middle = wav[len(wav) // 4 : len(wav) // 4 + rate // 2]
    window = np.hanning(len(middle))
    spectrum = np.abs(np.fft.rfft(middle * window))
    return spectrum.argmax() * rate / len(middle), 2 * spectrum.max() / window.sum()


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_resampling_keeps_frequency_level_and_length(tmp_path, rate):
    path = write(tmp_path / "a.wav", sine(rate, seconds=2.0), rate)
    wav = read_wav(path, sample_rate=16000)
    hz, level = frequency_and_level(wav, 16000)
    assert abs(len(wav) - 32000) <= 1
    assert hz == pytest.approx(440, abs=2)
    assert level == pytest.approx(0.5, rel=1e-3)


def test_resampling_removes_what_the_new_rate_cannot_hold(tmp_path):
    path = write(tmp_path / "a.wav", sine(48000, hz=11_000) + sine(48000, hz=1000, level=0.01), 48000)
    assert frequency_and_level(read_wav(path, sample_rate=16000), 16000)[0] == pytest.approx(1000, abs=2)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_formats(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", sine(44100, seconds=2.0), 44100)
    wav = read_wav(path, sample_rate=44100)
    hz, level = frequency_and_level(wav, 44100)
    assert wav.dtype == np.float32
    assert len(wav) == 88200
    assert hz == pytest.approx(440, abs=2)
    assert level == pytest.approx(0.5, rel=0.02)


def test_16_bit_wav_is_exact(tmp_path):
    wav = np.round(noise(1000) * 32768) / 32768
    np.testing.assert_array_equal(read_wav(write(tmp_path / "a.wav", wav), sample_rate=16000), wav.astype(np.float32))


def test_stereo_with_a_silent_left_channel_is_averaged(tmp_path):
    right = sine(16000)
    path = write(tmp_path / "a.wav", np.stack([np.zeros_like(right), right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(read_wav(path, sample_rate=16000), right / 2, atol=1e-7)


def test_six_channels_are_averaged(tmp_path):
    wav = noise(600).reshape(100, 6)
    path = write(tmp_path / "a.wav", wav, subtype="FLOAT")
    np.testing.assert_allclose(read_wav(path, sample_rate=16000), wav.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("length", [1, 399, 400])
def test_short_files_are_read(tmp_path, rate, length):
    wav = read_wav(write(tmp_path / "a.wav", noise(length), rate), sample_rate=16000)
    assert len(wav) == max(1, round(length * 16000 / rate))
    assert np.isfinite(wav).all()


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_stretch_of_a_file(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", noise(32000))
    whole = read_wav(path, sample_rate=16000)
    part = read_wav(path, sample_rate=16000, start_s=0.5, duration_s=0.25)
    np.testing.assert_allclose(part, whole[8000:12000], atol=1e-6)
    np.testing.assert_allclose(read_wav(path, sample_rate=16000, start_s=1.5), whole[24000:], atol=1e-6)


def test_stretch_that_ends_behind_the_file_is_shorter(tmp_path):
    path = write(tmp_path / "a.wav", noise(16000))
    assert len(read_wav(path, sample_rate=16000, start_s=0.75, duration_s=1.0)) == 4000


def test_stretch_that_begins_behind_the_file(tmp_path):
    assert "starts at 1 s" in reason(write(tmp_path / "a.wav", noise(16000)), start_s=1.0)


def test_missing_empty_and_text_files(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is not a sound\n" * 20)
    assert reason(tmp_path / "absent.wav") == "missing file"
    assert reason(tmp_path / "empty.wav") == "empty file"
    assert "cannot be decoded" in reason(tmp_path / "text.wav")
    assert reason(tmp_path).startswith(("cannot be", "empty"))


def test_zero_samples(tmp_path):
    assert reason(write(tmp_path / "a.wav", np.zeros(0, np.float32))) == "no samples"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, bad):
    wav = noise(1000)
    wav[[3, 500]] = bad
    assert reason(write(tmp_path / "a.wav", wav, subtype="FLOAT")) == "2 NaN or infinite samples"


def test_silence_and_what_is_not_yet_silence(tmp_path):
    assert "silent" in reason(write(tmp_path / "a.wav", np.zeros(1000, np.float32)))
    assert "silent" in reason(write(tmp_path / "b.wav", np.full(1000, 1e-6, np.float32), subtype="FLOAT"))
    assert len(read_wav(write(tmp_path / "c.wav", np.full(1000, 1 / 32768, np.float32)), sample_rate=16000)) == 1000


@pytest.mark.parametrize("fraction", [0.5, 0.9])
@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_truncated_files_are_refused(tmp_path, ending, fraction):
    # Not periodic: the codec must spend bytes on all of it.
    path = cut(write(tmp_path / f"a.{ending}", noise(44100 * 2), 44100), fraction)
    assert reason(path).startswith(("truncated", "cannot be decoded"))


def test_truncated_opus_is_refused(tmp_path):
    path = cut(write(tmp_path / "a.ogg", noise(48000 * 3), 48000, format="OGG", subtype="OPUS"), 0.9)
    assert "truncated" in reason(path)


def test_truncated_wav_names_both_sizes(tmp_path):
    path = cut(write(tmp_path / "a.wav", noise(1000)), 0.5)  # 44 bytes of header, 2000 of samples; 1022 remain
    assert reason(path) == "truncated: 0.032 of 0.062 s missing, 978 of the 2000 bytes that its header declares"


def test_wav_with_chunks_around_its_samples(tmp_path):
    wav = Path(write(tmp_path / "a.wav", noise(1000))).read_bytes()
    chunk = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"  # odd length: one byte of padding
    data = wav[:36] + chunk + wav[36:] + chunk
    path = tmp_path / "b.wav"
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    assert len(read_wav(str(path), sample_rate=16000)) == 1000
    path.write_bytes(path.read_bytes()[:-500])
    assert "truncated" in reason(path)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_wav_from_a_pipe_declares_no_length(tmp_path, size):
    wav = Path(write(tmp_path / "a.wav", noise(1000))).read_bytes()
    path = tmp_path / "b.wav"
    path.write_bytes(wav[:4] + struct.pack("<I", size) + wav[8:40] + struct.pack("<I", size) + wav[44:])
    assert len(read_wav(str(path), sample_rate=16000)) == 1000


def test_flac_of_unknown_length_needs_ffmpeg(tmp_path, no_ffmpeg):
    path = without_length(write(tmp_path / "a.flac", noise(5000)))
    assert sf.info(path).frames > 2**62
    assert "declares no length" in reason(path)


def fail(path):
    return read_wav(path, sample_rate=16000)


def test_fault_survives_pickling_and_a_worker(tmp_path):
    fault = pickle.loads(pickle.dumps(AudioFault("a.wav", "silent")))
    assert (fault.path, fault.reason, str(fault)) == ("a.wav", "silent", "a.wav: silent")
    (tmp_path / "a.wav").write_text("no sound")
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        pytest.raises(AudioFault, match=r"a\.wav: cannot be decoded"),
    ):
        pool.submit(fail, str(tmp_path / "a.wav")).result()


def test_reader_table(monkeypatch):
    monkeypatch.setitem(audio.READERS, "ramp", lambda path, rate: np.arange(1, rate + 1, dtype=np.float32) / rate)
    wav = read_wav("ramp://x", sample_rate=1000, start_s=0.5, duration_s=0.1)
    np.testing.assert_allclose(wav, np.arange(501, 601) / 1000, rtol=1e-6)
    assert "no reader for nothing://" in reason("nothing://x")


def test_real_clips(esc10_root):
    paths = sorted((Path(esc10_root) / "audio").iterdir())[:40]
    for path in paths:
        wav = read_wav(str(path), sample_rate=16000)
        assert 3.5 < len(wav) / 16000 < 7.3
        assert np.abs(wav).max() <= 1.2


def test_unreadable_by_permission(tmp_path):
    path = Path(write(tmp_path / "a.wav", noise(100)))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "cannot be" in reason(path)
