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
    with pytest.raises(FileNotFoundError, match=r"data\.root=data/esc50 has no.*vcrast data download esc50"):
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
