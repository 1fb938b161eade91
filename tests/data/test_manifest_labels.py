"""Read one or several labels in a cell, whatever stands between them."""

import pytest

from vcrast.data.table.labels import find_separator


def rows(*cells, column="label"):
    """One row per cell, of files of its own."""
    return f"path;{column}\n" + "".join(f'{f}.wav;"{cell}"\n' for f, cell in zip("abcdefgh", cells, strict=False))


@pytest.fixture(autouse=True)
def eight_sounds(listed):
    listed.sounds(*(f"{f}.wav" for f in "abcdefgh"))


def names(corpus):
    return [{corpus.classes[i] for i in clip.labels} for clip in corpus.clips]


@pytest.mark.parametrize(
    ("column", "cells", "expected"),
    [
        ("labels", ["Electric_guitar,Guitar", "Guitar"], [{"Electric_guitar", "Guitar"}, {"Guitar"}]),
        ("label", ["Electric_guitar,Guitar", "Guitar"], [{"Electric_guitar", "Guitar"}, {"Guitar"}]),
        ("label", ["dog|cat", "dog", "cat"], [{"dog", "cat"}, {"dog"}, {"cat"}]),
        ("label", ["dog;cat", "cat; rain", "rain;"], [{"dog", "cat"}, {"cat", "rain"}, {"rain"}]),
        ("label", ["dog, cat", "cat, rain", "rain"], [{"dog", "cat"}, {"cat", "rain"}, {"rain"}]),
        ("tags", ["dog,animal", "dog,animal", "rain"], [{"dog", "animal"}, {"dog", "animal"}, {"rain"}]),
        ("label", ["['dog', 'cat']", "['dog']", "[]"], [{"dog", "cat"}, {"dog"}, set()]),
        ("label", ["{'dog', 'cat'}", "('dog',)", "{dog}"], [{"dog", "cat"}, {"dog"}, {"{dog}"}]),
        ("label", ["['dog' 'cat']", "['cat']"], [{"dog", "cat"}, {"cat"}]),
        ("label", ['[""dog"", ""cat""]', "cat"], [{"dog", "cat"}, {"cat"}]),
        ("label", ["a;b, c", "a", "b, c"], [{"a", "b, c"}, {"a"}, {"b, c"}]),
    ],
)  # fmt: skip
def test_several_labels_in_a_cell(listed, column, cells, expected):
    corpus = listed(rows(*cells, column=column))
    assert names(corpus) == expected
    assert corpus.multilabel


AUDIOSET = [
    "Bird vocalization, bird call, bird song",
    "Inside, small room",
    "Inside, large room or hall",
    "Bird",
    "Music",
]


@pytest.mark.parametrize(
    ("column", "cells", "separator"),
    [
        ("label", AUDIOSET, ","),
        ("labels", AUDIOSET, ","),
        ("category", ["Dog", "Dog, barking", "Dog, howling"], ","),
        ("label", ["dog|cat", "rain"], "|"),
        ("label", ["and;or", "and;or", "rain"], ";"),
    ],
)
def test_names_with_separators_are_not_torn(listed, column, cells, separator):
    corpus = listed(rows(*cells, column=column))
    assert corpus.classes == tuple(sorted(set(cells)))
    torn = next(cell for cell in cells if separator in cell)
    assert any(f"cells with {separator!r} are one class each, such as {torn!r}" in note for note in corpus.notes)


def test_the_separator_is_said_with_a_cell(listed):
    notes = listed(rows("rain", "dog|rain")).notes
    assert "label: several labels in a cell, separated by '|' (such as 'dog|rain', line 3)" in notes


@pytest.mark.parametrize("separator", ["", False])
def test_a_separator_is_forced_or_switched_off(listed, separator):
    whole = listed(rows("dog|cat", "dog", "cat"), options={"label_separator": separator})
    assert whole.classes == ("cat", "dog", "dog|cat")
    assert not whole.multilabel
    assert names(listed(rows("Inside, small room"), options={"label_separator": "comma"})) == [{"Inside", "small room"}]
    assert names(listed(rows("a+b", "c"), options={"label_separator": "+"})) == [{"a", "b"}, {"c"}]
    assert listed(rows("a", "c"), options={"label_separator": ";"}).multilabel
    with pytest.raises(
        ValueError, match=r"label_separator=3: give a character, its name \(semicolon, bar, comma, space\)"
    ):
        listed(rows("a"), options={"label_separator": 3})


