import logging

import pytest
from sound_files import noise, write

from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus
from vcrast.data.preflight import allowed_faults, preflight


def corpus(clips, classes=("a",), multilabel=False):
    return Corpus("toy", tuple(clips), classes, multilabel, ())


def said(clips, **options):
    with pytest.raises(ValueError, match="toy") as caught:
        preflight(corpus(clips, **options), folds=None, max_bad_fraction=0.01)
    return str(caught.value)


def good(tmp_path, count):
    return [Clip(write(tmp_path / f"{i}.wav", noise(160)), (0,), line=i + 2) for i in range(count)]


def test_labels_duplicates_and_missing_files_always_stop(tmp_path):
    clips = good(tmp_path, 200)
    text = said([*clips, Clip(clips[3].path, (0,), line=900), Clip("gone.wav", (0,), line=901)])
    assert "2 faults in 202 clips" in text
    assert f"line 900: {clips[3].path}: the same clip as line 5" in text
    assert "line 901: gone.wav: missing file" in text
    path = write(tmp_path / "x.wav", noise(160))
    assert "line 7: " in said([*clips, Clip(path, (1,), line=7)])
    assert "label -1 is outside the 1 classes" in said([*clips, Clip(path, (-1,))])
    assert "2 labels in a dataset with one" in said([*clips, Clip(path, (0, 1))], classes=("a", "b"))


def test_other_stretches_of_a_file_are_other_clips(tmp_path):
    path = write(tmp_path / "a.wav", noise(16000))
    preflight(corpus([Clip(path, (0,), 0.0, 0.5), Clip(path, (0,), 0.5, 0.5)]), folds=None, max_bad_fraction=0.0)
    assert "starts at 1.5 s, but the file has 1.000 s" in said([Clip(path, (0,), 1.5)])


def test_a_few_damaged_files_are_left_to_the_quarantine(tmp_path, caplog):
    clips = good(tmp_path, 199)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello")
    one, two = Clip(str(tmp_path / "empty.wav"), (0,), line=500), Clip(str(tmp_path / "text.wav"), (0,), line=501)
    with caplog.at_level(logging.WARNING):
        preflight(corpus([*clips, one]), folds=None, max_bad_fraction=0.01)
    assert "1 unreadable files" in caplog.text
    assert "line 500" in caplog.text
    with pytest.raises(ValueError, match=r"2 faults in 101 clips(.|\n)*empty file(.|\n)*cannot be decoded"):
        preflight(corpus([*clips[:99], one, two]), folds=None, max_bad_fraction=0.01)


def test_generated_sounds_have_no_file():
    clips = [Clip("synth://a/1", (0,)), Clip("synth://a/2", (0,))]
    assert preflight(corpus(clips), folds=None, max_bad_fraction=0.0) is None  # it would raise


def test_no_clips():
    assert "has no clips" in said([])


@pytest.mark.parametrize(
    ("num_clips", "fraction", "allowed"),
    [(24, 0.01, 1), (100, 0.01, 1), (299, 0.01, 2), (24, 0.0, 0), (1000, 0.1, 100)],
)
def test_one_bad_clip_may_be_among_few(num_clips, fraction, allowed):
    assert allowed_faults(num_clips, fraction) == allowed
