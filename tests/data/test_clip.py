import pytest
from sound_files import settings

from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus, fold_names, select_folds
from vcrast.data.sources.manifest import manifest


def corpus(*folds, classes=("a", "b")):
    clips = tuple(Clip(f"{i}.wav", (i % 2,), fold=fold) for i, fold in enumerate(folds))
    return Corpus("toy", clips, classes, False, fold_names(clips))


def test_leave_one_fold_out():
    train, test = corpus("1", "2", "3", "1").split("1")
    assert [clip.path for clip in train] == ["1.wav", "2.wav"]
    assert [clip.path for clip in test] == ["0.wav", "3.wav"]


def test_fixed_splits_never_train_on_validation():
    fixed = corpus("train", "test", "valid", "train")
    assert fixed.folds == ("test", "valid")
    train, test = fixed.split("test")
    assert {clip.fold for clip in train} == {"train"}
    assert {clip.fold for clip in test} == {"test"}


def test_folds_are_in_order_of_number():
    assert fold_names(corpus("10", "9", "1").clips) == ("1", "9", "10")


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [([1], ["1"]), ("all", ["1", "2"]), ([2, "1"], ["2", "1"]), (2, ["2"]), ("2", ["2"]), (None, ["1"])],
)
def test_select_folds(asked, chosen):
    assert select_folds(corpus("1", "2"), asked) == chosen


def test_select_folds_prefers_test_and_allows_none():
    assert select_folds(corpus("train", "eval", "test"), None) == ["test"]
    assert select_folds(corpus("", ""), None) == []


@pytest.mark.parametrize(
    ("asked", "said"), [([6], r"no fold '6'.*choose from 1, 2"), ([], "names no fold"), ([1, "1"], "twice")]
)
def test_wrong_folds(asked, said):
    with pytest.raises(ValueError, match=said):
        select_folds(corpus("1", "2"), asked)


def test_wrong_fold_of_split_and_of_a_corpus_without_folds():
    with pytest.raises(ValueError, match="choose from 1, 2"):
        corpus("1", "2").split("3")
    with pytest.raises(ValueError, match="no folds at all"):
        select_folds(corpus("", ""), [1])


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_manifest_with_quotes_commas_and_columns_of_its_own(tmp_path, multilabel):
    names = ["dog, small;zebra", "cat", "zebra"] if multilabel else ["dog, small", "cat", "zebra"]
    lines = [f"path,{'labels' if multilabel else 'label'},fold,start,duration,speaker"]
    lines += [f'"{i}, ""quoted"".wav","{name}",{i},{i / 4},{"" if i else 0.1},s {i}' for i, name in enumerate(names)]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    for i in range(3):
        (tmp_path / f'{i}, "quoted".wav').touch()
    classes = ["dog, small", "cat", "zebra"]
    read = manifest(settings("manifest", path=str(tmp_path / "m.csv"), options={"classes": classes}))
    assert (read.classes, read.multilabel, read.folds) == (tuple(classes), multilabel, ("0", "1", "2"))
    assert [clip.path for clip in read.clips] == [str(tmp_path / f'{i}, "quoted".wav') for i in range(3)]
    assert [clip.labels for clip in read.clips] == [(0, 2) if multilabel else (0,), (1,), (2,)]
    assert [(clip.start_s, clip.duration_s, clip.line) for clip in read.clips] == [
        (0, 0.1, 2),
        (0.25, None, 3),
        (0.5, None, 4),
    ]
    assert [clip.extra for clip in read.clips] == [{"speaker": f"s {i}"} for i in range(3)]


def test_a_split_may_be_spelled_in_any_way():
    fixed = corpus("train", "test", "val", "train")
    assert select_folds(fixed, ["Test", "validation"]) == ["test", "val"]
    with pytest.raises(ValueError, match=r"no fold 'Testing'"):
        select_folds(corpus("1", "2"), ["Testing"])