def test_allowed_classes_decide_what_is_one_label(listed):
    classes = ["dog", "cat", "dog, small"]
    corpus = listed(rows("dog, small", "dog, cat", "cat"), options={"classes": classes})
    assert names(corpus) == [{"dog, small"}, {"dog", "cat"}, {"cat"}]
    with pytest.raises(ValueError, match=r"line 2: unknown label 'dog, rain'"):
        listed(rows("dog, rain"), options={"classes": ["cow"]})


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "None", "null", "<NA>"])
def test_empty_cells_are_faults(listed, cell):
    with pytest.raises(ValueError, match=r"1 faults in 2 rows\n  line 3: label is missing or empty"):
        listed(rows("dog", cell))


def test_empty_values_of_json_are_faults_and_an_empty_list_is_not(listed):
    text = '{"path": "a.wav", "label": NaN}\n{"path": "b.wav", "label": null}\n{"path": "c.wav", "label": 3}'
    with pytest.raises(ValueError, match=r"2 faults in 3 rows\n  line 1: .*\n  line 2: label is missing or empty$"):
        listed(text, name="m.jsonl")
    assert names(listed('[{"path": "a.wav", "label": []}, {"path": "b.wav", "label": [" dog"]}]', name="m.json")) == [
        set(),
        {"dog"},
    ]
    assert listed(rows("none", "dog")).classes == ("dog", "none")
    assert listed(rows("None", "dog"), options={"classes": ["None", "dog"]}).clips[0].labels == (0,)
    with pytest.raises(ValueError, match=r"line 2: label is not a list as JSON or Python write it: \[dog"):
        listed(rows("[dog, cat]"))


def test_nearly_equal_classes_are_named_with_their_rows(listed):
    corpus = listed(rows("DOG", "dog", "dog", "electric guitar", "Electric_guitar", "cat"))
    assert corpus.classes == ("DOG", "Electric_guitar", "cat", "dog", "electric guitar")
    assert corpus.notes[1:] == (
        "nearly equal labels are different classes: 'DOG' (1 row, first line 2) and 'dog' (2 rows, first line 3)",
        "nearly equal labels are different classes: 'Electric_guitar' (1 row, first line 6) and 'electric guitar' "
        "(1 row, first line 5)",
    )
    assert len(listed(rows("1", "1.0", "2")).notes) == 2
    assert len(listed(rows("C", "C#", "D_1", "D 2")).notes) == 1


def test_rows_of_one_sound_with_other_labels_become_one_clip(listed):
    text = "path,label,start,end\na.wav,dog,0.1,0.5\na.wav,cat,0.1,0.5\na.wav,dog,0.2,0.5\nb.wav,cat,,\n"
    corpus = listed(text)
    assert corpus.multilabel
    assert names(corpus) == [{"dog", "cat"}, {"dog"}, {"cat"}]
    assert "4 rows are 3 clips: 1 of them have a row for each of their labels, such as lines 2, 3" in corpus.notes
    with pytest.raises(
        ValueError, match=r"1 faults in 4 rows\n  line 3: .*the same clip as line 2, with another label"
    ):
        listed(text, options={"merge_rows": False})


def test_one_clip_listed_twice_in_many_is_a_mistake(listed):
    listed.sounds(*(f"n{i}.wav" for i in range(20)), seconds=0.01)
    text = "path,label\n" + "".join(f"n{i}.wav,{'dog' if i % 2 else 'cat'}\n" for i in range(20)) + "n3.wav,cat\n"
    with pytest.raises(ValueError, match=r"line 22: .*n3\.wav: the same clip as line 5, with another label; put both"):
        listed(text)
    assert len(listed(text, options={"merge_rows": True}).clips) == 20
    with pytest.raises(ValueError, match=r"line 22: .*n3\.wav: the same clip as line 5$"):
        listed(text.removesuffix("cat\n") + "dog\n")


def test_two_folds_of_one_clip_are_not_joined(listed):
    with pytest.raises(ValueError, match=r"line 3: .*the same clip as line 2$"):
        listed("path,label,fold\na.wav,dog,1\na.wav,cat,2\n")


def test_what_counts_as_a_separator():
    assert find_separator({}, plural=True) == (None, None)
    assert find_separator({"a,b": 1, "b,c": 2}, plural=False)[0] is None  # one of three pieces
    assert find_separator({"a,b": 1, "b,c": 2, "c": 3}, plural=False)[0] == ","
    assert find_separator({"a, b": 1, "b": 2}, plural=False)[0] is None  # half, where a blank follows
    assert find_separator({"a, b": 1, "b": 2}, plural=True)[0] == ","
    assert find_separator({"a,b": 1}, plural=True)[0] == ","
    assert find_separator({"a;b": 1, "c,d": 2}, plural=True)[0] == ";"
