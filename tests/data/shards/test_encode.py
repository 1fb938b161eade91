"""The bytes of encoded clips."""

import io

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_files import noise

from vcrast.data.shards.encode import check_codec, encode, with_serial


def checksum(page):
    """Ogg's, bit by bit: polynomial 0x04c11db7, nothing before or after."""
    found = 0
    for byte in page:
        found ^= byte << 24
        for _ in range(8):
            found = ((found << 1) ^ (0x04C11DB7 if found >> 31 else 0)) & 0xFFFFFFFF
    return found


def pages(ogg):
    start = 0
    while start < len(ogg):
        lengths = ogg[start + 27 : start + 27 + ogg[start + 26]]
        end = start + 27 + len(lengths) + sum(lengths)
        yield bytearray(ogg[start:end])
        start = end


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30_000))
def test_pages_get_the_serial_number_and_its_checksum(serial, length):
    found = list(pages(with_serial(encode(noise(length), 16000, "opus"), serial)))
    assert len(found) >= 3
    for page in found:
        assert int.from_bytes(page[14:18], "little") == serial
        told = int.from_bytes(page[22:26], "little")
        page[22:26] = bytes(4)
        assert checksum(page) == told


def test_opus_sounds_as_soundfile_writes_it_and_has_the_same_bytes_each_time():
    wav = noise(24_001) * np.linspace(0, 1, 24_001, dtype=np.float32)
    first = encode(wav, 16000, "opus")
    assert first == encode(wav, 16000, "opus")
    other = io.BytesIO()
    sf.write(other, wav, 16000, format="OGG", subtype="OPUS")
    decoded = [sf.read(io.BytesIO(content))[0] for content in (first, other.getvalue())]
    np.testing.assert_array_equal(*decoded)
    assert len(decoded[0]) == len(wav)


@pytest.mark.parametrize("codec", ["flac", "wav"])
@pytest.mark.parametrize("rate", [16000, 44100, 250_000])
def test_flac_and_wav_hold_the_16_bits_that_the_cache_holds(rate, codec):
    wav = np.concatenate([noise(999), np.float32([1.0, -1.0, 0.99999, 1.5 / 32768, 2.5 / 32768])])
    decoded, found = sf.read(io.BytesIO(encode(wav, rate, codec)), dtype="int16")
    assert found == rate
    np.testing.assert_array_equal(decoded, np.clip(np.rint(wav * 32768.0), -32768, 32767))


@pytest.mark.parametrize(("codec", "rate", "told"), [("mp3", 16000, "mp3.*flac"), ("opus", 44100, "44100.*flac")])
def test_what_cannot_be_written_is_refused(codec, rate, told):
    with pytest.raises(ValueError, match=told):
        check_codec(codec, rate)
