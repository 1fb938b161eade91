from __future__ import annotations

import csv
import io
import json
import sys

import pytest

from vcrast.cli.formats import Prediction, choose_format, open_writer


def write(kind, out, found, *, windows=True, below=None):
    below = below or {each.sound: each.sound for each in found}
    writer = open_writer(kind, out, below=below, windows=windows, top_hz=4000.0)
    for each in found:
        writer.write(each)
    writer.close()


def hops(sound, labels, hop=0.5, window=1.0):
    """A prediction for each window; labels as letters, such as "d" or "dr"."""
    return [
        Prediction(sound, hop * number, hop * number + window, dict.fromkeys(some, 0.9))
        for number, some in enumerate(labels)
    ]


def test_an_audacity_track_joins_windows_of_one_label(tmp_path):
    write("audacity", tmp_path / "x.txt", hops("x", ["d", "d", "d", "r", "d", "", "r"]))
    assert (tmp_path / "x.txt").read_text() == (
        "0.000000\t2.000000\td\n1.500000\t2.500000\tr\n2.000000\t3.000000\td\n3.000000\t4.000000\tr\n"
    )


def test_several_labels_at_once_are_joined_each(tmp_path):
    write("audacity", tmp_path / "x.txt", hops("x", ["d", "dr", "r", "rd"], hop=1.0))
    assert (tmp_path / "x.txt").read_text() == ("0.000000\t2.000000\td\n1.000000\t4.000000\tr\n3.000000\t4.000000\td\n")


def test_windows_with_gaps_between_them_are_not_joined(tmp_path):
    write("audacity", tmp_path / "x.txt", hops("x", ["d", "d"], hop=2.0))
    assert (tmp_path / "x.txt").read_text() == "0.000000\t1.000000\td\n2.000000\t3.000000\td\n"


def test_a_label_stays_on_its_line(tmp_path):
    write("audacity", tmp_path / "x.txt", [Prediction("x", 0, 1, {"a\tb\nc": 1.0})])
    assert (tmp_path / "x.txt").read_text() == "0.000000\t1.000000\ta b c\n"


def test_a_raven_table_has_the_columns_that_raven_asks_for(tmp_path):
    write("raven", tmp_path, hops("x.wav", ["d", "d", "r"]))
    with (tmp_path / "x.selections.txt").open(newline="") as file:
        first, second = csv.DictReader(file, delimiter="\t")
    assert first == {
        "Selection": "1", "View": "Spectrogram 1", "Channel": "1", "Begin Time (s)": "0.000000",
        "End Time (s)": "1.500000", "Low Freq (Hz)": "0.0", "High Freq (Hz)": "4000.0", "Label": "d",
    }  # fmt: skip
    assert (second["Selection"], second["Begin Time (s)"], second["Label"]) == ("2", "1.000000", "r")


def test_tracks_of_sounds_of_one_name_do_not_overwrite_each_other(tmp_path):
    below = {"p/a.wav": "a.wav", "p/a.flac": "a.flac", "q/a.wav": "a.wav", "r/a.wav": "a.wav", "p/s/a.wav": "s/a.wav"}
    write("audacity", tmp_path, [each for name in below for each in hops(name, ["d"])], below=below)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")) == [
        "a.flac.txt", "a.txt", "a.wav-2.txt", "a.wav.txt", "s/a.txt",
    ]  # fmt: skip


FOUND = [
    Prediction("a.wav", 0.0, 1.0, {"dog, big": 0.75, "rain": 0.25}),
    Prediction("bb.wav", 0.0, 2.30004, {}),
    Prediction("bb.wav", 1.30004, 2.30004, {"rain": 0.5}),
]


def test_text_by_hand(tmp_path, capsys):
    write("text", None, FOUND)
    assert capsys.readouterr().out == (
        "a.wav        0.00 -      1.00 s  dog, big 75.0 %   rain 25.0 %\n"
        "bb.wav       0.00 -      2.30 s  -\n"
        "bb.wav       1.30 -      2.30 s  rain 50.0 %\n"
    )
    write("text", tmp_path / "x.txt", FOUND[:1], windows=False)
    assert (tmp_path / "x.txt").read_text() == "a.wav  dog, big 75.0 %   rain 25.0 %\n"


