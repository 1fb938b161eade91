import json
from pathlib import Path

import pytest
from sound_files import settings

from vcrast.data.open import open_corpus


def test_manifest(listed):
    corpus = listed(
        'path,label,fold,start,duration,speaker\na.wav,dog,1,,,x\nb.wav,cat,2,0.0005,0.0002,y\n"d, e.wav",dog,2,,,x\n'
    )
    assert corpus.classes == ("cat", "dog")
    assert corpus.folds == ("1", "2")
    assert [clip.labels for clip in corpus.clips] == [(1,), (0,), (1,)]
    assert (corpus.clips[1].start_s, corpus.clips[1].duration_s, corpus.clips[1].line) == (0.0005, 0.0002, 3)
    assert corpus.clips[2].extra == {"speaker": "x"}
    assert Path(corpus.clips[2].path).name == "d, e.wav"
    assert not corpus.multilabel


def test_manifest_any_column_as_label(listed):
    text = "path,label,fold,speaker\na.wav,dog,1,10\nb.wav,cat,2,9\n"
    corpus = listed(text, label="speaker")
    assert corpus.classes == ("9", "10")
    assert corpus.clips[0].extra == {"label": "dog"}
    with pytest.raises(
        ValueError, match=r"data\.label=speker: .*did you mean speaker\? choose from fold, label, path, speaker"
    ):
        listed(text, label="speker")
    with pytest.raises(ValueError, match=r"data\.options\.fold=part: .*choose from"):
        listed(text, options={"fold": "part"})


def test_manifest_from_windows(listed):
    corpus = listed(b"\xef\xbb\xbfpath,label\r\na.wav,dog\r\n\r\nb.wav,cat\r\n")
    assert corpus.classes == ("cat", "dog")
    assert corpus.folds == ()
    assert [clip.line for clip in corpus.clips] == [2, 4]


def test_manifest_json_lines(listed):
    rows = [
        {"path": "a.wav", "labels": ["dog", "rain"], "split": "train", "take": 3},
        {"path": "b.wav", "labels": [], "split": "test", "start": 0.0001},
    ]
    corpus = listed("\n".join(map(json.dumps, rows)), name="m.jsonl")
    assert corpus.multilabel
    assert corpus.classes == ("dog", "rain")
    assert [clip.labels for clip in corpus.clips] == [(0, 1), ()]
    assert corpus.clips[0].extra == {"take": "3"}
    assert corpus.folds == ("test",)


@pytest.mark.parametrize("cell", ["dog;rain", '"[""dog"", ""rain""]"', "dog; rain"])
def test_manifest_several_labels_in_a_cell(listed, cell):
    corpus = listed(f"path,labels\na.wav,{cell}\nb.wav,rain\n")
    assert corpus.multilabel
    assert [clip.labels for clip in corpus.clips] == [(0, 1), (1,)]


def test_manifest_without_labels(listed):
    corpus = listed("path\na.wav\nb.wav\n")
    assert (corpus.classes, corpus.clips[0].labels) == ((), ())


def test_manifest_lists_every_bad_row(listed):
    text = (
        "path,label,fold,start,duration\n"
        "a.wav,dgo,1,,\n"  # 2: unknown label
        "b.wav,dog,1,soon,\n"  # 3: bad number
        "b.wav,dog,1,-1,\n"  # 4: negative
        "b.wav,dog,1,,0\n"  # 5: no length
        "b.wav,,1,,\n"  # 6: no label
        ",dog,1,,\n"  # 7: no path
        "c.wav,dog,,,\n"  # 8: no fold
        "c.wav,dog,1\n"  # 9: cells missing
        "c.wav,dog,1,,nan\n"  # 10
        "a.wav,dog,2,,\n"  # 11: fine
        "c.wav,cat,1,,\n"  # 12: fine
        "c.wav,cat,2,,\n"  # 13: again
    )
    with pytest.raises(ValueError, match="faults") as caught:
        listed(text, options={"classes": ["dog", "cat"]})
    said = str(caught.value)
    assert "10 faults in 11 rows" in said
    for line, what in (
        (2, "unknown label 'dgo'; did you mean dog"), (3, "start='soon'"), (4, "start='-1'"), (5, "duration is 0"),
        (6, "label is missing or empty"), (7, "path is missing"), (8, "fold is missing"),
        (9, "3 cells, the header has 5"),
        (10, "duration='nan'"), (13, "the same clip as line 12"),
    ):  # fmt: skip
        assert any(f"line {line}: " in row and what in row for row in said.splitlines()), (line, what)


def test_manifest_lists_the_first_20(listed):
    with pytest.raises(ValueError, match="and 10 more") as caught:
        listed("path\n" + "".join(f"absent{i}.wav\n" for i in range(30)) + "a.wav\n")
    assert "30 faults in 31 clips" in str(caught.value)
    assert "line 21: " in str(caught.value)
    assert "line 22: " not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "sound,label\na.wav,x\n",
            r"no column of paths \(path, .*it has sound, label; data\.options\.columns\.path=NAME",
        ),
        ("path,label\n", "no rows"),
        ("", "no rows"),
        ("path,path\na.wav,b.wav\n", "two columns called 'path'"),
        ("path,label,labels\na.wav,x,y\n", "choose with data.label="),
        ("path,label,fold\na.wav,x,1\nb.wav,y,1\n", "leaves 0 clips to train on"),
    ],
)
def test_manifest_heads(listed, text, said):
    with pytest.raises(ValueError, match=said):
        listed(text)


def test_manifest_bad_json(listed):
    with pytest.raises(ValueError, match=r"line 2: not JSON(.|\n)*line 3: not a JSON object"):
        listed('{"path": "a.wav"}\n{"path": \n[1]\n', name="m.jsonl")


def test_manifest_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"set data\.path=FILE"):
        open_corpus(settings("manifest"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_corpus(settings("manifest", path=str(tmp_path / "x.csv")))
    with pytest.raises(FileNotFoundError, match=r"data\.root=x: no such folder"):
        open_corpus(settings("manifest", root="x", path="y"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": "dog"}, r"data\.options\.classes=dog: give a list, such as \[dog,other\]"),
        ({"merge_rows": "some"}, r"data\.options\.merge_rows=some: set true, false or null"),
        ({"colums": {}}, r"data\.options\.colums: .*did you mean columns\?"),
    ],
)
def test_options_of_the_wrong_kind(listed, options, said):
    with pytest.raises(ValueError, match=said):
        listed("path,label\na.wav,dog\n", options=options)
