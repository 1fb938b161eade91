import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from vcrast.data.archive import unpack


def archive(path, entries):
    """A zip of (name or ZipInfo, bytes)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries:
            file.writestr(name, data)
    return path


def special(name, kind):
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (kind | 0o777) << 16
    return entry


def unpacked(path, tmp_path, *, max_bytes=10_000, max_files=10):
    """The files that came out, by their path in the folder; all else below `tmp_path` must stay as it was."""
    out = tmp_path / "out"
    before = set(tmp_path.rglob("*"))
    unpack(path, out, max_bytes=max_bytes, max_files=max_files)
    new = set(tmp_path.rglob("*")) - before - {out}
    assert all(each.is_relative_to(out) and not each.is_symlink() for each in new)
    return {str(each.relative_to(out)): each.read_bytes() for each in new if each.is_file()}


def test_unpack(tmp_path):
    path = archive(tmp_path / "a.zip", [("top/", b""), ("top/a.txt", b"one"), (special("top/b", stat.S_IFREG), b"two")])
    assert unpacked(path, tmp_path) == {"top/a.txt": b"one", "top/b": b"two"}


@pytest.mark.parametrize(
    "entry",
    [
        "../evil", "a/../../evil", "/tmp/vcrast-test-evil",
        special("link", stat.S_IFLNK), special("pipe", stat.S_IFIFO), special("disk", stat.S_IFBLK),
    ],
    ids=lambda value: getattr(value, "filename", value),
)  # fmt: skip
def test_malicious_entries_become_plain_files_inside_the_folder(tmp_path, entry):
    found = unpacked(archive(tmp_path / "a.zip", [("good.txt", b"good"), (entry, b"/etc/passwd")]), tmp_path)
    assert sorted(found.values()) == [b"/etc/passwd", b"good"]
    assert not Path("/tmp/vcrast-test-evil").exists()


def test_bombs(tmp_path):
    with pytest.raises(ValueError, match="unpacks to 20000 bytes in 1 entries, at most 10000 in 10"):
        unpacked(archive(tmp_path / "a.zip", [("a", bytes(20_000))]), tmp_path)
    with pytest.raises(ValueError, match="0 bytes in 11 entries"):
        unpacked(archive(tmp_path / "b.zip", [(f"{i}", b"") for i in range(11)]), tmp_path)
    assert not (tmp_path / "out").exists()


def test_bomb_that_lies_about_its_size(tmp_path):
    data = archive(tmp_path / "a.zip", [("a", bytes(2_000_000))]).read_bytes()
    size = (2_000_000).to_bytes(4, "little")
    assert data.count(size) == 2
    (tmp_path / "a.zip").write_bytes(data.replace(size, (100).to_bytes(4, "little")))
    with pytest.raises(ValueError, match="damaged zip"):
        unpacked(tmp_path / "a.zip", tmp_path)
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) <= 10_000


def test_encrypted_zip(tmp_path):
    data = bytearray(archive(tmp_path / "a.zip", [("a.txt", b"x")]).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # local and central header: flags
        data[data.index(signature) + offset] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.zip: damaged zip file \(.*encrypted"):
        unpacked(tmp_path / "a.zip", tmp_path)


def test_damaged_zip(tmp_path):
    path = archive(tmp_path / "a.zip", [("a.bin", bytes(range(256)) * 4)])
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged zip"):
        unpacked(path, tmp_path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="damaged zip"):
        unpacked(path, tmp_path)


def test_a_method_of_compression_that_python_lacks_is_one_line(tmp_path):
    path = archive(tmp_path / "a.zip", [("a.txt", b"x")])
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):  # local and central header: method, 2 bytes
        data[data.index(signature) + offset] = 97  # WavPack
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.zip: damaged zip file \(.*compression"):
        unpacked(path, tmp_path)


def tar(path, entries, mode="w:gz"):
    """A tar of (name or TarInfo, bytes)."""
    with tarfile.open(path, mode) as file:
        for name, data in entries:
            entry = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_untar(tmp_path, mode):
    path = tar(tmp_path / "a.tar", [("./top/a.txt", b"one"), ("top/b", b"two"), ("/c", b"three")], mode)
    assert unpacked(path, tmp_path) == {"top/a.txt": b"one", "top/b": b"two", "c": b"three"}


@pytest.mark.parametrize(
    "entry",
    [
        "../evil", "a/../../evil", link("link", "../../evil"), link("link", "/etc/passwd"),
        link("hard", "../evil", tarfile.LNKTYPE), link("disk", "", tarfile.BLKTYPE),
    ],
    ids=lambda value: getattr(value, "linkname", value),
)  # fmt: skip
def test_a_tar_that_leads_outside_is_refused(tmp_path, entry):
    path = tar(tmp_path / "a.tgz", [("good.txt", b"good"), (entry, b"")])
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"a\.tgz: a dangerous entry"):
        unpack(path, tmp_path / "out", max_bytes=10_000, max_files=10)
    assert {each.name for each in set(tmp_path.rglob("*")) - before} == {"out", "good.txt"}


def test_tar_bombs(tmp_path):
    with pytest.raises(ValueError, match="unpacks to 20000 bytes in 1 entries, at most 10000 in 10"):
        unpacked(tar(tmp_path / "a.tgz", [("a", bytes(20_000))]), tmp_path)
    with pytest.raises(ValueError, match="0 bytes in 11 entries"):
        unpacked(tar(tmp_path / "b.tgz", [(f"{i}", b"") for i in range(12)]), tmp_path)


@pytest.mark.parametrize("cut", [1, 200, 400])
def test_a_cut_tar_is_damaged(tmp_path, cut):
    path = tar(tmp_path / "a.tgz", [("a.bin", bytes(range(256)) * 4), ("b.bin", bytes(range(256)) * 8)])
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r"a\.tgz: damaged tar file"):
        unpacked(path, tmp_path)


def test_altered_bytes_of_a_tar_are_noticed(tmp_path):
    path = tar(tmp_path / "a.tgz", [("a.bin", bytes(1000))])
    data = bytearray(path.read_bytes())
    data[-8] ^= 1  # of the checksum of what was compressed
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.tgz: damaged tar file .*CRC"):
        unpacked(path, tmp_path)


def test_a_page_of_html_is_no_archive(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"a\.tar\.gz: damaged tar file"):
        unpacked(tmp_path / "a.tar.gz", tmp_path)
