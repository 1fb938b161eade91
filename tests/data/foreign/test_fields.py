"""Labels and folds are found under the names that people use."""

import json

import numpy as np
import pytest

from vcrast.data.foreign.fields import collect, read_labels, read_split_field


def read(asked=None, classes=None, names=None, several=False, **fields):
    made = {name: collect(values, names, several=several) for name, values in fields.items()}
    num = len(next(iter(fields.values())))
    return read_labels(made, num, asked=asked, classes=classes, known=list(fields))


def told(labels):
    """The names of every sample; None where the label is missing."""
    bounds = zip(labels.starts[:-1], labels.starts[1:], labels.missing, strict=True)
    return [None if gone else [labels.classes[i] for i in labels.values[a:b]] for a, b, gone in bounds]


def test_names():
    labels = read(category=["rain", "dog", None, "rain", ""])
    assert told(labels) == [["rain"], ["dog"], None, ["rain"], None]
    assert labels.classes == ("dog", "rain")
    assert (labels.field, labels.multilabel) == ("category", False)


def test_several_names():
    labels = read(tags=[["b", "a"], [], ["a", "a"], None])
    assert told(labels) == [["b", "a"], [], ["a"], None]
    assert labels.multilabel
    assert not read(tags=[["b"], ["a"]]).multilabel
    assert read(tags=[[0], [1]], names=("x", "y"), several=True).multilabel


def test_numbers():
    assert read(label=[10, 2, 2.0, True]).classes == ("1", "2", "10")
    labels = read(label=[1, 0, "1", "dog"], classes=["dog", "rain", "siren"])
    assert told(labels) == [["rain"], ["dog"], ["rain"], ["dog"]]
    assert labels.classes == ("dog", "rain", "siren")
    labels = read(kind=[1, -1, 0], asked="kind", names=("dog", "rain"))
    assert told(labels) == [["rain"], None, ["dog"]]
    assert told(read(label=["10", "7"], classes=["7", "10"])) == [["10"], ["7"]], "a name that is a number"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "dog\n\nrain \n"),
        ("a.json", '["dog", "rain"]'),
        ("a.json", '{"1": "rain", "0": "dog"}'),
        ("a.json", '{"rain": 1, "dog": 0}'),
    ],
)
def test_names_from_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert told(read(cls=[1, 0], classes=str(tmp_path / name))) == [["rain"], ["dog"]]


@pytest.mark.parametrize(
    ("error", "said", "given"),
    [
        (ValueError, "label=2: has no name among 2 classes", {"label": [0, 2], "classes": ["a", "b"]}),
        (ValueError, "has no 'c' and 1 others, which are in label", {"label": ["a", "c", "d"], "classes": ["a", "b"]}),
        (ValueError, "fields label and labels; choose with data.label=", {"label": ["a"], "labels": ["b"]}),
        (ValueError, r"data.label=mood: no sample has such a field; .*label", {"label": ["a"], "asked": "mood"}),
        (ValueError, "is no label", {"label": [{"a": 1}]}),
        (ValueError, "is no label", {"label": [0.5]}),
        (ValueError, "label has the names of its classes", {"label": [0], "names": ("a",), "classes": ["b"]}),
        (ValueError, "no sample has a label; leave it null", {"mood": ["calm"], "classes": ["b"]}),
        (FileNotFoundError, "data.options.classes=nowhere.txt: no such file", {"label": [0], "classes": "nowhere.txt"}),
    ],
)
def test_what_is_wrong_is_named(error, said, given):
    with pytest.raises(error, match=said):
        read(**given)


def test_which_field():
    assert read(target=[0], category=["dog"]).field == "category"
    assert read(label=[[3]], labels=[["dog"]]).field == "labels", "names before numbers"
    assert read(text=["a dog"], cls=[1]).field == "cls"
    assert read(text=["dog", "rain"], mood=["calm", "calm"]).field == "text"
    assert read(text=["dog"], mood=["calm"], asked="Mood").field == "mood"


def test_sentences_are_no_labels():
    texts = [f"a dog barks {number} times" for number in range(50)]
    labels = read(text=texts)
    assert (labels.classes, labels.field) == ((), "")
    assert "data.label=text takes it" in labels.notes[0]
    assert len(read(text=texts, asked="text").classes) == 50
    assert len(read(label=texts).classes) == 50
    assert read(text=["dog", "rain"] * 25).classes == ("dog", "rain")


def test_a_field_of_classes_needs_no_usual_name():
    made = {"kind": collect([0, 1], ("dog", "rain")), "split": collect([0, 1], ("train", "test"))}
    assert read_labels(made, 2, asked=None, classes=None, known=made).field == "kind"
    made["mood"] = collect([0, 1], ("calm", "loud"))
    with pytest.raises(ValueError, match=r"the classes kind and mood; choose with data.label="):
        read_labels(made, 2, asked=None, classes=None, known=made)


@pytest.mark.parametrize(
    ("values", "names", "folds"),
    [
        (["Training", "validation", "TEST"], None, ["train", "val", "test"]),
        ([1, 2.0, "3"], None, ["1", "2", "3"]),
        ([0, 1, 0], ("train", "dev"), ["train", "val", "train"]),
        (["train", None, "test"], None, ["train", "", "test"]),
    ],
)
def test_folds(values, names, folds):
    numbers, called = read_split_field(collect(values, names), "split")
    assert [called[number] for number in numbers] == folds


def test_labels_are_those_of_a_loop():
    draw = np.random.default_rng(0)
    values = [draw.choice([*"abc"], draw.integers(0, 4)).tolist() if draw.random() < 0.8 else None for _ in range(500)]
    unique = [None if value is None else list(dict.fromkeys(value)) for value in values]
    assert told(read(labels=values)) == unique
    assert len(collect(values).values) == len({json.dumps(value) for value in values} - {"null"})
