"""Files as people have them: odd headers, codecs without seeking, silence, damage."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sound_files import noise, sine, write

from vcrast.data.audio import AudioFault, header, read_wav, sound_suffixes
from vcrast.data.cache import open_or_build
from vcrast.data.clip import Clip


def wav_bytes(samples: np.ndarray, declared: int) -> bytes:
    data = samples.astype("<i2").tobytes()
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + declared, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16, b"data", declared
    )
    return head + data


# --- headers


@pytest.mark.parametrize("more", [0, 2, 320])
def test_a_header_that_counts_a_little_too_much_is_no_fault(tmp_path: Path, more: int) -> None:
    samples = np.rint(10000 * noise(32000))
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(samples, 64000 + more))
    np.testing.assert_array_equal(read_wav(str(path), sample_rate=16000), samples.astype(np.float32) / 32768)


@pytest.mark.parametrize(("samples", "more"), [(32000, 322), (1000, 22)])
def test_a_header_that_counts_more_than_10_ms_or_1_percent_is_one(tmp_path: Path, samples: int, more: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(10000 * noise(samples), 2 * samples + more))
    missing = f"{more / 32000:.3f} of {(2 * samples + more) / 32000:.3f} s missing"
    with pytest.raises(AudioFault, match=f"truncated: {missing}, {2 * samples} of the {2 * samples + more} bytes"):
        read_wav(str(path), sample_rate=16000)


def test_a_header_that_counts_nothing_reads_to_the_end(tmp_path: Path) -> None:
    samples = np.rint(10000 * noise(3000))
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(samples, 0))
    np.testing.assert_array_equal(read_wav(str(path), sample_rate=16000), samples.astype(np.float32) / 32768)
    assert header(str(path)) == (16000, 3000)
    part = read_wav(str(path), sample_rate=16000, start_s=0.1, duration_s=0.05)
    np.testing.assert_array_equal(part, samples[1600:2400].astype(np.float32) / 32768)
    path.write_bytes(wav_bytes(np.zeros(3000), 0))
    assert len(read_wav(str(path), sample_rate=16000, keep_silent=True)) == 3000


@pytest.mark.parametrize(
    "behind", [b"", b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0"]
)
def test_what_stands_behind_no_samples_is_not_heard(tmp_path: Path, behind: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(np.zeros(0), 0) + behind)
    with pytest.raises(AudioFault, match="no samples"):
        read_wav(str(path), sample_rate=16000)


@pytest.mark.parametrize("suffix", [".au", ".snd", ".gsm", ".vox"])
def test_text_is_no_telephone_sound(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("libsndfile takes these for raw samples\n" * 200)
    with pytest.raises(AudioFault, match="no header that says what it is"):
        read_wav(str(path), sample_rate=16000)


def test_the_end_of_a_vorbis_file_is_that_of_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ogg", noise(16000 * 4), format="OGG", subtype="VORBIS")
    whole = read_wav(path, sample_rate=16000)
    for start in range(0, len(whole) - 400, 3200):
        part = read_wav(path, sample_rate=16000, start_s=start / 16000, duration_s=0.025)
        np.testing.assert_allclose(part, whole[start : start + 400], atol=1e-6)


# --- codecs that cannot seek


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "GSM610"), ("WAV", "G721_32"), ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("WAV", "ULAW"),
     ("WAV", "NMS_ADPCM_24"), ("AIFF", "GSM610"), ("AIFF", "IMA_ADPCM"), ("AU", "G723_40"), ("W64", "GSM610"),
     ("CAF", "ALAC_16"), ("VOC", "ALAW")],
)  # fmt: skip
def test_part_of_a_file_is_that_part_of_the_whole(tmp_path: Path, kind: str, subtype: str) -> None:
    path = write(tmp_path / f"a.{kind.lower()}", sine(8000, seconds=1.0), 8000, format=kind, subtype=subtype)
    whole = read_wav(path, sample_rate=8000)
    with sf.SoundFile(path) as file:
        np.testing.assert_array_equal(whole, file.read(file.frames, dtype="float32"))
    np.testing.assert_array_equal(read_wav(path, sample_rate=8000, start_s=0.3, duration_s=0.2), whole[2400:4000])


def test_kinds_that_are_listed_are_read(tmp_path: Path) -> None:
    for suffix, format_name in {
        ".aifc": "AIFF",
        ".snd": "AU",
        ".rf64": "RF64",
        ".bwf": "WAV",
        ".sph": "NIST",
        ".voc": "VOC",
        ".nist": "NIST",
        ".wave": "WAVEX",
    }.items():
        assert suffix in sound_suffixes()
        path = write(tmp_path / f"a{suffix}", noise(500), format=format_name, subtype="PCM_16")
        assert len(read_wav(path, sample_rate=16000)) == 500


# --- silence


def test_silence_is_a_fault_unless_it_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros(4000, np.float32))
    with pytest.raises(AudioFault, match=r"silent: every sample is 0; data\.keep_silent=true takes it for a sound"):
        read_wav(path, sample_rate=16000)
    assert not read_wav(path, sample_rate=16000, keep_silent=True).any()
    options = {"sample_rate": 16000, "cache_dir": tmp_path / "c", "num_workers": 0, "max_bad_fraction": 0.9}
    clips = [Clip(path, (0,)), Clip(write(tmp_path / "b.wav", noise(300)), (1,))]
    assert len(open_or_build(clips, **options).faults) == 1
    assert not open_or_build(clips, keep_silent=True, **options).faults, "another cache than that without silence"


# --- anything at all


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["wav", "flac", "ogg", "mp3"]), keep=st.floats(0.0, 1.0),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
)  # fmt: skip
def test_damaged_files_are_read_or_refused_and_nothing_else(
    tmp_path: Path, kind: str, keep: float, flips: list[tuple[float, int]]
) -> None:
    whole = Path(write(tmp_path / f"whole.{kind}", sine(16000, seconds=0.3))).read_bytes()
    content = bytearray(whole[: max(1, round(keep * len(whole)))])
    for place, value in flips:
        content[int(place * len(content))] = value
    path = tmp_path / f"damaged.{kind}"
    path.write_bytes(content)
    try:
        wav = read_wav(str(path), sample_rate=16000)
    except AudioFault:
        return
    assert np.isfinite(wav).all()
    assert np.abs(wav).max() <= 1
