"""Check what a listing of a folder holds, leaves out and says."""

import os
from pathlib import Path

import pytest

from vcrast.data.listing import find_sounds, in_kinds, in_short


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def names(root, paths):
    return [path.relative_to(root).as_posix() for path in paths]


def test_sounds_sorted_and_shadows_skipped(tmp_path):
    make(
        tmp_path, "b/2.wav", "b/10.WAV", "a.flac", "b/deep/er/x.ogg", "._a.flac", ".hidden/y.wav", "__MACOSX/b/._2.wav",
        "__MACOSX/b/2.wav", "b/.ipynb_checkpoints/2-checkpoint.wav",
    )  # fmt: skip
    found = find_sounds(tmp_path)
    assert names(tmp_path, found.sounds) == ["a.flac", "b/10.WAV", "b/2.wav", "b/deep/er/x.ogg"]
    assert found.left_out == {}
    assert found.notes() == []
    assert found.others() == ""


@pytest.mark.usefixtures("no_ffmpeg")
def test_other_sounds_are_told_from_other_files(tmp_path):
    make(tmp_path, "a.wav", "b.m4a", "c/d.M4A", "c/e.wma", "notes.txt", "cover.JPG", "README", "c/list.txt")
    found = find_sounds(tmp_path)
    assert names(tmp_path, found.sounds) == ["a.wav"]
    assert {suffix: len(paths) for suffix, paths in found.left_out.items()} == {
        ".m4a": 2, ".wma": 1, ".txt": 2, ".jpg": 1, "": 1,
    }  # fmt: skip
    assert sorted(found.undecodable) == [".m4a", ".wma"]
    (note,) = found.notes()
    assert note.startswith("3 files (2 .m4a, 1 .wma) left out, which cannot be decoded here; ")
    assert found.others() == "4 files (2 .txt, 1 without ending, 1 .jpg) that are no sounds"


def test_links_are_followed_once_and_cycles_end(tmp_path):
    make(tmp_path, "real/dog/1.wav", "elsewhere/2.wav", "root/cat/3.wav")
    root = tmp_path / "root"
    (root / "dog").symlink_to(tmp_path / "real" / "dog")
    (root / "again").symlink_to(root / "cat")
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "one.wav").symlink_to(tmp_path / "elsewhere" / "2.wav")
    (root / "cat" / "gone.wav").symlink_to(tmp_path / "nothing.wav")
    os.mkfifo(root / "cat" / "pipe.wav")
    found = find_sounds(root)
    assert names(root, found.sounds) == ["cat/3.wav", "cat/one.wav", "dog/1.wav"]
    assert names(root, found.repeated) == ["again", "cat/up"]
    assert names(root, found.not_files) == ["cat/gone.wav", "cat/pipe.wav"]
    assert found.notes() == [
        "2 names of sounds left out that lead to no file: cat/gone.wav, cat/pipe.wav",
        "2 links to folders not followed, which are listed under another path: again, cat/up",
    ]


def test_two_folders_that_lead_to_each_other(tmp_path):
    make(tmp_path, "a/1.wav", "b/2.wav")
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    assert names(tmp_path, find_sounds(tmp_path).sounds) == ["a/1.wav", "b/2.wav"]


@pytest.mark.usefixtures("no_ffmpeg")
def test_names_that_are_not_utf8_are_left_out_and_said_readably(tmp_path):
    make(tmp_path, "cat/fine ü.wav")
    latin1 = os.fsencode(tmp_path) + "/hündin".encode("latin-1")
    os.mkdir(latin1)
    for name in (b"/1.wav", b"/2.m4a", b"/notes.t\xfct"):
        with open(latin1 + name, "wb"):
            pass
    found = find_sounds(tmp_path)
    assert names(tmp_path, found.sounds) == ["cat/fine ü.wav"]
    assert len(found.misnamed) == 1
    said = " ".join([*found.notes(), found.others()])
    assert r"'h\udcfcndin/1.wav'" in said
    said.encode()  # else no log could hold it
    with pytest.raises(ValueError, match="ndin': its name is not UTF-8 text"):
        find_sounds(Path(os.fsdecode(latin1)))


def test_a_folder_that_may_not_be_read_is_said(tmp_path, monkeypatch):
    make(tmp_path, "a/1.wav", "closed/2.wav")
    scan = os.scandir

    def refuse(folder):
        if os.path.basename(folder) == "closed":
            raise PermissionError(folder)
        return scan(folder)

    monkeypatch.setattr("vcrast.data.listing.os.scandir", refuse)
    found = find_sounds(tmp_path)
    assert names(tmp_path, found.sounds) == ["a/1.wav"]
    assert found.notes() == ["1 folders left out that may not be read: closed"]


def test_a_file_itself_and_nothing(tmp_path):
    make(tmp_path, "a.xyz")
    assert find_sounds(tmp_path / "a.xyz").sounds == [tmp_path / "a.xyz"]
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        find_sounds(tmp_path / "b")


def test_counts_in_words(tmp_path):
    assert in_kinds({".txt": [tmp_path]}) == "1 file (1 .txt)"
    assert in_short(["a", "b"], 2) == "a, b"
    assert in_short(list("abcdefg")) == "a, b, c, d, e and 2 more"
