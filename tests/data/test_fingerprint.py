"""Fingerprint clips: equal after a move, different after any other change."""

import dataclasses
import shutil

import pytest

from vcrast.config.compose import compose
from vcrast.data.audio import MEMBERS
from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus
from vcrast.data.fingerprint import fingerprint, without_content
from vcrast.data.members import SCHEME, Members, address
from vcrast.data.remote import RemoteFiles
from vcrast.runs.resume import check_clips
from vcrast.runs.summary import Summary


def corpus(root, labels=(0, 1, 0), folds=("1", "1", "2"), names=("a/x.wav", "a/y.wav", "b/x.wav"), sizes=(5, 6, 7)):
    for name, size in zip(names, sizes, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(size))
    clips = [
        Clip(str(root / name), (label,), fold=fold) for name, label, fold in zip(names, labels, folds, strict=True)
    ]
    return Corpus("folder", tuple(clips), ("dog", "cat"), False, ("1", "2"))


def test_a_moved_dataset_is_the_same(tmp_path, monkeypatch):
    found = fingerprint(corpus(tmp_path / "here"), "2")
    assert (found["train"], found["test"]) == (2, 1)
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert fingerprint(corpus(tmp_path / "there"), "2") == found
    monkeypatch.chdir(tmp_path)
    relative = corpus(tmp_path / "there")
    clips = tuple(dataclasses.replace(clip, path=clip.path.removeprefix(f"{tmp_path}/")) for clip in relative.clips)
    assert fingerprint(dataclasses.replace(relative, clips=clips), "2") == found


def test_sounds_in_larger_files_are_known_after_a_move_and_others_show(tmp_path, monkeypatch):
    """In a mixture with plain files, that no hash stands for."""
    monkeypatch.setitem(MEMBERS, SCHEME, Members(RemoteFiles(tmp_path / "copies", 1)))

    def mixture(root, content=b"two sounds"):
        plain = corpus(root)
        (root / "tars").mkdir()
        (root / "tars" / "a.tar").write_bytes(content)
        inside = [Clip(address(4 * i, 4, None, f"{i}.wav", str(root / "tars" / "a.tar")), (0,)) for i in range(2)]
        return dataclasses.replace(plain, clips=(*plain.clips, *inside))

    found = fingerprint(mixture(tmp_path / "here"), "2")
    shutil.move(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "there" / "tars")
    assert fingerprint(mixture(tmp_path / "there"), "2") == found
    assert fingerprint(mixture(tmp_path / "other", b"two others"), "2") != found
    assert fingerprint(mixture(tmp_path / "longer", b"two sounds and more"), "2") != found


@pytest.mark.parametrize(
    "change",
    [
        {"labels": (0, 0, 0)}, {"folds": ("1", "2", "1")}, {"names": ("a/x.wav", "a/z.wav", "b/x.wav")},
        {"sizes": (5, 6, 8)}, {"names": ("a/y.wav", "a/x.wav", "b/x.wav"), "sizes": (6, 5, 7), "labels": (1, 0, 0)},
    ],
)  # fmt: skip
def test_any_other_change_shows(tmp_path, change):
    assert fingerprint(corpus(tmp_path / "a"), "2") != fingerprint(corpus(tmp_path / "b", **change), "2")


def test_other_sounds_of_the_same_names_and_sizes_show(tmp_path):
    one, other = corpus(tmp_path / "a"), corpus(tmp_path / "b")
    assert fingerprint(one, "2") == fingerprint(other, "2")
    (tmp_path / "b" / "a" / "y.wav").write_bytes(b"other!")
    assert fingerprint(one, "2") != fingerprint(other, "2")
    assert without_content(fingerprint(one, "2")) == without_content(fingerprint(other, "2"))
    (tmp_path / "b" / "a" / "y.wav").unlink()
    assert fingerprint(other, "2")["train"] == 2


def test_the_names_of_the_classes_count_and_generated_clips_have_no_folder(tmp_path):
    one = corpus(tmp_path)
    assert fingerprint(one, "2") != fingerprint(dataclasses.replace(one, classes=("cat", "dog")), "2")
    made = Corpus(
        "s", (Clip("synth://1", (0,), fold="1"), Clip("synth://2", (0,), fold="2")), ("a",), False, ("1", "2")
    )
    assert fingerprint(made, "1")["train"] == 1


def test_a_run_does_not_go_on_with_other_clips(tmp_path):
    summary = Summary(tmp_path / "summary.json", recipe="demo", classes=())
    was = {"train": 48, "test": 12, "digest": "a"}
    summary.begin("1", "pretrain", {"clips": was})
    config = compose(["recipe=demo", "data.root=elsewhere"])
    check_clips(config, summary, {"1": dict(was), "2": {"train": 1, "test": 1, "digest": "z"}})
    with pytest.raises(
        ValueError, match=r"^data\.root=elsewhere: fold 1 now has 50 training and 12 test clips, not 48"
    ):
        check_clips(config, summary, {"1": {**was, "train": 50}})
    with pytest.raises(ValueError, match=r"as many clips \(48 .*\), but other names, labels, sounds"):
        check_clips(config, summary, {"1": {**was, "digest": "b"}})
    check_clips(config, summary, {"1": {**was, "content": "c"}})  # which an earlier version has not kept
