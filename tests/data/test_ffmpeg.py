"""Files that ffmpeg decodes: whole, in parts, cut, dressed up, and without ffmpeg."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sound_files import cut, noise, sine, without_length, write

from vcrast.data import ffmpeg, ffmpeg_libraries, ffmpeg_pipe
from vcrast.data.audio import AudioFault, explain_suffixes, header, read_scaled, read_wav, sound_suffixes

needs_ffmpeg = pytest.mark.skipif(not ffmpeg_pipe.is_installed(), reason="needs the ffmpeg command")
RATE = 16000
LENGTH = 48000
Make = Callable[..., str]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Encode three seconds of noise, or given samples, to a file of some name; each once."""
    folder = tmp_path_factory.mktemp("encoded")

    def encode(name: str, *options: str, wav: np.ndarray | None = None) -> str:
        source = write(folder / f"{name}.wav", noise(LENGTH) if wav is None else wav, RATE, subtype="FLOAT")
        command = ["ffmpeg", "-y", "-v", "error", "-i", f"file:{source}", *options, f"file:{folder / name}"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return str(folder / name)

    return encode


@pytest.fixture(scope="module")
def m4a(make: Make) -> str:
    return make("-a: 100% ü.m4a", "-b:a", "96k")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that a decoder was started for."""
    paths: list[str] = []
    start = ffmpeg_pipe.Decoder

    def counted(path: str) -> ffmpeg_pipe.Decoder:
        paths.append(path)
        return start(path)

    ffmpeg.forget()
    monkeypatch.setattr(ffmpeg_pipe, "Decoder", counted)
    return paths


def read(path: str, start: int = 0, stop: int | None = None) -> np.ndarray:
    duration_s = None if stop is None else (stop - start) / RATE
    return read_wav(path, sample_rate=RATE, start_s=start / RATE, duration_s=duration_s)


# --- what comes out


@needs_ffmpeg
def test_stereo_m4a_is_what_went_into_it(make: Make) -> None:
    left, right = sine(RATE, seconds=3.0, hz=300.0), sine(RATE, seconds=3.0, hz=1200.0, level=0.2)
    path = make("stereo.m4a", "-b:a", "160k", wav=np.stack([left, right], axis=1))
    wav = read(path)
    assert 0 <= len(wav) - LENGTH <= 1024, "a packet of AAC holds 1,024 samples, and the encoder's delay is cut off"
    assert np.abs(wav[:LENGTH] - (left + right) / 2)[4000:-4000].max() < 0.01
    assert header(path) == (RATE, LENGTH)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mka", "flac"), ("a.mov", "pcm_s16le"), ("alac.m4a", "alac"), ("a.wv", "wavpack")],
)
def test_lossless_containers_hold_what_a_wav_file_holds(make: Make, tmp_path: Path, name: str, codec: str) -> None:
    samples = np.rint(noise(LENGTH) * 32768) / 32768
    path = make(name, "-c:a", codec, wav=samples.astype(np.float32))
    np.testing.assert_array_equal(read(path), samples.astype(np.float32))
    assert header(path) == (RATE, LENGTH)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.webm", "a.wma", "a.ac3", "a.mp4", "a.mp2"])
def test_usual_kinds_are_read(make: Make, name: str) -> None:
    wav = read_wav(make(name, wav=sine(RATE, seconds=3.0)), sample_rate=RATE)
    assert name[1:] in sound_suffixes()
    assert len(wav) == pytest.approx(LENGTH, abs=2500)
    spectrum = np.abs(np.fft.rfft(wav[8000:24000] * np.hanning(16000)))
    assert (spectrum.argmax(), 2 * spectrum.max() / 8000) == (440, pytest.approx(0.5, rel=0.03))


@needs_ffmpeg
def test_floats_beyond_1_are_divided_as_those_of_a_wav_file(make: Make) -> None:
    wav = np.concatenate([0.5 * noise(LENGTH // 2), 6.0 * noise(LENGTH // 2, seed=1)]).astype(np.float32)
    path = make("hot.mov", "-c:a", "pcm_f32le", wav=wav)
    samples, _, scale = read_scaled(path, sample_rate=RATE)
    assert scale == 4.0
    np.testing.assert_array_equal(samples, wav / 4)
    np.testing.assert_array_equal(read(path, 800, 1600), wav[800:1600] / 4)


@needs_ffmpeg
def test_what_ffmpeg_reads_under_another_name(make: Make, m4a: str, tmp_path: Path) -> None:
    for name in ("a.wav", "a.mp3"):
        shutil.copy(m4a, tmp_path / name)
        np.testing.assert_array_equal(read(str(tmp_path / name)), read(m4a))
    path = without_length(write(tmp_path / "a.flac", np.rint(noise(5000) * 32768) / 32768))
    np.testing.assert_array_equal(read(path), (np.rint(noise(5000) * 32768) / 32768).astype(np.float32))
    assert header(path) == (RATE, 5000)


@needs_ffmpeg
def test_a_kind_that_declares_no_length_is_counted(make: Make) -> None:
    path = make("guess.aac", "-b:a", "24k", wav=np.concatenate([noise(8000), np.zeros(LENGTH, np.float32)]))
    assert header(path) == (RATE, len(read(path)))


# --- parts


@needs_ffmpeg
@pytest.mark.parametrize(("name", "codec"), [("parts.m4a", "aac"), ("parts.mka", "libvorbis")])
def test_a_part_is_that_part_of_the_whole_in_any_order(make: Make, name: str, codec: str) -> None:
    path = make(name, "-c:a", codec)
    whole = read(path)
    for start, stop in ((0, 400), (400, 801), (700, 5000), (20000, 20001), (16000, 24000), (47000, None), (0, 90000)):
        np.testing.assert_array_equal(read(path, start, stop), whole[start:stop])
    with pytest.raises(AudioFault, match=f"starts at 9 s, but the file has {len(whole) / RATE:.3f} s"):
        read(path, 9 * RATE)


@needs_ffmpeg
def test_clips_of_one_recording_in_order_are_one_decoding(m4a: str, started: list[str]) -> None:
    whole = read(m4a)
    for start in range(0, 40000, 4000):  # half of each is in the one before
        np.testing.assert_array_equal(read(m4a, start, start + 8000), whole[start : start + 8000])
    assert started == [m4a, m4a], "one for the whole, one for all parts"
    read(m4a, 0, 8000)
    assert len(started) == 3


@needs_ffmpeg
def test_blocks_do_not_show(m4a: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, part = read(m4a), read(m4a, 3000, 9001)
    monkeypatch.setattr(ffmpeg, "BLOCK_FRAMES", 777)
    ffmpeg.forget()
    np.testing.assert_array_equal(read(m4a), whole)
    np.testing.assert_array_equal(read(m4a, 3000, 9001), part)


# --- what is refused


@needs_ffmpeg
@pytest.mark.parametrize("name", ["cut.webm", "cut.m4a", "cut.wma"])
def test_a_file_that_was_cut_is_refused(make: Make, name: str) -> None:
    path = make(name, *(("-movflags", "+faststart") if name.endswith("m4a") else ()))
    assert len(read(path)) > LENGTH - 2500
    with pytest.raises(AudioFault, match=r"truncated: 1\.\d* of 3\.\d* s missing|cannot be decoded"):
        read(cut(path, 0.6))


@needs_ffmpeg
@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"]
)
def test_a_playlist_in_the_clothes_of_a_sound_leads_nowhere(m4a: str, tmp_path: Path, text: str) -> None:
    shutil.copy(m4a, tmp_path / "other.aac")
    path = tmp_path / "a.m4a"
    path.write_text(text.format("other.aac"))
    for look in (read, header):
        with pytest.raises(AudioFault, match="a playlist, or of a format that is not taken"):
            look(str(path))


@needs_ffmpeg
def test_files_without_sound_are_refused(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=size=16x16:duration=0.2", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    with pytest.raises(AudioFault, match="holds no sound"):
        read(str(path))
    path.write_text("no sound at all")
    with pytest.raises(AudioFault, match="cannot be decoded"):
        header(str(path))
    path.write_bytes(b"")
    with pytest.raises(AudioFault, match="empty file"):
        read(str(path))
    with pytest.raises(AudioFault, match="missing file"):
        read(str(tmp_path / "b.m4a"))


@needs_ffmpeg
def test_an_ffmpeg_that_hangs_is_ended(m4a: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header(m4a)
    ffmpeg.forget()
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(ffmpeg_pipe, "TIMEOUT_S", 0.2)
    with pytest.raises(AudioFault, match="ffmpeg gave nothing for"):
        read(m4a)


def test_without_a_decoder_the_message_says_what_to_install(tmp_path: Path, no_ffmpeg: None) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x1cftypM4A ")
    shutil.copy(path, tmp_path / "b.wav")
    for name in ("a.m4a", "b.wav"):
        for look in (read, header):
            with pytest.raises(AudioFault, match=r"needs ffmpeg \(apt install ffmpeg, brew install ffmpeg, conda inst"):
                look(str(tmp_path / name))
    assert ".m4a" not in sound_suffixes()
    assert explain_suffixes([".m4a"]).startswith(".m4a needs ffmpeg")
    assert "ffmpeg -i IN.dss OUT.flac" in explain_suffixes([".dss"])


@needs_ffmpeg
@settings(max_examples=7, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, derandomize=True)
@given(keep=st.floats(0.3, 1.0), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4))
def test_damaged_m4a_files_are_read_or_refused(
    m4a: str, tmp_path: Path, keep: float, flips: list[tuple[float, int]]
) -> None:
    whole = Path(m4a).read_bytes()
    content = bytearray(whole[: round(keep * len(whole))])
    for place, value in flips:
        content[int(place * len(content))] = value
    path = tmp_path / "damaged.m4a"
    path.write_bytes(content)
    try:
        wav = read(str(path))
    except AudioFault:
        return
    assert np.isfinite(wav).all()
    assert np.abs(wav).max() <= 1


# --- through torchcodec


@needs_ffmpeg
@pytest.mark.skipif(not ffmpeg_libraries.is_installed(), reason="needs torchcodec")
def test_torchcodec_hears_the_same(make: Make, m4a: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = [
        m4a,
        make("tc.webm"),
        make("tc.mka", "-c:a", "flac"),
        make("tc.aac"),
        make("tc.mov", "-c:a", "pcm_f32le", wav=3 * noise(900)),
    ]
    expected = [(read(path), read(path, 300, 800), header(path)) for path in paths]
    monkeypatch.setattr(ffmpeg, "decoder", lambda: "torchcodec")
    ffmpeg.forget()
    for each in (ffmpeg._probe, ffmpeg._scan):
        each.cache_clear()
    for path, (whole, part, about) in zip(paths, expected, strict=True):
        np.testing.assert_array_equal(read(path), whole)
        np.testing.assert_array_equal(read(path, 300, 800), part)
        assert header(path) == pytest.approx(about, abs=400)
    (tmp_path / "a.m4a").write_text("#EXTM3U\n")
    for name, message in (("a.m4a", "none of the formats"), ("a.wma", "none of the formats")):
        (tmp_path / name).write_text("#EXTM3U\n")
        with pytest.raises(AudioFault, match=message):
            read(str(tmp_path / name))
