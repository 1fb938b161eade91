"""Sounds inside larger files: the samples as outside, faults found, any format."""

import io
import pickle
import zlib

import numpy as np
import pytest
import soundfile as sf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sound_files import noise, sine

from vcrast.data import audio, members, sndfile
from vcrast.data.audio import AudioFault, header, read_wav
from vcrast.data.members import Members, address, file_of, name_of
from vcrast.data.remote import RemoteFiles

FORMATS = {
    "wav": {"format": "WAV"}, "float": {"format": "WAV", "subtype": "FLOAT"}, "flac": {"format": "FLAC"},
    "ogg": {"format": "OGG"}, "opus": {"format": "OGG", "subtype": "OPUS"}, "mp3": {"format": "MP3"},
}  # fmt: skip
SECONDS = 13.0


def assert_same(found, wanted, name):
    """Equal to the bit; mpg123 rounds an MP3's floats up or down from one call to the next."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-7 if name == "mp3" else 0)


@pytest.fixture(autouse=True)
def reader(tmp_path, monkeypatch):
    monkeypatch.setitem(audio.MEMBERS, members.SCHEME, Members(RemoteFiles(tmp_path / "copies", 1)))


def encoded(name, wav, rate=16000):
    file = io.BytesIO()
    sf.write(file, wav, rate, **FORMATS[name])
    return file.getvalue()


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A file with a sound of each format, others around; and the addresses."""
    path = tmp_path_factory.mktemp("packed") / "all.bin"
    wav = (sine(16000, seconds=SECONDS) * np.linspace(0.1, 1, 208_000) + 0.3 * noise(208_000)).astype(np.float32)
    content, places = b"before", {}
    for name in FORMATS:
        sound = encoded(name, wav)
        places[name] = address(len(content), len(sound), zlib.crc32(sound), f"a/{name}", str(path)), sound
        content += sound + b"between"
    path.write_bytes(content)
    return places


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12)
@given(st.floats(0, SECONDS - 0.2), st.none() | st.floats(0.01, 3))
@example(4.9375, None)  # within an MP3's frame, behind which libsndfile's next read is another
def test_a_window_is_that_slice_of_the_whole(packed, large, name, start_s, duration_s):
    place, sound = packed[name]
    whole, rate = sf.read(io.BytesIO(sound), dtype="float32")
    first = round(start_s * rate)
    wanted = whole[first : None if duration_s is None else first + max(1, round(duration_s * rate))]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(members, "WHOLE_BYTES", 0 if large else 1 << 22)
        found = read_wav(place, sample_rate=16000, start_s=start_s, duration_s=duration_s, keep_silent=True)
        assert header(place) == (rate, len(whole))
    assert_same(found, np.clip(wanted, -1, 1), name)


@pytest.mark.parametrize("name", ["flac", "ogg", "opus", "mp3"])
def test_a_window_of_a_file_is_that_slice_of_the_whole_file(packed, tmp_path, name):
    """Whatever libsndfile's seek does: right behind it an MP3's samples are others by up to full scale."""
    path = tmp_path / f"a.{name}"
    path.write_bytes(packed[name][1])
    whole = read_wav(str(path), sample_rate=16000)
    for first in (*range(16000, 200_000, 16000), *range(577, 200_000, 11_111)):
        part = read_wav(str(path), sample_rate=16000, start_s=first / 16000, duration_s=0.25, keep_silent=True)
        assert_same(part, whole[first : first + 4000], name)


def test_blocks_join_to_the_whole(packed, tmp_path, monkeypatch):
    path = tmp_path / "a.mp3"
    path.write_bytes(packed["mp3"][1])
    whole, rate = sf.read(path, dtype="float32")
    assert sndfile.BLOCK_FRAMES % sndfile.CODEC_FRAME == 0
    monkeypatch.setattr(sndfile, "BLOCK_FRAMES", 3 * sndfile.CODEC_FRAME)
    assert_same(read_wav(str(path), sample_rate=rate), np.clip(whole, -1, 1), "mp3")


def test_names_and_files_of_an_address():
    place = address(3, 4, None, "a::b/c.wav", "https://host/x::y.tar")
    assert place == "tar://3+4/a:b/c.wav::https://host/x::y.tar"
    assert (file_of(place), name_of(place)) == ("https://host/x::y.tar", "a:b/c.wav")


@pytest.mark.parametrize("large", [False, True])
def test_faults_name_the_clip(packed, tmp_path, monkeypatch, large):
    sound = packed["flac"][1]
    path = tmp_path / "one.tar"
    path.write_bytes(sound)
    good = address(0, len(sound), zlib.crc32(sound), "dog.flac", str(path))
    assert len(read_wav(good, sample_rate=16000)) == 208_000
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    if not large:
        with pytest.raises(AudioFault, match=r"dog.flac.*checksum"):
            read_wav(good, sample_rate=16000)
    monkeypatch.setattr(members, "WHOLE_BYTES", 0 if large else 1 << 22)
    path.write_bytes(sound[:-1])
    with pytest.raises(AudioFault, match="truncated"):
        read_wav(good, sample_rate=16000)
    path.unlink()
    with pytest.raises(AudioFault, match="missing file"):
        read_wav(good, sample_rate=16000)
    with pytest.raises(AudioFault, match="expected tar://"):
        read_wav("tar://one/two::three", sample_rate=16000)


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    for number in range(3):
        sound = encoded("wav", noise(100, number))
        (tmp_path / "new").write_bytes(sound)
        (tmp_path / "new").replace(tmp_path / "a.tar")
        place = address(0, len(sound), zlib.crc32(sound), "a", str(tmp_path / "a.tar"))
        np.testing.assert_allclose(read_wav(place, sample_rate=16000), noise(100, number), atol=2**-15)


def test_it_is_sent_to_other_processes(tmp_path):
    reader = Members(RemoteFiles(tmp_path, 5))
    assert pickle.loads(pickle.dumps(reader)) == reader


@pytest.mark.parametrize("name", ["a:::b.wav", "::a::", "a:", ":", "a/b c.wav", ""])
@pytest.mark.parametrize("file", ["/x/a.tar", "/x/a::b.tar", "s3://x/a.tar"])
def test_a_name_never_ends_early(name, file):
    path = address(1, 2, None, name, file)
    assert file_of(path) == file
    assert name_of(path).replace(":", "") == name.replace(":", "")
