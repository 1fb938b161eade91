"""Check which columns are paths, labels, folds and times, and what is said."""

import pytest

from vcrast.data.table.names import column_name
from vcrast.data.table.roles import choose_roles, chosen_columns

NONE = chosen_columns({}, label=None, fold=None)


def roles(*names, **chosen):
    found, said = choose_roles(list(names), {**NONE, **chosen}, "m.csv")
    return found.used(), said


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("path label fold", "path=path label=label fold=fold"),
        ("filename category fold target esc10", "path=filename label=category fold=fold"),
        ("fname labels mids split", "path=fname label=labels fold=split"),
        ("file_name label", "path=file_name label=label"),
        ("File-Name Class_Name Subset", "path=File-Name label=Class_Name fold=Subset"),
        ("wav target", "path=wav label=target"),
        ("filename primary_label secondary_labels scientific_name common_name", "path=filename label=primary_label"),
        ("filepath filename species", "path=filepath label=species"),
        ("fold split path", "path=path fold=fold"),
        ("slice_file_name fsID start end salience fold classID class", "path=slice_file_name label=class fold=fold"),
        ("filename onset offset event_label", "path=filename label=event_label start=onset end=offset"),
        ("audio_filepath offset duration label", "path=audio_filepath label=label start=offset duration=duration"),
        ("path start_time end_time", "path=path start=start_time end=end_time"),
        ("path startTime endTime", "path=path start=startTime end=endTime"),
        ("path start_s stop_s", "path=path start=start_s end=stop_s"),
        ("path t_start t_end length(s)", "path=path start=t_start end=t_end duration=length(s)"),
        ("path start_time_seconds end_time_seconds", "path=path start=start_time_seconds end=end_time_seconds"),
        ("path start offset", "path=path start=start"),
    ],
)  # fmt: skip
def test_usual_names(head, expected):
    used, _ = roles(*head.split())
    assert used == dict(pair.split("=") for pair in expected.split())


def test_names_with_spaces_and_units():
    used, _ = roles("Begin File", "Begin Path", "Begin Time (s)", "End Time (s)", "Common name")
    assert used == {
        "path": "Begin Path",
        "label": "Common name",
        "start": "Begin Time (s)",
        "end": "End Time (s)",
    }
    assert [column_name(name).unit_s for name in ("start_ms", "Start (ms)", "start", "start sec", "ms")] == [
        0.001,
        0.001,
        1,
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("path label t0", "column 't0' looks like a start and is not used; data.options.columns.start=t0 takes it"),
        ("path label onset_sec2", "column 'onset_sec2' looks like a start"),
        ("path label begin_sample", "column 'begin_sample' looks like a start"),
        ("path label start end_frame", "column 'end_frame' looks like an end"),
        ("path label start duration_frames", "column 'duration_frames' looks like a duration"),
        ("path label is_test", "column 'is_test' looks like a fold"),
        ("path sound_class fold", "column 'sound_class' looks like a label"),
        ("slice_file_name fsID start end class", "UrbanSound8K was cut from, not in its files: not used"),
    ],
)
def test_what_looks_like_a_role_is_said(names, said):
    _, lines = roles(*names.split())
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize("names", ["path label fold start end speaker", "path label start duration end_frame fold"])
def test_nothing_is_said_of_other_columns(names):
    assert roles(*names.split())[1] == []


def test_a_role_is_chosen_or_switched_off():
    used, said = roles("path", "label", "start", "end", "t0", start="t0", end=False)
    assert used == {"path": "path", "label": "label", "start": "t0"}
    assert said == []
    assert roles("slice_file_name", "fsID", "start", "end", start="start")[0]["end"] == "end"
    assert roles("path", "Begin frame", start="begin_frame")[0]["start"] == "Begin frame"
    assert roles("path", "split", label="split")[0] == {"path": "path", "label": "split"}


@pytest.mark.parametrize(
    ("names", "chosen", "said"),
    [
        ("path label labels", {}, r"m\.csv has the columns label and labels; choose with data\.label="),
        ("path category class", {}, r"columns category and class; choose with data\.label="),
        ("path set partition", {}, r"columns set and partition; choose with data\.options\.fold="),
        ("file wav", {}, r"columns file and wav; choose with data\.options\.columns\.path="),
        ("path onset begin", {}, r"columns onset and begin; choose with data\.options\.columns\.start="),
        ("path begin", {"start": "begn"}, r"columns\.start=begn: m\.csv has no such column; did you mean begin\?"),
        ("sound label", {}, r"no column of paths .* it has sound, label; data\.options\.columns\.path=NAME"),
    ],
)
def test_what_has_to_be_chosen(names, chosen, said):
    with pytest.raises(ValueError, match=said):
        roles(*names.split(), **chosen)


@pytest.mark.parametrize(
    ("columns", "more", "said"),
    [
        ({"strat": "x"}, {}, r"data\.options\.columns\.strat: no such role; did you mean start\?"),
        ({"label": "a"}, {"label": "b"}, r"data\.label=b and data\.options\.columns\.label=a: set one"),
        ({"fold": False}, {"fold": "b"}, r"data\.options\.fold=b and data\.options\.columns\.fold=False"),
        ({"start": True}, {}, r"columns\.start=True: give a column's name, or false"),
        ("x", {}, r"data\.options\.columns=x: set data\.options\.columns\.ROLE=NAME"),
    ],
)
def test_settings_that_make_no_sense(columns, more, said):
    with pytest.raises(ValueError, match=said):
        chosen_columns(columns, **{"label": None, "fold": None, **more})


