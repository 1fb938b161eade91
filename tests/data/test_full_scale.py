"""Samples beyond 1: one rule for files, cached or not, whole or in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sound_files import noise, write

from vcrast.data.audio import AudioFault, read_wav
from vcrast.data.cache import open_or_build
from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus
from vcrast.data.dataset import ClipDataset
from vcrast.data.full_scale import full_scale, to_full_scale
from vcrast.data.remarks import left_out, scaled


@pytest.mark.parametrize(
    ("peak", "scale"),
    [(0.0, 1), (1.0, 1), (1.0001, 2), (2.0, 2), (31.9, 32), (33.0, 2**15), (32768.0, 2**15), (33000.0, 2**16),
     (8e6, 2**23), (2.0**31, 2**31), (float("nan"), 1)],
)  # fmt: skip
def test_full_scale_by_hand(peak: float, scale: float) -> None:
    assert full_scale(peak) == scale


def test_larger_than_any_full_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"6e\+09, which is no full scale"):
        full_scale(6e9)
    path = write(tmp_path / "a.wav", 2e10 * noise(500), subtype="FLOAT")
    with pytest.raises(AudioFault, match="no full scale"):
        read_wav(path, sample_rate=16000)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20), st.integers(-5, 31))
def test_nothing_is_rounded_and_all_lie_within_1(values: list[float], power: int) -> None:
    wav = np.asarray(values, np.float32) * np.float32(2.0**power)
    samples, scale = to_full_scale(wav)
    assert np.abs(samples).max() <= 1
    np.testing.assert_allclose(samples * np.float32(scale), wav, rtol=0, atol=1e-30)  # but for denormals


def test_integers_in_a_float_file_are_what_they_are_in_an_integer_file(tmp_path: Path) -> None:
    integers = np.rint(20000 * noise(4000)).astype(np.int16)
    whole = read_wav(write(tmp_path / "int.wav", integers), sample_rate=16000)
    path = write(tmp_path / "float.wav", integers.astype(np.float32), subtype="FLOAT")
    np.testing.assert_array_equal(read_wav(path, sample_rate=16000), whole)
    store = open_or_build(
        [Clip(path, (0,))], sample_rate=16000, cache_dir=tmp_path / "c", num_workers=0, max_bad_fraction=0
    )
    np.testing.assert_array_equal(store.read(0), whole)
    assert [(clip.path, scale) for clip, scale in store.scaled] == [(path, 32768.0)]
    assert scaled(store.scaled) == f"1 clips of float files reach beyond 1 and were divided (1 by 32768), first {path}"
    again = open_or_build(
        [Clip(path, (0,))], sample_rate=16000, cache_dir=tmp_path / "c", num_workers=0, max_bad_fraction=0
    )
    assert again.scaled == store.scaled, "said by every run, not by the one alone that decoded"


def test_every_part_of_a_file_has_the_scale_of_the_whole(tmp_path: Path) -> None:
    wav = np.concatenate([0.001 * noise(8000), 3 * noise(8000, seed=1)])  # the first half would pass for full scale
    path = write(tmp_path / "a.wav", wav, subtype="FLOAT")
    whole = read_wav(path, sample_rate=16000)
    np.testing.assert_array_equal(whole, wav / 2)
    np.testing.assert_array_equal(read_wav(path, sample_rate=16000, duration_s=0.25), whole[:4000])
    write(path, np.concatenate([wav, 30 * noise(100)]), subtype="FLOAT")
    np.testing.assert_array_equal(read_wav(path, sample_rate=16000, duration_s=0.25), wav[:4000] / 16)


def test_what_a_codec_or_the_resampler_puts_beyond_1_is_clipped(tmp_path: Path) -> None:
    square = np.sign(np.sin(2 * np.pi * 333 * np.arange(44100) / 44100)).astype(np.float32)
    for name in ("a.mp3", "a.ogg", "a.wav"):
        wav = read_wav(write(tmp_path / name, square, 44100), sample_rate=16000)
        assert np.abs(wav).max() == 1.0, "a square wave rings over its edges"


def test_the_class_that_lost_all_its_clips_is_named() -> None:
    clips = [Clip(f"{i}.wav", (i % 3,)) for i in range(7)]
    corpus = Corpus("toy", tuple(clips), ("cat", "dog", "rain"), False, ())
    assert left_out(corpus, []) is None
    text = left_out(corpus, [(clips[1], "empty file"), (clips[4], "silent"), (clips[0], "empty file")])
    assert text is not None
    assert text.splitlines() == ["3 of 7 clips left out, all of class dog", "  1.wav: empty file", "  4.wav: silent",
                                 "  0.wav: empty file"]  # fmt: skip
    few = left_out(corpus, [(clips[0], "empty file")])
    assert few is not None
    assert few.splitlines()[0] == "1 of 7 clips left out (1 of 3 of cat)"


def test_without_a_cache_each_scale_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gains = (3, 3, 20000, 1)
    paths = [write(tmp_path / f"{i}.wav", gain * noise(500), subtype="FLOAT") for i, gain in enumerate(gains)]
    dataset = ClipDataset(
        [Clip(path, (0,)) for path in paths], num_classes=1, sample_rate=16000, clip_duration_s=0.1, pad="silence",
        store=None, seed=0,
    )  # fmt: skip
    for _ in range(2):
        for index in range(4):
            wav = dataset[index, -1].wav
            assert wav[:500].tolist() == pytest.approx((noise(500) * gains[index] / (2, 2, 2**15, 1)[index]).tolist())
    assert [record.getMessage() for record in caplog.records] == [
        f"data: {paths[0]} reaches beyond 1; it and others like it are divided by 2",
        f"data: {paths[2]} reaches beyond 1; it and others like it are divided by 32768",
    ]
