"""Find sound files that are shorter than their header says.

libsndfile quietly shortens WAV, AIFF and Ogg files to what is there, and the length that it reports with them: a
download that broke off would train as a clip with less sound. No library at hand reports it, so the containers' own
sizes are read here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

# Writers to a pipe cannot go back to fill in the size; they leave 0, 0xFFFFFFFF (ffmpeg) or about 0x7FFFFFFF (sox).
UNKNOWN_SIZE = 0x7FFF0000
TOLERATED_S = 0.01  # and 1 %: a header that counts a byte too many is no broken download


def missing_end(path: str, format_name: str) -> str:
    """Say what a WAV, AIFF or Ogg file lacks of what its header declares, or ""; `format_name` as libsndfile's."""
    with open(path, "rb") as file:
        if format_name in ("WAV", "WAVEX", "AIFF"):
            return _missing_samples(file)
        return _missing_page(file) if format_name == "OGG" else ""


def mp3_declares_length(path: str) -> bool:
    """Look for a Xing or Info header; without one, libsndfile's length of an MP3 is a guess from the bit rate."""
    with open(path, "rb") as file:
        start = file.read(10)
        if start[:3] == b"ID3" and len(start) == 10:
            size = sum(byte << shift for byte, shift in zip(start[6:], (21, 14, 7, 0), strict=True))
            file.seek(size, os.SEEK_CUR)
            start = b""
        frame = start + file.read(4096)
    return b"Xing" in frame or b"Info" in frame


def with_its_size(path: str) -> bytes | None:
    """Return the bytes of a WAV file whose header declares no samples though there are some, with the right size in it.

    Writers to a pipe leave 0 there when they end badly; libsndfile takes it at its word. None for any other file.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return None
        for name, length, place in _chunks(file, "<I"):
            there = os.fstat(file.fileno()).st_size - place
            if name == b"data":
                if length or there <= 0:
                    return None
                file.seek(0)
                whole = bytearray(file.read())
                whole[place - 4 : place] = struct.pack("<I", min(there, 0xFFFFFFFF))
                return bytes(whole)
    return None


def _chunks(file: BinaryIO, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, declared length and place of the content of each chunk of a RIFF or AIFF file."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        length, place = struct.unpack(order, head[4:])[0], file.tell()
        yield head[:4], length, place
        file.seek(place + length + length % 2)


def _missing_samples(file: BinaryIO) -> str:
    """Compare the size of the sample chunk of a RIFF, RIFX or AIFF file with the file's size."""
    size = os.fstat(file.fileno()).st_size
    order = "<I" if file.read(4) == b"RIFF" else ">I"
    tolerated = 2  # bytes: some writers count the byte that pads a chunk
    for name, length, place in _chunks(file, order):
        if name == b"fmt " and length >= 12:
            file.seek(place + 8)
            tolerated = max(tolerated, round(TOLERATED_S * struct.unpack(order, file.read(4))[0]))
        if name in (b"data", b"SSND"):
            missing = length - (size - place)
            known = 0 < length < UNKNOWN_SIZE
            if known and missing > min(tolerated, max(2, length // 100)):
                return f"{size - place} of the {length} bytes that its header declares"
            return ""
    return ""


def _missing_page(file: BinaryIO) -> str:
    """Check that the last Ogg page is whole; a page has at most 65,307 bytes."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - 65_307))
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return "no Ogg page in its last 64 KiB"
    lengths = tail[page + 27 : page + 27 + tail[page + 26]] if len(tail) > page + 26 else b""
    complete = len(tail) > page + 26 and len(lengths) == tail[page + 26]
    missing = page + 27 + len(lengths) + sum(lengths) - len(tail)
    return "" if complete and missing <= 0 else "its last Ogg page is incomplete"