def test_csv_by_hand(tmp_path):
    write("csv", tmp_path / "x.csv", FOUND)
    assert (tmp_path / "x.csv").read_text() == (
        'path,start,end,label,score\na.wav,0.0,1.0,"dog, big",0.75\na.wav,0.0,1.0,rain,0.25\nbb.wav,1.3,2.3,rain,0.5\n'
    )


def test_json_by_hand(tmp_path, capsys):
    expected = [
        {"path": "a.wav", "start": 0.0, "end": 1.0, "scores": {"dog, big": 0.75, "rain": 0.25}},
        {"path": "bb.wav", "start": 0.0, "end": 2.3, "scores": {}},
        {"path": "bb.wav", "start": 1.3, "end": 2.3, "scores": {"rain": 0.5}},
    ]
    write("jsonl", None, FOUND)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == expected
    write("json", tmp_path / "x.json", FOUND)
    assert json.loads((tmp_path / "x.json").read_text()) == expected
    write("jsonl", None, FOUND[:1], windows=False)
    assert json.loads(capsys.readouterr().out) == {"path": "a.wav", "scores": {"dog, big": 0.75, "rain": 0.25}}


@pytest.mark.parametrize(
    ("asked", "out", "num_sounds", "expected"),
    [
        (None, None, 9, "text"), ("csv", None, 9, "csv"), (None, "x.csv", 9, "csv"), (None, "x.JSONL", 9, "jsonl"),
        (None, "x.json", 9, "json"), (None, "x.txt", 9, "text"), ("csv", "x.dat", 9, "csv"), ("csv", "x.csv", 9, "csv"),
        ("audacity", "labels", 9, "audacity"), ("audacity", "x.txt", 1, "audacity"), ("raven", None, 1, "raven"),
    ],
)  # fmt: skip
def test_formats_by_ending(tmp_path, asked, out, num_sounds, expected):
    assert choose_format(asked, out and tmp_path / out, num_sounds=num_sounds) == expected


@pytest.mark.parametrize(
    ("asked", "out", "said"),
    [
        (None, "x.xls", r"choose from \.csv, \.json, \.jsonl, \.txt"),
        (None, "x.cvs", r"did you mean \.csv"),
        ("csv", "x.json", "ends as json, but csv is asked for"),
        ("audacity", None, "one file for each of 2 sounds; name a folder"),
        ("audacity", "x.txt", "name a folder"),
        ("audacity", "there.csv", "name a folder"),
        (None, "folder.csv", "is a folder"),
        (None, "no/x.csv", "does not exist"),
    ],
)
def test_outputs_that_cannot_be(tmp_path, asked, out, said):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "there.csv").touch()
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        choose_format(asked, out and tmp_path / out, num_sounds=2)


@pytest.mark.parametrize("kind", ["text", "csv", "json", "jsonl", "audacity"])
def test_letters_that_stdout_lacks_do_not_end_the_work(monkeypatch, kind):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="latin-1", newline=""))
    sound, label = "\u97f3\U0001f415\xe9.wav", "\u72ac\xfc"
    write(kind, None, [Prediction(sound, 0.0, 1.0, {label: 0.5})])
    sys.stdout.flush()
    shown = raw.getvalue().decode("latin-1")
    if kind.startswith("json"):
        found = json.loads(shown)
        found = found[0] if kind == "json" else found
        assert (found["path"], found["scores"]) == (sound, {label: 0.5})
    else:
        assert "\\u72ac\xfc" in shown
        assert ("\\u97f3\\U0001f415\xe9.wav" in shown) == (kind != "audacity")


def test_a_name_stays_on_its_line(capsys):
    names = ["a\nb.wav", "\u3000\xe9.wav", "c.wav"]
    write("text", None, [Prediction(name, 0, 1, {"d": 0.5}) for name in names], windows=False)
    assert capsys.readouterr().out == ("a\\nb.wav  d 50.0 %\n\u3000\xe9.wav    d 50.0 %\nc.wav     d 50.0 %\n")
