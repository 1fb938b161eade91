"""Check how a user's folders are read: classes, splits, folds, and what is said of them."""

import logging
import os
from collections import Counter
from pathlib import Path

import pytest
from sound_files import noise, settings, write

from vcrast.data.corpus import select_folds
from vcrast.data.layout import split_of_folder
from vcrast.data.open import open_corpus
from vcrast.data.split_lists import read_split_lists


@pytest.fixture
def opened(tmp_path):
    """Write a sound, each with other samples, for every name (a folder for names that end in /), and open the root."""
    counter = iter(range(10_000))

    def read(*names, options=(), **changes):
        for name in names:
            if name.endswith("/"):
                (tmp_path / name).mkdir(parents=True)
            elif name.endswith(".wav"):
                write(tmp_path / name, noise(16, next(counter)))
            else:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text(name)
        return open_corpus(settings("folder", root=str(tmp_path), options=options, **changes))

    return read


def files(*folders, count=1):
    return [f"{folder}/{folder.replace('/', '-')}x{number}.wav" for folder in folders for number in range(count)]


def of_fold(corpus):
    return dict(Counter(clip.fold for clip in corpus.clips))


BOTH = ("{}/dog", "{}/cat")


@pytest.mark.parametrize(
    ("first", "second", "test"),
    [
        ("train", "test", "test"), ("Train", "Test", "test"), ("training", "testing", "test"), ("TRAIN", "Val", "val"),
        ("train_set", "validation", "val"), ("train", "dev", "val"), ("Training", "eval", "eval"),
    ],
)  # fmt: skip
def test_folders_named_after_splits_in_any_spelling(opened, first, second, test):
    corpus = opened(*files(*(part.format(split) for split in (first, second) for part in BOTH)))
    assert corpus.classes == ("cat", "dog")
    assert corpus.folds == (test,)
    assert of_fold(corpus) == {"train": 2, test: 2}
    assert [len(part) for part in corpus.split(test)] == [2, 2]
    with pytest.raises(ValueError, match=rf"no fold 'tset'; (did you mean test\? )?choose from {test}"):
        select_folds(corpus, ["tset"])


def test_three_splits_with_other_classes_in_each(opened):
    corpus = opened(*files("train/dog", "train/cat", "test/dog", "valid/cat"))
    assert corpus.folds == ("test", "val")
    train, test = corpus.split("test")
    assert (len(train), len(test)) == (2, 1)
    assert corpus.notes == ()
    for options, said in (
        ({"num_folds": 5}, r"num_folds=5: .* has its own splits \(test, train, val\)"),
        ({"group": "none"}, r"group=none: .* has its own splits"),
        ({"splits": "yes"}, r"data\.options\.splits='yes': choose from null, true, false"),
    ):
        with pytest.raises(ValueError, match=said):
            opened(options=options)


def test_folders_without_sounds_beside_splits_are_no_classes(opened, caplog):
    caplog.set_level(logging.INFO)
    names = ("metadata/", "docs/readme.txt", "__MACOSX/train/dog/._a.wav", ".ipynb_checkpoints/a.wav", "test/cow/")
    corpus = opened(*files("train/dog", "train/cat", "test/dog"), *names)
    assert corpus.classes == ("cat", "dog")
    assert corpus.notes == ("folders without sounds left out: docs, metadata, test/cow",)
    assert "test, train: taken as splits" in caplog.text


