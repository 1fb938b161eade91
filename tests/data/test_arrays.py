"""Sounds given as arrays: layouts by rule, integers and floats beyond 1 as from files."""

from __future__ import annotations

import numpy as np
import pytest

from vcrast.data.arrays import mono_clips

LONG = 5000


def ramp(*shape: int) -> np.ndarray:
    return np.linspace(-0.9, 0.9, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def test_one_axis_is_a_clip() -> None:
    clips, several, scale = mono_clips(ramp(LONG))
    assert (len(clips), several, scale) == (1, False, 1.0)
    np.testing.assert_array_equal(clips[0], ramp(LONG))


@pytest.mark.parametrize("channels", [1, 2, 6, 32])
def test_soundfiles_layout_is_one_sound_of_several_channels(channels: int) -> None:
    samples = ramp(LONG, channels)
    (clip,), several, _ = mono_clips(samples)
    assert not several
    np.testing.assert_allclose(clip, samples.astype(np.float64).mean(axis=1), atol=1e-7)


def test_rows_are_clips_when_they_cannot_be_channels() -> None:
    for rows in (1, 9, 40):
        clips, several, _ = mono_clips(ramp(rows, LONG))
        assert several
        np.testing.assert_array_equal(np.stack(clips), ramp(rows, LONG))


@pytest.mark.parametrize("rows", [2, 8])
def test_rows_that_may_be_either_are_refused_until_it_is_said(rows: int) -> None:
    samples = ramp(rows, LONG)
    with pytest.raises(ValueError, match=rf"\({rows}, 5000\) may be {rows} channels or {rows} clips: say layout="):
        mono_clips(samples)
    assert len(mono_clips(samples, "batch")[0]) == rows
    (clip,), several, _ = mono_clips(samples, "channels_first")
    assert not several
    np.testing.assert_allclose(clip, samples.mean(axis=0), atol=1e-7)


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (5, 0), (2, 3, 4)])
def test_shapes_that_are_no_sound_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="samples have shape"):
        mono_clips(np.zeros(shape, np.float32))


def test_too_many_channels_and_unknown_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 32 channels"):
        mono_clips(ramp(LONG, 40), "channels_last")
    with pytest.raises(ValueError, match="choose from batch, channels_first, channels_last"):
        mono_clips(ramp(LONG), "stereo")


def test_integers_are_what_files_hold() -> None:
    assert mono_clips(np.array([-32768, 0, 16384], np.int16))[0][0].tolist() == [-1.0, 0.0, 0.5]
    assert mono_clips(np.array([-(2**31), 2**30], np.int32))[0][0].tolist() == [-1.0, 0.5]
    assert mono_clips(np.array([0, 128, 192], np.uint8))[0][0].tolist() == [-1.0, 0.0, 0.5]
    with pytest.raises(ValueError, match="samples are int64: give floats"):
        mono_clips(np.array([1, 2]))


def test_floats_beyond_1_have_the_scale_of_a_file() -> None:
    clips, _, scale = mono_clips(np.array([30000.0, -3.0], np.float32))
    assert scale == 32768
    assert clips[0].tolist() == [30000 / 32768, -3 / 32768]
    with pytest.raises(ValueError, match="NaN or infinite"):
        mono_clips(np.array([0.0, np.inf], np.float32))
