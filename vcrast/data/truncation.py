"""Find sound files that are shorter than their header says.

libsndfile quietly shortens WAV, AIFF and Ogg files to what is there, and the length that it reports with them: a
download that broke off would train as a clip with less sound. No library at hand reports it, so the containers' own
sizes are read here.
"""

from __future__ import annotations

import io
import os
import struct
from typing import Any, BinaryIO

from vcrast.data.stretch import is_tolerated

# Writers to a pipe cannot go back to fill in the size; they leave 0, 0xFFFFFFFF (ffmpeg) or about 0x7FFFFFFF (sox).
UNKNOWN_SIZE = 0x7FFF0000
STREAMED = b"\xff\xff\xff\xff"


def missing_end(file: BinaryIO, format_name: str, there_s: float) -> str:
    """Say what a WAV, AIFF or Ogg file lacks of what its header declares, or "" if nothing that counts.

    Args:
        file: open at its beginning.
        format_name: as libsndfile calls it.
        there_s: length of the sound that is there, in seconds.
    """
    if format_name in ("WAV", "WAVEX", "AIFF"):
        return _missing_samples(file, there_s)
    return _missing_page(file) if format_name == "OGG" else ""


def mp3_declares_length(file: BinaryIO) -> bool:
    """Look for a Xing or Info header; without one, libsndfile's length of an MP3 is a guess from the bit rate."""
    start = file.read(10)
    if start[:3] == b"ID3" and len(start) == 10:
        size = sum(byte << shift for byte, shift in zip(start[6:], (21, 14, 7, 0), strict=True))
        file.seek(size, os.SEEK_CUR)
        start = b""
    frame = start + file.read(4096)
    return b"Xing" in frame or b"Info" in frame


def streamed_size(file: BinaryIO) -> int:
    """Return where a WAV file declares 0 bytes of samples although samples follow, as written to a pipe; else 0."""
    order, block_bytes, length = _sample_chunk(file)
    place = file.tell()
    return 0 if block_bytes < 0 or length or _only_chunks(file, order) else place - 4


class StreamedWav(io.RawIOBase):
    """A WAV file whose size of samples reads as unknown, so that libsndfile goes on to the end.

    Args:
        file: the file; it is closed with this one.
        place: where its size of samples stands.
    """

    def __init__(self, file: BinaryIO, place: int) -> None:
        super().__init__()
        self.file, self.place = file, place

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be gone to any place of."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place."""
        return self.file.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        """Read as a file does, with the four bytes of the size replaced."""
        start = self.file.tell()
        view = memoryview(buffer).cast("B")
        found = self.file.read(len(view))
        view[: len(found)] = found
        for i, byte in enumerate(STREAMED):
            if start <= self.place + i < start + len(found):
                view[self.place + i - start] = byte
        return len(found)

    def close(self) -> None:
        """Close both."""
        self.file.close()
        super().close()


def _size(file: BinaryIO) -> int:
    """Bytes of a file; its place stays."""
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    return size


def _missing_samples(file: BinaryIO, there_s: float) -> str:
    """Compare the size of the sample chunk of a RIFF, RIFX or AIFF file with the file's size."""
    _, block_bytes, length = _sample_chunk(file)
    there = _size(file) - file.tell()
    if block_bytes < 0 or not 0 < length < UNKNOWN_SIZE or there >= length:
        return ""
    missing_s = (length - there) * there_s / there if there > 0 and there_s else 0.0
    total_s = there_s + missing_s
    if there > 0 and (length - there <= block_bytes or is_tolerated(missing_s, total_s)):
        return ""
    seconds = f"{missing_s:.3f} of {total_s:.3f} s missing, " if missing_s else ""
    return f"{seconds}{there} of the {length} bytes that its header declares"


def _sample_chunk(file: BinaryIO) -> tuple[str, int, int]:
    """Go to where the samples begin; return byte order, bytes of a WAV's block (-1: no samples), declared bytes."""
    order = "<I" if file.read(4) == b"RIFF" else ">I"
    block_bytes = 0
    file.seek(12)
    while len(head := file.read(8)) == 8:
        length = struct.unpack(order, head[4:])[0]
        if head[:4] in (b"data", b"SSND"):
            return order, block_bytes, length
        content = file.read(14) if head[:4] == b"fmt " else b""
        if len(content) == 14:
            block_bytes = struct.unpack(order[0] + "H", content[12:])[0]
        file.seek(length + length % 2 - len(content), os.SEEK_CUR)
    return order, -1, 0


def _only_chunks(file: BinaryIO, order: str) -> bool:
    """Tell whether nothing but whole chunks, or nothing at all, follows."""
    size = _size(file)
    while file.tell() < size:
        head = file.read(8)
        if len(head) < 8 or not all(0x20 <= byte < 0x7F for byte in head[:4]):
            return False
        length = struct.unpack(order, head[4:])[0]
        file.seek(length + length % 2, os.SEEK_CUR)
    return file.tell() <= size + 1


def _missing_page(file: BinaryIO) -> str:
    """Check that the last Ogg page is whole; a page has at most 65,307 bytes."""
    size = _size(file)
    file.seek(max(0, size - 65_307))
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0:
        return "no Ogg page in its last 64 KiB"
    lengths = tail[page + 27 : page + 27 + tail[page + 26]] if len(tail) > page + 26 else b""
    complete = len(tail) > page + 26 and len(lengths) == tail[page + 26]
    missing = page + 27 + len(lengths) + sum(lengths) - len(tail)
    return "" if complete and missing <= 0 else "its last Ogg page is incomplete"