def test_train_alone_gets_folds_within(opened):
    corpus = opened(*files("train/dog", "train/cat", count=6))
    assert corpus.classes == ("cat", "dog")
    assert corpus.folds == ("1", "2", "3", "4", "5")
    assert corpus.notes == ("the only split there is train: folds are made within it",)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["train/dog", "test/dog", "more/dog"],
            r"beside the splits test, train lie 1 sounds that are in none \(more/\)",
        ),
        (["train/dog", "more/dog"], "beside the splits train lie 1 sounds"),
        (["train/dog", "train/cat", "cow"], "beside the splits train lie 1 sounds"),
        (["train", "test", "dog"], "beside the splits test, train lie 1 sounds"),
        (["test", "cow", "dog"], "beside the splits test lie 2 sounds"),
        (["train/dog", "val/dog", "validation/dog"], "val and validation both mean the split val"),
        (["test/dog", "val/dog"], "has the splits test, val and none called train"),
        (["train/dog", "test"], r"1 files are in no class folder, the first is .*test/.*predict"),
        (["sounds/train/dog", "sounds/test/dog"], r"its only folder sounds holds splits; set data\.root=.*/sounds"),
        (["dog/train", "dog/test", "cat"], "some classes have the folders test, train, but cat has sounds outside"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_in_one_line(opened, names, said):
    with pytest.raises(ValueError, match=said) as caught:
        opened(*files(*names))
    assert "\n" not in str(caught.value)


def test_a_class_called_train(opened):
    corpus = opened(*files("train", "dog", "rain", count=5))
    assert corpus.classes == ("dog", "rain", "train")
    assert corpus.notes == ("train is taken as a class, as dog, rain are; if it is a split, move those away",)
    with pytest.raises(ValueError, match="beside the splits train lie 10 sounds"):
        opened(options={"splits": True})


def test_a_class_called_train_with_folders_of_recordings(opened):
    names = [f"{label}/{label}day{day}/a.wav" for label in ("train", "dog", "rain") for day in range(5)]
    assert opened(*names).classes == ("dog", "rain", "train")


def test_splits_may_be_forced_away(opened, caplog):
    caplog.set_level(logging.INFO)
    corpus = opened(*files("train/dog", "test/dog", count=5), options={"splits": False})
    assert corpus.classes == ("test", "train")
    assert "test, train: taken as classes, as data.options.splits=false says" in caplog.text


def test_splits_that_are_not_there_cannot_be_forced(opened):
    with pytest.raises(ValueError, match=r"splits=true: .* has neither folders named train"):
        opened(*files("dog", "cat"), options={"splits": True})


def test_splits_below_the_classes(opened):
    corpus = opened(*files("dog/Train", "dog/Test", "cat/Train", "cat/Test/deep"))
    assert corpus.classes == ("cat", "dog")
    assert of_fold(corpus) == {"train": 2, "test": 2}


def test_folders_named_after_folds(opened):
    corpus = opened(*files(*(f"fold{number}/{label}" for number in (1, 2, 10) for label in ("dog", "cat"))))
    assert (corpus.classes, corpus.folds) == (("cat", "dog"), ("1", "2", "10"))
    assert [split_of_folder(name) for name in ("fold_03", "Fold 4", "cv5", "6", "folder1")] == [
        "3",
        "4",
        "5",
        None,
        None,
    ]


def test_splits_without_classes_are_unlabelled(opened):
    corpus = opened(*files("train", "test", count=2))
    assert (corpus.classes, corpus.folds) == ((), ("test",))
    assert corpus.notes == ("test, train hold sounds directly, no class folders: unlabelled, for pretraining only",)


def test_digits_are_classes_and_one_class_is_said(opened):
    assert opened(*files(*"0123", count=5)).classes == ("0", "1", "2", "3")


def test_one_class_is_said(opened, tmp_path):
    corpus = opened(*files("audio/dog", "audio/cat", count=5), "meta/all.csv", options={"num_folds": 2})
    (_, note) = corpus.notes
    assert note == (
        f"only one class, audio: nothing to tell apart; if cat, dog are the classes, set data.root={tmp_path}/audio; "
        f"if meta/all.csv has the labels, open it: data=manifest data.path={tmp_path}/meta/all.csv"
    )


def test_spellings_of_one_class_are_named(opened):
    corpus = opened(*files("dog bark", count=5), *files("Dog_bark", count=6), *files("rain", count=5))
    assert corpus.classes == ("Dog_bark", "dog bark", "rain")
    assert "nearly equal labels are different classes: 'Dog_bark' (6 files) and 'dog bark' (5 files)" in corpus.notes


@pytest.mark.usefixtures("no_ffmpeg")
def test_classes_that_lose_all_their_files_are_named(opened):
    corpus = opened(
        *files("train/dog", "train/cat", "test/dog"), "train/rain/1.m4a", "test/rain/2.m4a", "test/rain/3.wma",
        "test/cat/4.m4a", "train/dog/5.m4a", "train/dog/notes.txt",
    )  # fmt: skip
    assert corpus.classes == ("cat", "dog")
    assert corpus.notes[0].startswith("5 files (4 .m4a, 1 .wma) left out, which cannot be decoded here; ")
    assert corpus.notes[1:] == (
        "class rain has lost all its files: 3 files (2 .m4a, 1 .wma)",
        "class test/cat has lost all its files: 1 file (1 .m4a)",
    )


@pytest.mark.usefixtures("no_ffmpeg")
def test_nothing_that_can_be_read(opened):
    with pytest.raises(ValueError, match=r"no sound files \(\.wav, .*\); 1 file \(1 \.m4a\) left out, which cannot"):
        opened("dog/1.m4a")


def test_latin1_names_are_left_out_with_a_readable_note(opened, tmp_path):
    folder = os.fsencode(tmp_path) + "/hündin/".encode("latin-1")
    os.mkdir(folder)
    for name in (b"1.wav", b"2.wav"):
        with open(folder + name, "wb") as file:
            file.write(b"x")
    corpus = opened(*files("dog", "cat", count=5))
    assert corpus.classes == ("cat", "dog")
    assert r"2 sound files left out, their names are not UTF-8 text" in corpus.notes[0]
    assert corpus.notes[1] == r"class h\udcfcndin has lost all its files: 2 files (2 .wav)"
    "".join(corpus.notes).encode()


def lists(root, **named):
    for name, lines in named.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")


def test_speech_commands_lists_are_splits(opened, tmp_path):
    names = files("yes", "no", count=3)
    lists(
        tmp_path, validation_list=["yes/yesx0.wav", "./no/nox0.wav", ""],
        testing_list=["yes\\yesx1.wav", "no/nox1.wav", "no/gone.wav"],
    )  # fmt: skip
    corpus = opened(*names, "_background_noise_/hum.wav", "_background_noise_/README.md")
    assert corpus.classes == ("no", "yes")
    assert corpus.folds == ("test", "val")
    assert [Path(clip.path).name for clip in corpus.clips if clip.fold == "test"] == ["nox1.wav", "yesx1.wav"]
    assert of_fold(corpus) == {"train": 2, "val": 2, "test": 2}
    assert corpus.notes == (
        "1 of the 5 files in testing_list.txt, validation_list.txt are not there: no/gone.wav",
        "_background_noise_ is no class: 1 sounds left out",
    )
    assert opened(options={"splits": False}).folds == ("1", "2", "3", "4", "5")
    lists(tmp_path, training_list=["yes/yesx2.wav"])
    corpus = opened()
    assert of_fold(corpus) == {"train": 1, "val": 2, "test": 2}
    assert "1 sounds are in none of the lists and left out" in corpus.notes


def test_lists_that_cannot_be_meant(opened, tmp_path):
    lists(tmp_path, testing_list=["yes.wav"])
    with pytest.raises(ValueError, match=r"testing_list\.txt name no file that is there, the first is yes\.wav"):
        opened(*files("yes", "no"))
    lists(tmp_path, testing_list=["yes/yesx0.wav"], test_list=["no/nox0.wav"])
    with pytest.raises(ValueError, match=r"test_list\.txt and testing_list\.txt both list the split test"):
        opened()
    (tmp_path / "test_list.txt").unlink()
    lists(tmp_path, validation_list=["# none", "yes/yesx0.wav"])
    with pytest.raises(ValueError, match=r"validation_list\.txt line 2: yes/yesx0\.wav is also in testing_list\.txt"):
        opened()
    (tmp_path / "validation_list.txt").write_bytes(b"n\xf6/a.wav")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_split_lists(tmp_path)


def test_folds_are_even_in_every_class_and_say_what_is_thin(opened, caplog):
    caplog.set_level(logging.INFO)
    names = [*files("dog", count=12), *files("cat", count=5), *files("cow", count=3), *files("emu")]
    names += [f"owl/rec{number}/audio.wav" for number in range(10)]  # the same name everywhere
    corpus = opened(*names, folds="all")
    share = {
        label: sorted(Counter(c.fold for c in corpus.clips if c.labels == (number,)).values())
        for number, label in enumerate(corpus.classes)
    }
    assert share == {"dog": [2, 2, 2, 3, 3], "cat": [1] * 5, "cow": [1] * 3, "emu": [1], "owl": [2] * 5}
    assert corpus.notes == (
        "all clips of emu are in one fold: tested there, they are not trained on",
        "cow: fewer groups of clips than the 5 folds, some folds test none",
    )
    again = opened(*files("newcomer", count=5))
    before, after = ({clip.path: clip.fold for clip in each.clips} for each in (corpus, again))
    assert all(after[path] == fold for path, fold in before.items())


def test_recordings_stay_together(opened, caplog):
    caplog.set_level(logging.INFO)
    names = [f"{label}/{label}rec{rec}_{part}.wav" for label in ("dog", "cat") for rec in range(6) for part in range(3)]
    corpus = opened(*names)
    recordings = {}
    for clip in corpus.clips:
        recordings.setdefault(Path(clip.path).stem.rpartition("_")[0], set()).add(clip.fold)
    assert len(recordings) == 12
    assert all(len(folds) == 1 for folds in recordings.values())
    assert "grouped 36 files into 12 recordings by their names without counters" in caplog.text


def test_copies_stay_together_and_contradictions_are_named(opened, tmp_path):
    names = files("dog", "cat", count=10)
    opened(*names)
    for number in range(3):
        (tmp_path / f"dog/copy{number}.wav").write_bytes((tmp_path / f"dog/dogx{number}.wav").read_bytes())
    (tmp_path / "cat/copy.wav").write_bytes((tmp_path / "dog/dogx0.wav").read_bytes())
    corpus = opened()
    fold = {Path(clip.path).relative_to(tmp_path).as_posix(): clip.fold for clip in corpus.clips}
    for number in range(3):
        assert fold[f"dog/copy{number}.wav"] == fold[f"dog/dogx{number}.wav"]
    assert fold["cat/copy.wav"] == fold["dog/dogx0.wav"]
    assert corpus.notes == (
        "4 of 24 clips are byte copies of others; no fold has one in training and in test; copies with different "
        f"labels (1): {tmp_path}/cat/copy.wav (cat) = {tmp_path}/dog/copy0.wav (dog)",
    )


def test_a_class_of_copies_is_spread_all_the_same(opened, tmp_path):
    opened(*files("dog", count=5))
    for number in range(5):
        write(tmp_path / f"silence/{number}.wav", noise(16, 77))
    corpus = opened()
    assert sorted(clip.fold for clip in corpus.clips if clip.labels == (1,)) == ["1", "2", "3", "4", "5"]
    assert "4 of 10 clips are byte copies of others; 1 of 1 test clips of fold 1" not in corpus.notes[0]
    assert corpus.notes[0].startswith(
        "4 of 10 clips are byte copies of others; 1 of 2 test clips of fold 1 are also in"
    )


def test_composed_and_decomposed_letters_are_one_name(tmp_path):
    folds = []
    for name in ("h\u00fcndin", "hu\u0308ndin"):
        root = tmp_path / str(len(folds))
        for number in range(10):
            write(root / name / f"{number}.wav", noise(16, number))
        folds.append([clip.fold for clip in open_corpus(settings("folder", root=str(root))).clips])
    assert folds[0] == folds[1]


def test_files_without_classes_have_no_labels(opened):
    corpus = opened("0.wav", "1.wav", "2.wav", "docs/")
    assert (corpus.classes, corpus.folds) == ((), ())
    assert all(clip.labels == () for clip in corpus.clips)
    with pytest.raises(ValueError, match="no folds at all"):
        opened(folds=[1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": {"num_fold": 3}}, r"data\.options\.num_fold.*did you mean num_folds"),
        ({"options": {"num_folds": 1}}, "at least 2"),
        ({"options": {"group": "fodler"}}, r"data\.options\.group=fodler: did you mean folder"),
        ({"label": "speaker"}, r"data\.label=speaker"),
        ({"path": "a.csv"}, r"data\.path=a\.csv"),
        ({"folds": [9]}, "no fold '9'"),
    ],
)
def test_settings_without_effect(opened, changes, said):
    with pytest.raises(ValueError, match=said):
        opened(*files("a", count=10), **changes)


def test_mistakes(opened, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"set data\.root"):
        open_corpus(settings("folder"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_corpus(settings("folder", root=str(tmp_path / "x")))
    with pytest.raises(ValueError, match="no sound files"):
        opened()
    with pytest.raises(ValueError, match=r"1 files are in no class folder, the first is .*2\.wav"):
        opened("a/1.wav", "2.wav")