def test_the_columns_are_said_in_one_line(listed):
    corpus = listed("filename;category;split;onset;offset;by\na.wav;dog;train;0,2;0,6;anna\n")
    assert corpus.notes == (
        "m.csv: 1 rows (semicolons); path=filename, label=category, fold=split, start=onset, end=offset; others: by",
    )


@pytest.mark.parametrize(
    ("head", "cells", "start_s", "duration_s"),
    [
        ("start,end", "0.2,0.6", 0.2, 0.4),
        ("start,end", ",0.6", 0.0, 0.6),
        ("start,end", "0.2,", 0.2, None),
        ("onset,offset", "0.1,0.4", 0.1, 0.3),
        ("offset,duration", "0.1,0.4", 0.1, 0.4),
        ("start_ms,end_ms", "200,600", 0.2, 0.4),
        ("start (ms),duration (s)", "200,0.4", 0.2, 0.4),
        ("start,end,duration", "0.2,0.6,0.41", 0.2, 0.4),
        ("start,end,t0", "0.2,0.6,9", 0.2, 0.4),
        ("slice_file_name,fsID,start,end", "a.wav,1,0.2,0.6", 0.0, None),
    ],
)
def test_times(listed, head, cells, start_s, duration_s):
    path = "" if "file" in head else ("path,", "a.wav,")
    text = f"{path[0] if path else ''}{head}\n{path[1] if path else ''}{cells}\n"
    (clip,) = listed(text).clips
    assert (clip.start_s, clip.duration_s) == (start_s, duration_s)


def test_times_that_are_wrong_have_their_lines(listed):
    text = (
        "path,onset,offset,length\n"
        "a.wav,0.6,0.2,\n"
        "a.wav,0.2,0.2,\n"
        "b.wav,0.2,0.6,0.42\n"
        "c.wav,0.2,\"0,6\",\n"
        "c.wav,,0,\n"
        "c.wav,true,,\n"
    )  # fmt: skip
    with pytest.raises(ValueError, match="6 faults in 6 rows") as caught:
        listed(text)
    assert str(caught.value).splitlines()[1:] == [
        "  line 2: offset=0.2 is not after onset=0.6",
        "  line 3: offset=0.2 is not after onset=0.2",
        "  line 4: onset to offset is 0.4 s, but length is 0.42 s; data.options.columns.duration=false (or end) leaves "
        "one out",
        "  line 5: offset='0,6' is not a number of seconds",
        "  line 6: offset=0 is not after onset=0",
        "  line 7: onset='true' is not a number of seconds",
    ]
    off = listed("path,onset,offset,length\nb.wav,0.2,0.6,0.42\n", options={"columns": {"duration": False}})
    assert off.clips[0].duration_s == 0.4
    assert off.clips[0].extra == {"length": "0.42"}


def test_a_stretch_that_begins_behind_the_file_is_found_before_anything_is_decoded(listed):
    with pytest.raises(ValueError, match=r"line 2: .*a\.wav: starts at 1\.2 s, but the file has 1\.000 s"):
        listed("path,start,end\na.wav,1.2,1.6\n")


@pytest.mark.parametrize(
    ("cells", "expected", "tested"),
    [
        (["Train", "Val", "Test"], ["train", "val", "test"], ("test", "val")),
        (["TRAIN", "validation", "testing"], ["train", "val", "test"], ("test", "val")),
        (["train", "dev", "eval"], ["train", "val", "eval"], ("eval", "val")),
        (["1.0", "2.0", "10.0"], ["1", "2", "10"], ("1", "2", "10")),
        (["0", "1", "2"], ["0", "1", "2"], ("0", "1", "2")),
        (["1.0", "1.5", "2"], ["1.0", "1.5", "2"], ("1.0", "1.5", "2")),
        (["A", "B", "Test"], ["A", "B", "test"], ("A", "B", "test")),
    ],
)
def test_cells_of_folds(listed, cells, expected, tested):
    corpus = listed("path,split\n" + "".join(f"{f}.wav,{c}\n" for f, c in zip("abc", cells, strict=True)))
    assert [clip.fold for clip in corpus.clips] == expected
    assert corpus.folds == tested
    if "train" in expected:
        assert [clip.fold for clip in corpus.split(tested[0])[0]] == ["train"]


def test_folds_of_json_and_of_yes_and_no(listed):
    rows = '{"path": "a.wav", "fold": 0}\n{"path": "b.wav", "fold": 1.0}\n{"path": "c.wav", "fold": null}'
    with pytest.raises(ValueError, match=r"1 faults in 3 rows\n  line 3: fold is missing or empty"):
        listed(rows, name="m.jsonl")
    assert listed(rows.replace("null", "2"), name="m.jsonl").folds == ("0", "1", "2")
    for column, cells in (("is_test", "False True False"), ("isTrain", "1 0 1"), ("test", "no yes no")):
        text = f"path,{column}\n" + "".join(f"{f}.wav,{c}\n" for f, c in zip("abc", cells.split(), strict=True))
        assert [clip.fold for clip in listed(text, options={"fold": column}).clips] == ["train", "test", "train"]
    said = listed("path,split\na.wav,Train\nb.wav,Train\nc.wav,test\n").notes
    assert "split: Train read as train (2 rows)" in said


def test_folds_that_only_look_like_training_are_said(listed):
    corpus = listed("path,split\na.wav,train-clean-100\nb.wav,dev-clean\nc.wav,test-clean\n")
    assert corpus.folds == ("dev-clean", "test-clean", "train-clean-100")
    assert (
        "no fold is called train: all folds but the tested one are trained on, not only train-clean-100" in corpus.notes
    )
