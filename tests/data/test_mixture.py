"""Mixtures: what is in them, how they are split, what is refused."""

import pytest
from sound_files import noise, settings, sine, write

from vcrast.config.compose import compose, of_mixture
from vcrast.data.open import open_corpus, open_data


@pytest.fixture
def folders(tmp_path):
    for number in range(6):
        write(tmp_path / "one" / "ab"[number % 2] / f"{number}.wav", noise(4000, number))
        write(tmp_path / "two" / ("train", "test")[number // 4] / "bc"[number % 2] / f"{number}.wav", sine(16000))
        write(tmp_path / "three" / f"{number}.wav", noise(4000, 10 + number))
    return tmp_path


def mixed(folders, *names, **values):
    sources = {name: {"name": "folder", "root": str(folders / name)} for name in names}
    if "one" in sources:
        sources["one"]["options"] = {"num_folds": 2}
    return open_corpus(settings("mixture", sources=sources, **values))


def test_clips_classes_and_folds_of_all(folders):
    corpus = mixed(folders, "one", "two", "three")
    assert (corpus.name, corpus.classes, corpus.folds) == ("one+two+three", ("a", "b", "c"), ("1", "2", "test"))
    assert corpus.table.part.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    for clip in corpus.clips:
        folders_of_classes = [part for part in clip.path.split("/") if part in {"a", "b", "c"}]
        assert [corpus.classes[label] for label in clip.labels] == folders_of_classes
    assert "a mixture of 6 of one, 6 of two, 6 of three" in corpus.notes
    train, test = corpus.split("1")
    assert {clip.fold for clip in test} == {"1"}
    assert sorted(clip.fold for clip in train) == [""] * 6 + ["2"] * (6 - len(test)) + ["train"] * 4
    train, test = corpus.split("test")
    assert (len(train), len(test)) == (6 + 4 + 6, 2)


def test_what_is_trained_on_has_the_shares_asked_for(folders):
    data = settings(
        "mixture", sources={name: {"name": "folder", "root": str(folders / name)} for name in ("one", "three")}
    )
    data.weights = [3.0, 1.0]
    corpus = open_corpus(data)
    clips = open_data(data, corpus).dataset(corpus.clips, seed=0)
    order = clips.order(0).epoch(0)
    assert (clips.clips.part[order.numpy()] == 0).sum() == 9
    assert len(order) == 12


def test_words_of_the_command_line_name_the_datasets():
    assert of_mixture("data=esc50") == ["data=esc50"]
    own = ["data.sources.mine.name=folder", "data.sources.mine.root=/a b/c"]
    data = compose(["data=[esc50,mine]", *own, "data.weights=[1,2]"]).data
    assert data.name == "mixture"
    assert data.sources == {"esc50": {}, "mine": {"name": "folder", "root": "/a b/c"}}
    for wrong in ("data=[]", "data=[esc50,esc50]", "data=[a b]"):
        with pytest.raises(ValueError, match="names of datasets, each once"):
            of_mixture(wrong)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"sources": {"esc50": {}}}, "two datasets or more"),
        ({"sources": {}}, "two datasets or more"),
        ({"weights": [1.0]}, r"data.weights=\[1.0\]: give a positive number for each of one, two"),
        ({"weights": [1.0, 0.0]}, "positive number"),
        ({"weights": [1.0, float("inf")]}, "positive number"),
        ({"root": "/x"}, "data=mixture does not use it"),
    ],
)
def test_refusals(folders, values, told):
    given = {"sources": {name: {"name": "folder", "root": str(folders / name)} for name in ("one", "two")}, **values}
    with pytest.raises(ValueError, match=told):
        open_corpus(settings("mixture", **given))


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"pad": "silence"}, "data.sources.two.pad: is the mixture's own; set data.pad"),
        ({"rot": 1}, "data.sources.two.rot: no such setting; did you mean root"),
        ({"options": {"num_fold": 2}}, "data.sources.two: data.options.num_fold: data=folder has no such option"),
        ({"root": "/nowhere"}, "data.sources.two: .*/nowhere"),
        ({"name": "folders"}, "folder"),
    ],
)
def test_a_mistake_of_one_dataset_names_it(folders, own, told):
    sources = {name: {"name": "folder", "root": str(folders / name)} for name in ("one", "two")}
    sources["two"] |= own
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        open_corpus(settings("mixture", sources=sources))


@pytest.mark.parametrize("values", [{"weights": [1.0, 2.0]}, {"sources": {"esc50": {}}}])
def test_settings_of_mixtures_are_refused_elsewhere(folders, values):
    with pytest.raises(ValueError, match=r"of data=\[NAME,NAME\] alone; data=folder does not use it"):
        open_corpus(settings("folder", root=str(folders / "one"), **values))
