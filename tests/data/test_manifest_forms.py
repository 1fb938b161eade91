"""Read tables in every form that people have them in."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcrast.data.table.delimited import find_delimiter, read_delimited

ROWS = [("a.wav", ("dog",), 0.2, 0.4, "1"), ("b.wav", ("cat",), 0.0, 0.5, "2")]
COLUMNS = "path,label,fold,start,end\na.wav,dog,1,0.2,0.6\nb.wav,cat,2,0,0.5\n"


def lined(mark, end="\n"):
    return COLUMNS.replace(",", mark).replace("\n", end)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (COLUMNS, "m.csv"),
        (lined(";"), "m.csv"),
        (lined(";").replace("0.", "0,"), "m.csv"),
        (lined("\t"), "m.csv"),
        (lined("\t"), "m.txt"),
        (lined("\t").replace("0.", "0,"), "m.tsv"),
        (lined("|"), "m.csv"),
        (lined(",", "\r\n"), "m.csv"),
        (lined(";", "\r"), "m.csv"),
        ("sep=;\r\n" + lined(";", "\r\n"), "m.csv"),
        ("\n\n" + lined(",", "\n\n") + ",,,,\n", "m.csv"),
        (lined(",", ",,\n"), "m.csv"),
        (lined(" , "), "m.csv"),
        (b"\xef\xbb\xbf" + COLUMNS.encode(), "m.csv"),
        (lined("\t", "\r\n").encode("utf-16"), "m.txt"),
        (b"\xfe\xff" + COLUMNS.encode("utf-16-be"), "m.csv"),
    ],
)
def test_delimiters_line_ends_and_marks(listed, text, name):
    assert listed.told(text, name=name) == ROWS


OBJECTS = [
    {"path": "a.wav", "label": "dog", "fold": 1, "start": 0.2, "end": 0.6},
    {"path": "b.wav", "label": "cat", "fold": 2, "start": 0, "end": 0.5},
]
AS_COLUMNS = {name: [row[name] for row in OBJECTS] for name in OBJECTS[0]}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("\n".join(map(json.dumps, OBJECTS)), "m.jsonl"),
        ("\n".join(map(json.dumps, OBJECTS)), "train_manifest.txt"),
        (json.dumps(OBJECTS), "m.json"),
        (json.dumps(OBJECTS, indent=2), "m.json"),
        (json.dumps({"data": OBJECTS}), "m.json"),
        (json.dumps({"info": {"by": "anna"}, "clips": OBJECTS}, indent=1), "m.json"),
        (json.dumps(AS_COLUMNS), "m.json"),
        (json.dumps({name: dict(enumerate(cells)) for name, cells in AS_COLUMNS.items()}), "m.json"),
        (json.dumps({"columns": list(AS_COLUMNS), "data": [list(row.values()) for row in OBJECTS]}), "m.json"),
        (json.dumps({row["path"]: {k: v for k, v in row.items() if k != "path"} for row in OBJECTS}), "m.json"),
    ],
)
def test_forms_of_json(listed, content, name):
    assert listed.told(content, name=name) == ROWS


def test_json_names_lines(listed):
    assert [clip.line for clip in listed(json.dumps(OBJECTS, indent=1), name="m.json").clips] == [2, 9]
    with pytest.raises(ValueError, match=r"line 3: not a JSON object"):
        listed('[{"path": "a.wav"},\n{"path": "b.wav"},\n7]', name="m.json")
    with pytest.raises(ValueError, match=r"line 2: not JSON"):
        listed('[{"path": "a.wav"},\n{"path": ]', name="m.json")
    with pytest.raises(ValueError, match=r"the array is not closed"):
        listed('[{"path": "a.wav"}', name="m.json")
    with pytest.raises(ValueError, match=r"neither rows nor columns"):
        listed('{"a": ["b"], "c": ["d", "e"]}', name="m.json")


def test_a_file_to_label_object_and_one_row_of_json(listed):
    assert listed.told('{"a.wav": "dog", "b.wav": "cat"}', name="m.json") == [
        ("a.wav", ("dog",), 0.0, None, ""),
        ("b.wav", ("cat",), 0.0, None, ""),
    ]
    assert listed.told('{"path": "a.wav", "labels": ["dog"]}', name="m.json") == [("a.wav", ("dog",), 0.0, None, "")]


def test_western_european_text_is_read_and_said(listed):
    listed.sounds("Straße.wav")
    corpus = listed("path,label\na.wav,Köter\nStraße.wav,Kö\n".encode("cp1252"))
    assert corpus.classes == ("Kö", "Köter")
    assert any("not UTF-8, read as cp1252 ('a.wav,Köter')" in note for note in corpus.notes)
    assert listed("path,label\na.wav,\x81ö\n".encode("latin-1")).classes == ("\x81ö",)
    assert listed("path,label\na.wav,犬\n".encode("gbk"), options={"encoding": "gbk"}).classes == ("犬",)
    with pytest.raises(ValueError, match=r"data\.options\.encoding=gkb: no such encoding"):
        listed("path\na.wav\n", options={"encoding": "gkb"})
    with pytest.raises(ValueError, match=r"is not ascii \(ordinal not in range\(128\) at byte 17"):
        listed("path,label\na.wav,ö\n", options={"encoding": "ascii"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04...", "save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0...", "save the sheet as CSV"),
        (b"PAR1", "write it as CSV"),
        (b"\x1f\x8b\x08", "unpack it"),
        (b"path\0", "zero byte at 4"),
        (b"RIFF....WAVE", "a sound; write a list of sounds"),
    ],
)
def test_what_is_no_text(listed, content, said):
    with pytest.raises(ValueError, match=said) as caught:
        listed(content, name="m.xlsx")
    assert "\n" not in str(caught.value)


def test_audacity_label_track(listed):
    listed.sounds("yard.wav", seconds=3.0)
    track = "0.100000\t0.500000\tdog\n\\\t100.0\t900.0\n1,25\t2,0\tbig, loud\n2.5\t2.5\t\n"
    expected = [("yard.wav", ("dog",), 0.1, 0.4, ""), ("yard.wav", ("big, loud",), 1.25, 0.75, "")]
    with pytest.raises(
        ValueError, match=r"line 4: label is missing or empty\n  line 4: end=2\.5 is not after start=2\.5"
    ):
        listed(track, name="yard.txt")
    track = track.replace("2.5\t2.5\t\n", "")
    assert listed.told(track, name="yard.txt") == expected
    assert listed.told(track, name="labels.txt", options={"audio": "yard.wav"}) == expected
    assert listed.told(track, name="labels.txt", options={"audio": str(listed.folder / "yard.wav")}) == expected
    with pytest.raises(ValueError, match=r"no sound of that name lies beside it; data\.options\.audio=FILE"):
        listed(track, name="labels.txt")
    with pytest.raises(ValueError, match=r"options\.audio=x\.wav: .* has its own column of paths, path"):
        listed("path\na.wav\n", options={"audio": "x.wav"})


RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tBegin File\tFile Offset (s)\tSpecies\n"


def test_raven_selection_table(listed):
    rows = [
        "1\tWaveform 1\t1\t0.2\t0.6\t0\ta.wav\t0.2\tdog\n",
        "1\tSpectrogram 1\t1\t0.2\t0.6\t100\ta.wav\t0.2\tdog\n",
        "2\tSpectrogram 1\t1\t1.3\t1.55\t100\tb.wav\t0.3\tcat\n",  # 0.3 s into the second of the files opened together
    ]
    corpus = listed(RAVEN + "".join(rows), name="day.Table.1.selections.txt")
    assert [(c.path[-5:], c.labels, c.start_s, c.duration_s) for c in corpus.clips] == [
        ("a.wav", (1,), 0.2, 0.4),
        ("b.wav", (0,), 0.3, 0.25),
    ]
    assert "a Raven selection table (1 rows of further views left out), times from 'File Offset (s)'" in corpus.notes[0]


def test_raven_without_places_in_the_files_is_said(listed):
    head, row = "Selection\tBegin Time (s)\tEnd Time (s)\tBegin File\n", "1\t0.2\t0.6\ta.wav\n"
    assert len(listed(head + row, name="m.txt").notes) == 1
    notes = listed(head + row + "2\t0.3\t0.6\tb.wav\n", name="m.txt").notes
    assert notes[1].endswith("if they were open in Raven together, its times count from the beginning of the first")


def test_raven_beside_its_sound(listed):
    text = "Selection\tBegin Time (s)\tEnd Time (s)\tAnnotation\n1\t0.2\t0.6\tdog\n"
    listed.sounds("day.1.wav")
    assert listed.told(text, name="day.1.Table.1.selections.txt") == [("day.1.wav", ("dog",), 0.2, 0.4, "")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("filename\tonset\toffset\tevent_label\na.wav\t0.2\t0.6\tdog\n", ("a.wav", ("dog",), 0.2, 0.4, "")),
        ("a.wav\t0.2\t0.6\tdog, big\n", ("a.wav", ("dog, big",), 0.2, 0.4, "")),
        ("a.wav\thome\t0.2\t0.6\tdog\n", ("a.wav", ("dog",), 0.2, 0.4, "")),
        ("a.wav,0.2,0.6\n", ("a.wav", (), 0.2, 0.4, "")),
        ("./a.wav\tdog\n", ("a.wav", ("dog",), 0.0, None, "")),
        ("a.wav\n", ("a.wav", (), 0.0, None, "")),
    ],
)
def test_dcase_and_lists_without_a_header(listed, text, expected):
    assert listed.told(text, name="m.txt") == [expected]


def test_a_list_without_a_header_that_is_not_clear(listed):
    with pytest.raises(
        ValueError, match=r"the first line has no names but a\.wav, dog, 1; write one such as path,label,fold"
    ):
        listed("a.wav,dog,1\n")


def test_hugging_face_folders(listed):
    listed.sounds("hf/train/1.wav", "hf/train/2.wav", "hf/test/1.wav", "one/train/1.wav", "one/test/2.wav")
    listed.folder.joinpath("hf/train/metadata.csv").write_text("file_name,label\n1.wav,dog\n2.wav,cat\n")
    listed.folder.joinpath("hf/test/metadata.jsonl").write_text('{"file_name": "1.wav", "label": "dog"}')
    assert sorted(listed.told(None, name="hf")) == [
        ("1.wav", ("dog",), 0.0, None, "test"),
        ("1.wav", ("dog",), 0.0, None, "train"),
        ("2.wav", ("cat",), 0.0, None, "train"),
    ]
    with pytest.raises(ValueError, match=r"test/metadata\.jsonl line 1: unknown label 'dog'"):
        listed(None, name="hf", options={"classes": ["cat"]})
    listed.folder.joinpath("one/metadata.csv").write_text("file_name,label\ntrain/1.wav,dog\ntest/2.wav,cat\n")
    assert [told.fold for told in listed.told(None, name="one")] == ["train", "test"]
    assert [told.fold for told in listed.told(None, name="one/metadata.csv")] == ["train", "test"]
    off = listed(None, name="one", options={"columns": {"fold": False}})
    assert (off.folds, [clip.fold for clip in off.clips]) == ((), ["", ""])


def test_a_folder_of_label_tracks(listed):
    listed.sounds("field/x/1.wav", "field/2.flac")
    listed("0.1\t0.5\tdog\n", name="field/x/1.txt")
    listed("0.2\t0.4\tcat\n", name="field/2.txt")
    listed.folder.joinpath("field/README.txt").write_text("field recordings, 2021")
    listed.folder.joinpath("empty").mkdir()
    corpus = listed(None, name="field")
    assert [(c.path.rpartition("field/")[2], c.start_s, c.duration_s) for c in corpus.clips] == [
        ("2.flac", 0.2, 0.2),
        ("x/1.wav", 0.1, 0.4),
    ]
    with pytest.raises(FileNotFoundError, match=r"neither metadata\.csv nor tables beside sound files"):
        listed(None, name="empty")
    listed.folder.joinpath("empty/list.csv").write_text("path")
    with pytest.raises(FileNotFoundError, match=r"give one of its files: list\.csv$"):
        listed(None, name="empty")
    with pytest.raises(ValueError, match="is a folder, whose tables lie beside their sounds"):
        listed(None, name="field", options={"audio": "x.wav"})


def test_an_open_quote_does_not_swallow_rows(listed):
    with pytest.raises(ValueError, match=r"line 2: a cell with a line break, up to line 4; is a quote not closed\?"):
        listed('path,label\na.wav,"dog\nb.wav,cat\nc.wav,cat\n')


def test_an_index_column_as_pandas_writes_it_is_another_column(listed):
    corpus = listed(",path,label\n0,a.wav,dog\n1,b.wav,cat\n")
    assert corpus.classes == ("cat", "dog")
    assert corpus.clips[1].extra == {"column 1": "1"}


CELL = st.text(st.characters(codec="utf-8", exclude_characters='"\r\n\0;|\t, '), min_size=1, max_size=6)


@settings(max_examples=40)
@given(st.sampled_from(",;|\t"), st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=5))
def test_any_cells_come_back_under_any_delimiter(delimiter, rows):
    text = "\n".join(delimiter.join(cells) for cells in [("path", "label", "fold"), *rows])
    kept = [[cell.strip() for cell in cells] for cells in rows if any(cell.strip() for cell in cells)]
    assert find_delimiter(text) == delimiter
    assert [list(row.cells.values()) for row in read_delimited(None, text).rows] == kept
