"""Check which files count as copies, and what is said of copies across folds."""

import os

from vcrast.data import copies
from vcrast.data.clip import Clip
from vcrast.data.copies import HEAD_BYTES, copies_across, find_copies
from vcrast.data.corpus import Corpus


def put(path, content):
    path.write_bytes(content)
    return str(path)


def test_copies_are_files_with_the_same_bytes(tmp_path):
    long = bytes(HEAD_BYTES)
    a = put(tmp_path / "a", long + b"1")
    b = put(tmp_path / "b", long + b"2")  # the same size and beginning
    c = put(tmp_path / "c", long + b"1")
    d = put(tmp_path / "d", long + b"11")
    e = put(tmp_path / "e", long + b"1")
    f, g = put(tmp_path / "f", b""), put(tmp_path / "g", b"")
    assert find_copies([e, d, c, b, a, f, g, str(tmp_path / "gone"), "synth://x/1", "synth://x/2"]) == {c: a, e: a}
    assert find_copies([]) == {}


def test_only_what_may_be_a_copy_is_read(tmp_path, monkeypatch):
    texts = {"a": b"xx", "b": b"yy", "c": b"z", "d": bytes(HEAD_BYTES) + b"zz"}
    paths = [put(tmp_path / name, text) for name, text in texts.items()]
    read = []
    monkeypatch.setattr(copies, "_hash", lambda file, size: read.append(file.path) or file.path.encode())
    assert find_copies(paths) == {}
    assert sorted(read) == paths[:2]  # of one size; their beginnings differ, so neither is read to its end


def test_a_changed_file_is_looked_at_again(tmp_path):
    a, b = put(tmp_path / "a", b"same"), put(tmp_path / "b", b"same")
    assert find_copies([a, b]) == {b: a}
    put(tmp_path / "b", b"else")
    os.utime(b, ns=(1, 1))
    assert find_copies([a, b]) == {}


def corpus(*clips, classes=("cat", "dog")):
    folds = tuple(sorted({clip.fold for clip in clips} - {"", "train"}))
    return Corpus("toy", clips, classes, False, folds)


def test_copies_across_counts_clips_of_each_fold(tmp_path):
    a, b, c, d = (put(tmp_path / name, b"%d" % number) for name, number in zip("abcd", (1, 1, 2, 3), strict=True))
    said = copies_across(corpus(Clip(a, (0,), fold="1"), Clip(b, (0,), fold="2"), Clip(c, (1,), fold="2")))
    assert said == (
        "1 of 3 clips are byte copies of others; 1 of 1 test clips of fold 1 are also in training, "
        "1 of 2 test clips of fold 2 are also in training: the test is easier than it looks"
    )
    said = copies_across(corpus(Clip(a, (0,), fold="test"), Clip(b, (0,), fold="test"), Clip(d, (1,), fold="train")))
    assert said == "1 of 3 clips are byte copies of others; no fold has one in training and in test"
    assert copies_across(corpus(Clip(a, (0,)), Clip(b, (0,)))) == "1 of 2 clips are byte copies of others"
    assert copies_across(corpus(Clip(a, (0,), fold="1"), Clip(c, (0,), fold="2"))) is None


def test_stretches_of_a_recording_are_no_copies(tmp_path):
    a, b = put(tmp_path / "a", b"1"), put(tmp_path / "b", b"1")
    assert copies_across(corpus(Clip(a, (0,), 0.0, 5.0, "1"), Clip(a, (0,), 5.0, 5.0, "2"))) is None
    assert copies_across(corpus(Clip(a, (0,), 0.0, 5.0, "1"), Clip(b, (0,), 5.0, 5.0, "2"))) is None
    said = copies_across(corpus(Clip(a, (0,), 5.0, 5.0, "1"), Clip(b, (0,), 5.0, 5.0, "2")))
    assert said is not None
    assert said.startswith("1 of 2 clips")


def test_contradictory_copies_are_named(tmp_path):
    a, b = put(tmp_path / "a", b"1"), put(tmp_path / "b", b"1")
    said = copies_across(corpus(Clip(a, (0,)), Clip(b, (1,))))
    assert said == f"1 of 2 clips are byte copies of others; copies with different labels (1): {a} (cat) = {b} (dog)"
