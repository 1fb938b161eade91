"""Check folds: even in every class, groups whole, stable; and their file."""

import csv
import hashlib
import shutil
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sound_files import noise, settings, write

from vcrast.cli.main import main
from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus, fold_names
from vcrast.data.folding import deal, write_folds
from vcrast.data.open import open_corpus

SIZES = st.dictionaries(st.text("abcd/_", min_size=1, max_size=4), st.integers(1, 9), min_size=1, max_size=30)


def one_class(sizes, label="dog"):
    return {f"{label}/{name}": Counter({label: size}) for name, size in sizes.items()}


def loads(groups, fold_of, num_folds, label="dog"):
    return [sum(counts[label] for name, counts in groups.items() if fold_of[name] == fold) for fold in range(num_folds)]


@given(SIZES, st.integers(2, 7))
@examples(max_examples=60, deadline=None)
def test_a_class_is_even_within_its_largest_group_and_no_fold_is_empty(sizes, num_folds):
    groups = one_class(sizes)
    fold_of = deal(groups, num_folds)
    assert fold_of.keys() == groups.keys()
    found = loads(groups, fold_of, num_folds)
    assert max(found) - min(found) <= max(sizes.values())
    assert (min(found) > 0) == (len(sizes) >= num_folds)


@given(SIZES, SIZES, st.randoms(use_true_random=False))
@examples(max_examples=30, deadline=None)
def test_neither_order_nor_other_classes_change_a_fold(dogs, cats, random):
    groups = one_class(dogs)
    both = [*groups.items(), *one_class(cats, "cat").items()]
    random.shuffle(both)
    together = deal(dict(both), 5)
    assert {name: together[name] for name in groups} == deal(groups, 5)


def test_the_best_choice_of_all_decides_and_never_changes():
    # Two groups, two folds, room for one in each: whoever has the lowest hash of all four gets that fold.
    hashes = {
        (name, fold): hashlib.blake2b(f"fold {fold} {name}".encode(), digest_size=8).digest()[::-1]
        for name in ("dog/a", "dog/b") for fold in (0, 1)
    }  # fmt: skip
    name, fold = min(hashes, key=lambda pair: hashes[pair])
    assert deal({name: Counter(dog=1) for name in ("dog/a", "dog/b")}, 2)[name] == fold
    ten = {f"dog/{name}": Counter(dog=1) for name in "abcdefghij"}
    assert "".join(str(fold) for fold in deal(ten, 5).values()) == "3044110232"  # on every machine, in every version


