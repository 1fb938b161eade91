"""Files as people have them: odd headers, codecs without seeking, m4a and the like, silence."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sound_files import noise, sine, write

from vcrast.data import ffmpeg
from vcrast.data.audio import AudioFault, explain_suffixes, header, read_wav, sound_suffixes
from vcrast.data.cache import open_or_build
from vcrast.data.clip import Clip

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command")


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
    with pytest.raises(AudioFault, match=f"truncated: {2 * samples} of the {2 * samples + more} bytes"):
        read_wav(str(path), sample_rate=16000)


def test_a_header_that_counts_nothing_reads_to_the_end(tmp_path: Path) -> None:
    samples = np.rint(10000 * noise(3000))
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(samples, 0))
    np.testing.assert_array_equal(read_wav(str(path), sample_rate=16000), samples.astype(np.float32) / 32768)
    assert header(str(path)) == (16000, 3000)
    path.write_bytes(wav_bytes(np.zeros(0), 0))
    with pytest.raises(AudioFault, match="no samples"):
        read_wav(str(path), sample_rate=16000)


# --- codecs that cannot seek


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "IMA_ADPCM", "MS_ADPCM", "ULAW"])
def test_part_of_a_file_is_that_part_of_the_whole(tmp_path: Path, subtype: str) -> None:
    path = write(tmp_path / "a.wav", sine(8000, seconds=1.0), 8000, subtype=subtype)
    whole = read_wav(path, sample_rate=8000)
    np.testing.assert_array_equal(whole, sf.read(path, dtype="float32")[0])
    np.testing.assert_array_equal(read_wav(path, sample_rate=8000, start_s=0.3, duration_s=0.2), whole[2400:4000])


def test_kinds_that_are_listed_are_read(tmp_path: Path) -> None:
    for suffix, format_name in {
        ".aifc": "AIFF",
        ".snd": "AU",
        ".rf64": "RF64",
        ".bwf": "WAV",
        ".sph": "NIST",
        ".voc": "VOC",
    }.items():
        assert suffix in sound_suffixes()
        path = write(tmp_path / f"a{suffix}", noise(500), format=format_name, subtype="PCM_16")
        assert len(read_wav(path, sample_rate=16000)) == 500


# --- through ffmpeg


@pytest.fixture(scope="module")
def m4a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m4a")
    left, right = sine(44100, seconds=1.5, hz=300.0), sine(44100, seconds=1.5, hz=1200.0, level=0.2)
    write(folder / "a.wav", np.stack([left, right], axis=1), 44100)
    path = folder / "-a: 100% ü.m4a"
    command = ["ffmpeg", "-v", "error", "-i", str(folder / "a.wav"), "-b:a", "192k", f"file:{path}"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


@needs_ffmpeg
def test_m4a_is_what_went_into_it(m4a: Path) -> None:
    wav = read_wav(str(m4a), sample_rate=44100)
    expected = read_wav(str(m4a.parent / "a.wav"), sample_rate=44100)
    assert abs(len(wav) - len(expected)) <= 2048, "a frame of AAC holds 1,024 samples"
    middle = slice(10000, 50000)
    assert np.abs(wav[middle] - expected[middle]).mean() < 0.01
    assert header(str(m4a))[0] == 44100
    assert header(str(m4a))[1] == pytest.approx(len(wav), abs=2048)


@needs_ffmpeg
def test_part_of_an_m4a_is_that_part_of_the_whole(m4a: Path) -> None:
    whole = read_wav(str(m4a), sample_rate=44100)
    part = read_wav(str(m4a), sample_rate=44100, start_s=0.4, duration_s=0.6)
    np.testing.assert_array_equal(part, whole[round(0.4 * 44100) : round(0.4 * 44100) + round(0.6 * 44100)])
    with pytest.raises(AudioFault, match="starts at 9 s, but the file ends before"):
        read_wav(str(m4a), sample_rate=44100, start_s=9.0)


@needs_ffmpeg
def test_m4a_in_blocks_equals_one_block(m4a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_wav(str(m4a), sample_rate=44100)
    monkeypatch.setattr(ffmpeg, "BLOCK_BYTES", 8 * 777)
    np.testing.assert_array_equal(read_wav(str(m4a), sample_rate=44100), whole)


@needs_ffmpeg
def test_a_damaged_m4a_is_a_fault(m4a: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "b.m4a"
    damaged.write_bytes(m4a.read_bytes()[:4000])
    with pytest.raises(AudioFault, match="cannot be decoded"):
        read_wav(str(damaged), sample_rate=16000)
    damaged.write_text("no sound at all")
    with pytest.raises(AudioFault, match="cannot be decoded"):
        header(str(damaged))


def test_without_a_decoder_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "decoder", lambda: None)
    path = tmp_path / "a.m4a"
    path.write_bytes(b"anything")
    with pytest.raises(
        AudioFault, match=r"needs ffmpeg \(apt install ffmpeg, brew install ffmpeg\) or `pip install torchcodec`"
    ):
        read_wav(str(path), sample_rate=16000)
    assert ".m4a" not in sound_suffixes()
    assert explain_suffixes([".m4a"]).startswith(".m4a needs ffmpeg")
    assert "ffmpeg -i IN.dss OUT.flac" in explain_suffixes([".dss"])


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
