import json
from pathlib import Path

import pytest
from sound_files import noise, settings, write

from vcrast.data.open import open_corpus


def touch(path):
    return write(path, noise(16))


def esc(root, rows, *, ending=".wav", head="filename,fold,target,category,esc10,src_file,take"):
    (root / "meta").mkdir(parents=True)
    lines = [head]
    for number, (fold, target, category, esc10) in enumerate(rows):
        stem = f"{fold}-{number}-A-{target}"
        lines.append(f"{stem}.wav,{fold},{target},{category},{esc10},{number},A")
        touch(root / "audio" / (stem + ending))
    (root / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return root


FIFTY = [(1 + i % 5, i % 50, f"sound{i % 50:02d}", i % 50 in (0, 1, 41)) for i in range(150)]


def test_esc50(tmp_path):
    corpus = open_corpus(settings("esc50", root=str(esc(tmp_path, FIFTY)), folds="all"))
    assert corpus.folds == ("1", "2", "3", "4", "5")
    assert corpus.classes == tuple(f"sound{i:02d}" for i in range(50))
    assert not corpus.multilabel
    assert [clip.labels for clip in corpus.clips[:3]] == [(0,), (1,), (2,)]
    assert Path(corpus.clips[7].path).name == "3-7-A-7.wav"


@pytest.mark.parametrize("ending", [".wav", ".ogg", ".flac"])
def test_esc10_renumbers_by_target_and_takes_other_formats(tmp_path, ending):
    esc(tmp_path / "ESC-50-master", FIFTY, ending=ending)
    corpus = open_corpus(settings("esc10", root=str(tmp_path)))
    assert corpus.classes == ("sound00", "sound01", "sound41")
    assert len(corpus.clips) == 9
    assert {clip.labels for clip in corpus.clips if "A-41." in clip.path} == {(2,)}
    assert all(Path(clip.path).suffix == ending for clip in corpus.clips)


def test_esc50_that_is_only_esc10(tmp_path):
    root = esc(tmp_path, [row for row in FIFTY if row[3]])
    with pytest.raises(ValueError, match="3 of the 50 classes; data=esc10"):
        open_corpus(settings("esc50", root=str(root)))


def test_esc50_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data\.root is not set.*vcrast data download esc50"):
        open_corpus(settings("esc50"))
    with pytest.raises(FileNotFoundError, match=r"data\.root=nowhere has no .*vcrast data download esc50"):
        open_corpus(settings("esc10", root="nowhere"))
    esc(tmp_path / "data" / "esc50" / "ESC-50-master", FIFTY)
    assert len(open_corpus(settings("esc50")).clips) == 150


def test_esc50_faults_name_lines_and_columns(tmp_path):
    root = esc(tmp_path / "a", FIFTY)
    csv = root / "meta" / "esc50.csv"
    csv.write_text(csv.read_text().replace("\n1-0-A-0.wav,1,", "\n1-0-A-0.wav,one,"))
    with pytest.raises(ValueError, match="line 2: fold 'one'"):
        open_corpus(settings("esc50", root=str(root)))
    with pytest.raises(ValueError, match="no column 'target'"):
        open_corpus(
            settings("esc50", root=str(esc(tmp_path / "b", FIFTY, head="filename,fold,class,category,esc10,a,b")))
        )
    root = esc(tmp_path / "c", FIFTY)
    (root / "audio" / "1-5-A-5.wav").unlink()
    with pytest.raises(ValueError, match=r"1 faults in 150 clips\n  line 7: .*1-5-A-5.wav: missing file"):
        open_corpus(settings("esc50", root=str(root)))


def test_real_esc10(esc10_root):
    corpus = open_corpus(settings("esc10", root=esc10_root, folds="all"))
    assert len(corpus.clips) == 400
    assert corpus.classes[0] == "dog"
    assert len(corpus.classes) == 10
    for fold in corpus.folds:
        train, test = corpus.split(fold)
        assert (len(train), len(test)) == (320, 80)
        assert {clip.labels for clip in test} == {(i,) for i in range(10)}


def test_unknown_source():
    with pytest.raises(KeyError, match="did you mean folder"):
        open_corpus(settings("foldr"))


@pytest.fixture
def listed(tmp_path):
    """Write a manifest beside four sound files and open it."""
    for name in ("a.wav", "b.wav", "c.wav", "d, e.wav"):
        touch(tmp_path / name)

    def read(text, *, name="m.csv", **changes):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return open_corpus(settings("manifest", path=str(tmp_path / name), **changes))

    return read


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


def test_manifest_tsv_and_latin1(listed):
    assert listed("path\tlabel\nd, e.wav\tdog\n", name="m.tsv").classes == ("dog",)
    with pytest.raises(ValueError, match="not UTF-8"):
        listed("path,label\na.wav,Köter\n".encode("latin-1"))


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
        listed("path\n" + "".join(f"absent{i}.wav\n" for i in range(30)))
    assert "30 faults in 30 clips" in str(caught.value)
    assert "line 21: " in str(caught.value)
    assert "line 22: " not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\na.wav,x\n", "no column 'path'; it has file, label"),
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
    with pytest.raises(ValueError, match=r"data\.root="):
        open_corpus(settings("manifest", root="x", path="y"))
