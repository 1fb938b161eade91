"""Find sound files that are shorter than their header says.

libsndfile quietly shortens WAV, AIFF and Ogg files to what is there, and the length that it reports with them: a
download that broke off would train as a clip with less sound. No library at hand reports it, so the containers' own
sizes are read here.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

# Writers to a pipe cannot go back to fill in the size; they leave 0, 0xFFFFFFFF (ffmpeg) or about 0x7FFFFFFF (sox).
UNKNOWN_SIZE = 0x7FFF0000


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


def _missing_samples(file: BinaryIO) -> str:
    """Compare the size of the sample chunk of a RIFF, RIFX or AIFF file with the file's size."""
    size = os.fstat(file.fileno()).st_size
    order = "<I" if file.read(4) == b"RIFF" else ">I"
    file.seek(12)
    while len(head := file.read(8)) == 8:
        length = struct.unpack(order, head[4:])[0]
        if head[:4] in (b"data", b"SSND"):
            there = size - file.tell()
            known = 0 < length < UNKNOWN_SIZE
            return f"{there} of the {length} bytes that its header declares" if known and there < length else ""
        file.seek(length + length % 2, os.SEEK_CUR)
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
