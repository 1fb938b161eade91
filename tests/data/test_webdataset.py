"""data=webdataset: labels, folds, faults, and an index that is kept."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from foreign.packed import CLASSES, assert_heard, sounds, write_tar
from sound_files import noise, settings, write

from vcrast.data.audio import read_wav
from vcrast.data.foreign import tar_index
from vcrast.data.open import open_corpus
from vcrast.data.shards.tar import Packing
from vcrast.data.shards.write import pack


def members(made, **more):
    for sound in made:
        key = sound.name.partition(".")[0]
        about = {"label": CLASSES[sound.label], "number": sound.label, **more}
        yield from ((sound.name, sound.content), (f"{key}.json", json.dumps(about).encode()))


@pytest.fixture
def made():
    return sounds()


@pytest.fixture
def root(tmp_path, made):
    """Tars of the splits, two of them for training."""
    for split in ("train", "val", "test"):
        part = [sound for sound in made if sound.split == split]
        for number in range(2):
            write_tar(tmp_path / "wds" / split / f"{number:06d}.tar", members(part[number::2]))
    return tmp_path / "wds"


def opened(root, tmp_path=None, **changes):
    cache = {} if tmp_path is None else {"cache_dir": str(tmp_path / "cache")}
    return open_corpus(settings("webdataset", root=str(root), **cache, **changes))


def told(corpus):
    """Name -> label, fold, of every clip."""
    return {
        clip.path.split("/")[3].split("::")[0]: (
            *(corpus.classes[label] for label in clip.labels), clip.fold,
        )
        for clip in corpus.clips
    }  # fmt: skip


def test_sounds_labels_and_splits(root, tmp_path, made):
    corpus = opened(root)
    assert (corpus.classes, corpus.folds, corpus.multilabel) == (CLASSES, ("test", "val"), False)
    assert told(corpus) == {sound.name: (CLASSES[sound.label], sound.split) for sound in made}
    by_name = {sound.name: sound for sound in made}
    for clip in corpus.clips:
        sound = by_name[clip.path.split("/")[3].split("::")[0]]
        (tmp_path / sound.name).write_bytes(sound.content)
        wav = read_wav(clip.path, sample_rate=16000)
        assert_heard(wav, read_wav(str(tmp_path / sound.name), sample_rate=16000), sound.name)
        assert_heard(wav, sound.wav, sound.name)
    assert len(np.unique(corpus.table.block)) == 6
    assert [clip.path for clip in pickle.loads(pickle.dumps(corpus.table))] == [clip.path for clip in corpus.clips]


def test_one_tar_and_folds_in_the_samples(tmp_path, made):
    path = write_tar(tmp_path / "all-train.tar", [*members(made[:12], fold=1), *members(made[12:], fold="2")])
    corpus = opened(path)
    assert corpus.folds == ("1", "2")
    assert set(told(corpus).values()) == {(name, fold) for name in CLASSES for fold in "12"}
    assert opened(path, options={"fold": False}).folds == ()
    assert opened(path, options={"fold": "number"}).folds == ("0", "1", "2")
    assert opened(path, options={"splits": False, "fold": False}).table.folds == {""}


def test_numbers_with_names_and_small_text_files(tmp_path, made):
    for kind, content in (("cls", "{}"), ("txt", "kind {}")):
        path = tmp_path / f"{kind}.tar"
        small = [
            (sound.name.partition(".")[0] + f".{kind}", content.format(sound.label).encode()) for sound in made
        ]  # fmt: skip
        write_tar(path, [*((sound.name, sound.content) for sound in made), *small])
    assert opened(tmp_path / "cls.tar").classes == ("0", "1", "2")
    assert opened(tmp_path / "cls.tar", options={"classes": list(CLASSES)}).classes == CLASSES
    assert opened(tmp_path / "txt.tar").classes == ("kind 0", "kind 1", "kind 2")


def test_without_labels(tmp_path, made):
    path = write_tar(tmp_path / "a.tar", [(sound.name, sound.content) for sound in made])
    corpus = opened(path)
    assert corpus.classes == ()
    assert any("no labels, for pretraining only" in note for note in corpus.notes)
    half = write_tar(tmp_path / "b.tar", [*members(made[:12]), *((sound.name, sound.content) for sound in made[12:])])
    with pytest.raises(ValueError, match=r"12 of 24 samples cannot be used; .* data.options.labels=false(.|\n)*b.tar"):
        opened(half)
    assert opened(half, options={"labels": False}).classes == ()
    with pytest.raises(ValueError, match=r"data.label has no effect with data.options.labels=false"):
        opened(half, options={"labels": False}, label="label")


def test_bad_samples_count_against_the_fraction(tmp_path, made):
    bad = [("empty.json", b'{"label": "dog"}')]
    path = write_tar(tmp_path / "a.tar", [*members(made), *bad])
    corpus = opened(path)
    assert len(corpus.clips) == 24
    assert any("1 of 25 samples left out\n  a.tar: empty: no sound" in note for note in corpus.notes)
    with pytest.raises(ValueError, match=r"1 of 25 samples cannot be used; data.max_bad_fraction=0 allows 0"):
        opened(path, max_bad_fraction=0.0)
    unnamed = made[0]._replace(name="bare.wav")
    write_tar(tmp_path / "b.tar", [*members(made), (unnamed.name, unnamed.content)])
    corpus = opened(tmp_path / "b.tar")
    assert "bare.wav" not in told(corpus)
    assert any("b.tar: bare.wav: no label (label)" in note for note in corpus.notes)


def test_sounds_that_are_none_are_found_before_the_first_step(tmp_path, made):
    path = write_tar(tmp_path / "a.tar", members([sound._replace(content=b"no sound") for sound in made]))
    with pytest.raises(ValueError, match=r"24 of 24 sounds that were looked at cannot be read(.|\n)*clip00000.wav"):
        opened(path)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"root": None}, FileNotFoundError, "data=webdataset: set data.root=FOLDER, or one .tar file"),
        ({"root": "nowhere"}, FileNotFoundError, "data.root=nowhere: no such folder or file"),
        ({"root": "https://x.org/a.tar"}, ValueError, "reads files of this machine"),
        ({"label": "mood"}, ValueError, "data.label=mood: no sample has such a field; choose from label, number"),
        ({"options": {"classes": ["dog"]}}, ValueError, "data.options.classes: has no 'rain' and 1 others"),
        ({"options": {"labels": 3}}, ValueError, "data.options.labels=3: choose from true, false"),
    ],
)
def test_wrong_settings(root, change, error, said):
    with pytest.raises(error, match=said):
        opened(**{"root": root, **change}) if change.get("root", 1) else open_corpus(settings("webdataset"))


def test_damaged_tars_are_all_named(root):
    for name in ("train/000001.tar", "val/000000.tar"):
        (root / name).write_bytes((root / name).read_bytes()[:5000])
    with pytest.raises(
        ValueError, match=r"2 of 6 tars cannot be used\n  train/000001.tar: it is cut in or behind clip"
    ):
        opened(root)
    (root / "more.tar.gz").touch()
    with pytest.raises(ValueError, match=r"1 compressed files \(more.tar.gz\)"):
        opened(root)


def test_links_to_folders_are_followed_once(root, made):
    (root / "train" / "loop").symlink_to(root)
    (root / "train" / "again").symlink_to(root / "train")
    assert len(opened(root).clips) == len(made)


def test_the_index_is_kept(root, tmp_path, monkeypatch):
    first = opened(root, tmp_path)

    def scan(*_):
        raise AssertionError("scanned again")

    with monkeypatch.context() as patched:
        patched.setattr(tar_index, "scan_tar", scan)
        again = opened(root, tmp_path)
        assert list(again.clips) == list(first.clips)
        assert again.content == first.content
        with pytest.raises(AssertionError):
            opened(root, tmp_path, label="number")
        os.utime(root / "val" / "000000.tar", ns=(1, 1))
        with pytest.raises(AssertionError):
            opened(root, tmp_path)
    assert opened(root, tmp_path).content == first.content, "only touched"
    (kept,) = {*(tmp_path / "cache").glob("tars-*.npz")} - {max((tmp_path / "cache").iterdir(), key=os.path.getmtime)}
    for path in (tmp_path / "cache").glob("tars-*.npz"):
        path.write_bytes(kept.read_bytes()[:100])
    assert list(opened(root, tmp_path).clips) == list(first.clips), "a damaged index is made again"


def test_an_index_that_cannot_be_kept_does_no_harm(root, tmp_path, made):
    (tmp_path / "cache").write_text("a file")
    assert len(opened(root, tmp_path).clips) == len(made)


def test_the_content_tells_other_sounds(root, tmp_path):
    first = opened(root)
    moved = root.rename(tmp_path / "moved")
    assert opened(moved).content == first.content
    assert opened(moved, options={"splits": False}).content != first.content
    path = moved / "train" / "000000.tar"
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    other = opened(moved)
    assert other.content != first.content
    assert [name for name, _ in set(other.shards) - set(first.shards)] == ["train/000000.tar"]


def test_other_sources_say_which_one_reads_packed_sounds(root, tmp_path):
    with pytest.raises(ValueError, match=r"6 files \(6 \.tar\) are read by data=webdataset"):
        open_corpus(settings("folder", root=str(root)))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="data=huggingface opens one that holds sounds"):
        open_corpus(settings("manifest", path=str(tmp_path / "a.parquet")))


def test_shards_of_our_own_are_read_by_everyone(tmp_path):
    wds, wids = pytest.importorskip("webdataset"), pytest.importorskip("wids")
    for number in range(12):
        kind = "train" if number < 8 else "test"
        write(tmp_path / "src" / kind / CLASSES[number % 3] / f"{number}.wav", noise(4000, number))
    source = open_corpus(settings("folder", root=str(tmp_path / "src")))
    pack(source, tmp_path / "out", Packing("flac", 16000, 5, False, 0.0), num_workers=0)
    ours, foreign = (open_corpus(settings(name, root=str(tmp_path / "out"))) for name in ("shards", "webdataset"))
    assert (ours.name, foreign.name) == ("folder", "webdataset")
    assert (foreign.classes, foreign.folds, foreign.multilabel) == (ours.classes, ours.folds, ours.multilabel)
    assert [(clip.labels, clip.fold) for clip in foreign.clips] == [(clip.labels, clip.fold) for clip in ours.clips]
    wavs = [read_wav(clip.path, sample_rate=16000) for clip in foreign.clips]
    for mine, clip in zip(wavs, ours.clips, strict=True):
        np.testing.assert_array_equal(mine, read_wav(clip.path, sample_rate=16000))
    tars = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    theirs = {s["__key__"]: s["flac"] for s in wds.WebDataset(tars, shardshuffle=False)}
    indexed = wids.ShardListDataset(str(tmp_path / "out" / "wids.json"), transformations=[])
    listed = {indexed[i]["__key__"]: indexed[i][".flac"].getvalue() for i in range(len(indexed))}
    mine = {}
    for clip in foreign.clips:
        place, rest = clip.path.removeprefix("tar://").split("/", 1)
        name, file = rest.split("::")
        offset, size = map(int, place.split("+"))
        mine[name.partition(".")[0]] = Path(file).read_bytes()[offset : offset + size]
    assert mine == theirs == listed