@pytest.mark.parametrize(("size", "allowed"), [(20, 0.16), (40, 0.16), (200, 0.05)])
def test_a_tenth_more_files_moves_few_old_ones(size, allowed):
    moved = 0
    for number in range(10):  # ten classes: the mean says what to expect
        old = one_class({f"{number}-{name}": 1 for name in range(size)})
        new = {**old, **one_class({f"{number}-new{name}": 1 for name in range(size // 10)})}
        before, after = deal(old, 5), deal(new, 5)
        moved += sum(before[name] != after[name] for name in old)
    assert moved / (10 * size) <= allowed  # dealt anew, 0.8 would move


def test_groups_of_several_classes_are_spread_too():
    words = ("yes", "no", "up")
    groups = {f"speaker {number}": Counter(dict.fromkeys(words, 1)) for number in range(20)}
    groups |= {f"no/{number}": Counter({"no": 1}) for number in range(10)}
    fold_of = deal(groups, 5)
    for word, share in zip(words, (4, 6, 4), strict=True):
        assert loads(groups, fold_of, 5, word) == [share] * 5


def written(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_written_folds_read_back_to_the_same_split(tmp_path):
    for number in range(20):
        label = ("rain, heavy", 'the "dog"')[number % 2]
        write(tmp_path / "sounds" / label / f"jürgen {number}.wav", noise(16, number))
    corpus = open_corpus(settings("folder", root=str(tmp_path / "sounds"), folds="all"))
    write_folds(corpus, tmp_path / "clips.csv")
    again = open_corpus(settings("manifest", path=str(tmp_path / "clips.csv"), folds="all"))
    assert (again.classes, again.folds) == (corpus.classes, corpus.folds)
    assert [(clip.path, clip.labels, clip.fold) for clip in again.clips] == [
        (clip.path, clip.labels, clip.fold) for clip in corpus.clips
    ]


def test_written_stretches_and_several_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.wav", noise(16000))
    clips = (
        Clip("a.wav", (0, 1), 0.1, 1 / 3, "train"), Clip("a.wav", (), 0.5, None, "train"),
        Clip("a.wav", (1,), 0.0, 0.25, "test"), Clip("a.wav", (2,), fold="test"),
    )  # fmt: skip
    corpus = Corpus("toy", clips, ("dog", "rain; heavy", "wind"), True, fold_names(clips))
    write_folds(corpus, tmp_path / "clips.csv")
    rows = written("clips.csv")
    assert rows[0] == {
        "path": str(tmp_path / "a.wav"), "labels": '["dog", "rain; heavy"]', "fold": "train", "start": "0.1",
        "duration": "0.3333333333333333",
    }  # fmt: skip
    again = open_corpus(settings("manifest", path="clips.csv"))
    assert again.multilabel
    assert [(c.labels, c.start_s, c.duration_s, c.fold) for c in again.clips] == [
        (c.labels, c.start_s, c.duration_s and round(c.duration_s, 9), c.fold)
        for c in clips  # tables are read to 1 ns
    ]


def test_columns_that_no_clip_has_are_left_out(tmp_path):
    clips = (Clip("synth://a/1", ()), Clip("/x/b.wav", ()))
    write_folds(Corpus("toy", clips, (), False, ()), tmp_path / "clips.csv")
    assert (tmp_path / "clips.csv").read_text() == "path,start,duration\nsynth://a/1,,\n/x/b.wav,,\n"


def test_a_handed_on_split_is_read_from_another_copy_of_the_sounds(tmp_path, capsys):
    for number in range(20):
        write(tmp_path / "sounds" / ("rain, heavy", "wind")[number % 2] / f"jürgen {number}.wav", noise(16, number))
    words = ["data", "splits", "folder", f"data.root={tmp_path}/sounds"]
    assert main([*words, "--out", str(tmp_path / "split.csv")]) == 0
    assert list(written(tmp_path / "split.csv")[0]) == ["path", "label", "fold"]
    shard = ["data", "shard", *words[2:], "--out", str(tmp_path / "shards"), "--workers", "0"]
    packed = ["data", "splits", "shards", f"data.root={tmp_path}/shards", "--out", str(tmp_path / "packed.csv")]
    assert main(shard) == main(packed) == 0
    assert sorted(map(str, written(tmp_path / "packed.csv"))) == sorted(map(str, written(tmp_path / "split.csv")))
    shutil.copytree(tmp_path / "sounds", tmp_path / "copy")
    shutil.rmtree(tmp_path / "sounds")
    corpus = open_corpus(settings("folder", root=str(tmp_path / "copy"), folds="all"))
    again = open_corpus(
        settings("manifest", path=str(tmp_path / "split.csv"), root=str(tmp_path / "copy"), folds="all")
    )
    assert (again.classes, again.folds) == (corpus.classes, corpus.folds)
    assert {(c.path, c.labels, c.fold) for c in again.clips} == {(c.path, c.labels, c.fold) for c in corpus.clips}
    write(tmp_path / "bare" / "a.wav", noise(16))
    capsys.readouterr()
    assert main([*words[:3], f"data.root={tmp_path}/bare", "data.options.num_folds=2"]) == 2
    assert "folder: has no folds, so there is nothing to write" in capsys.readouterr().err
