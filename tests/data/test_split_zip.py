"""Check zips that lie in several files: real ones, such as zip64 ones, damaged ones."""

import io
import random
import shutil
import struct
import subprocess
import zipfile

import pytest

from vcrast.data.archive import unpack
from vcrast.data.split_zip import Joined, open_split

LONG, SHORT = 0xFFFFFFFF, 0xFFFF
needs_zip = pytest.mark.skipif(shutil.which("zip") is None, reason="needs `zip` (Debian package zip) to split archives")


def contents(count=12, size=17_000):
    rng = random.Random(0)
    return {f"top/{number}.wav": rng.randbytes(size + number) for number in range(count)} | {"top/empty.txt": b""}


@pytest.fixture(params=["stored", "deflated"])
def real(tmp_path, request):
    """The files of an archive that `zip -s` has split, in order."""
    for name, data in contents().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    level = ["-0"] if request.param == "stored" else []
    subprocess.run(["zip", "-q", "-r", "-s", "64k", *level, "a.zip", "top"], cwd=tmp_path, check=True)
    return parts(tmp_path)


def parts(folder):
    return [*sorted(folder.glob("a.z[0-9]*"), key=lambda path: int(path.suffix[2:])), folder / "a.zip"]


def read(paths):
    with open_split(paths) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}


@needs_zip
def test_what_zip_has_split_is_read_as_one(real):
    assert len(real) == 4
    before = {path: path.read_bytes() for path in real}
    assert read(real) == contents()
    assert {path: path.read_bytes() for path in real} == before
    assert sorted(real[0].parent.glob("*.z*")) == sorted(real), "nothing is written beside it"


@needs_zip
@pytest.mark.parametrize("number", [1, 3])
def test_missing_and_cut_files_are_one_line(real, number, tmp_path):
    def refused(paths, said):
        with pytest.raises(ValueError, match=rf"a\.z\w+: damaged zip file \({said}"):
            unpack(paths[-1], tmp_path / "out", max_bytes=10**6, max_files=100, before=paths[:-1])

    refused([path for path in real if path is not real[1]], "it lies in 4 files, not in 3")
    refused([real[0], *real], "it lies in 4 files, not in 5")
    refused(real[:-1], "the last of its files has no directory")
    whole = real[number].read_bytes()
    real[number].write_bytes(whole[: len(whole) // 2])
    refused(real, "(Bad|the last of its files has no directory|its directory)")
    real[number].write_bytes(whole)
    altered = bytearray(real[1].read_bytes())
    altered[30_000] ^= 1
    real[1].write_bytes(altered)
    refused(real, "(Bad CRC|Error -3)")


@needs_zip
def test_limits_hold_for_split_ones_too(real, tmp_path):
    with pytest.raises(ValueError, match="unpacks to 204066 bytes in 14 entries, at most 1000 in 100"):
        unpack(real[-1], tmp_path / "out", max_bytes=1000, max_files=100, before=real[:-1])
    assert not (tmp_path / "out").exists()
    unpack(real[-1], tmp_path / "out", max_bytes=204_066, max_files=14, before=real[:-1])
    assert {str(path.relative_to(tmp_path / "out")): path.read_bytes()
            for path in (tmp_path / "out").rglob("*.*")} == contents()  # fmt: skip


def split_by_hand(folder, size, *, large):
    """Cut a zip into files of `size` bytes wherever it comes, its directory as well, and make its places fit.

    Args:
        large: numbers stand in zip64 fields and records, as in archives of more than 4 GB.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in contents().items():
            archive.writestr(name, data)
        archive.comment = b"" if large else b"no end: PK\5\6" + bytes(40)
        start = archive.fp.tell()
        entries = archive.infolist()
    whole = buffer.getvalue()
    directory, place = b"", start
    for entry in entries:
        head = bytearray(whole[place : place + 46 + len(entry.filename)])
        place += len(head)
        disk, rest = divmod(entry.header_offset, size)
        struct.pack_into("<H", head, 34, SHORT if large else disk)
        struct.pack_into("<L", head, 42, LONG if large else rest)
        extra = b"\x55\x54\1\0x"  # some other field
        if large:
            struct.pack_into("<2L", head, 20, LONG, LONG)
            extra += struct.pack("<2H3QL", 1, 28, entry.file_size, entry.compress_size, rest, disk)
        struct.pack_into("<H", head, 30, len(extra))
        directory += bytes(head) + extra
    count = len(entries)
    last = (start + len(directory) + 76 * large + 22 + len(archive.comment) - 1) // size
    ends, disk, rest = b"", *divmod(start, size)
    if large:
        ends = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, last, disk, count, count, len(directory), rest)
        ends += struct.pack("<4sLQL", b"PK\6\7", *divmod(start + len(directory), size), last + 1)
        disk = count = SHORT
        rest = LONG
    ends += struct.pack("<4s4H2LH", b"PK\5\6", min(last, SHORT), disk, count, count,
                        LONG if large else len(directory), rest, len(archive.comment)) + archive.comment  # fmt: skip
    data = whole[:start] + directory + ends
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    for number, piece in enumerate(pieces, start=1):
        (folder / (f"a.z{number:02}" if number < len(pieces) else "a.zip")).write_bytes(piece)
    return parts(folder)


@pytest.mark.parametrize("size", [50_000, 7_001, 1_003])
@pytest.mark.parametrize("large", [False, True])
def test_headers_and_directory_may_be_cut_anywhere(tmp_path, size, large):
    assert read(split_by_hand(tmp_path, size, large=large)) == contents()


def test_one_file_is_a_plain_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", b"one")
    assert read([tmp_path / "a.zip"]) == {"a.txt": b"one"}


def test_joined_is_one_file():
    data = bytes(range(200))
    joined = Joined([io.BytesIO(data[:7]), io.BytesIO(), io.BytesIO(data[7:9]), io.BytesIO(data[9:])])
    assert joined.starts == [0, 7, 7, 9, 200]
    buffered, plain = io.BufferedReader(joined, 16), io.BytesIO(data)
    rng = random.Random(0)
    for _ in range(300):
        place, whence = rng.choice([(rng.randrange(210), 0), (-rng.randrange(100), 2), (rng.randrange(3), 1)])
        assert buffered.seek(place, whence) == plain.seek(place, whence)
        count = rng.randrange(40)
        assert buffered.read(count) == plain.read(count)
    with pytest.raises(OSError, match="before the beginning"):
        joined.seek(-1)
