import json
import re
import shutil

import numpy as np
import pytest
from fabricated_run import fabricate, give_sounds

from vcrast.runs.record import read_run
from vcrast.runs.report.misjudged import margins, mistakes
from vcrast.runs.report.page import ALL, BUDGET, FEW, NONE, write_report
from vcrast.runs.report.tested import Player, clips_of_fold


def test_margins_by_hand():
    scores = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.9, 0.1, 0.8], [0.3, 0.3, 0.3], [0.3, 0.3, 0.3]])
    labels = np.array([[0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]])
    # Wrong by 0.5; right by 0.1; of two labels one is 0.7 below the wrong class; without labels, and with all.
    np.testing.assert_allclose(margins(scores, labels), [0.5, -0.1, 0.7, -np.inf, -np.inf])


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    folder = fabricate(tmp_path_factory.mktemp("runs") / "esc10", folds=("1",), classes=["dog", "rain", "sea"])
    return folder, give_sounds(folder, num_clips=24)


def test_the_worst_clips_come_first_with_names(heard):
    record = read_run(heard[0])
    found = mistakes(record, 2)
    assert (found.wrong, found.total, len(found.worst)) == (3, 24, 2)
    over = margins(record.evaluations["1"]["scores"], record.evaluations["1"]["labels"])
    assert found.worst[0].score - found.worst[0].own == pytest.approx(float(over.max()))
    assert [each.taken for each in found.worst] == [
        record.classes[(record.classes.index(each.true) + 1) % 3] for each in found.worst
    ]
    assert found.worst[0].name.startswith("recording.wav")


def test_clips_are_known_from_the_folds_where_nothing_was_predicted(heard, tmp_path):
    shutil.copytree(heard[0], tmp_path / "run")
    predictions = tmp_path / "run/evaluation/predictions_fold_1.csv"
    lines = predictions.read_text().splitlines()
    predictions.unlink()
    rows = ["path,label,fold,start,duration", "other.wav,dog,2,,"]
    rows += [",".join((path, label, "1", start, length)) for path, start, length, label, _ in map(split, lines[1:])]
    (tmp_path / "run/clips.csv").write_text("\n".join(rows) + "\n")
    assert clips_of_fold(read_run(tmp_path / "run"), "1") == clips_of_fold(read_run(heard[0]), "1")
    (tmp_path / "run/clips.csv").write_text("\n".join(rows[:-1]) + "\n")  # a clip fewer than were tested
    assert clips_of_fold(read_run(tmp_path / "run"), "1") == []


def split(line):
    return line.split(",")


def test_clips_of_other_labels_are_not_believed(heard, tmp_path):
    shutil.copytree(heard[0], tmp_path / "run")
    path = tmp_path / "run/evaluation/predictions_fold_1.csv"
    path.write_text(path.read_text().replace(",dog,", ",rain,"))
    assert clips_of_fold(read_run(tmp_path / "run"), "1") == []


def test_a_page_has_sound_as_far_as_there_is_room_and_recordings(heard, tmp_path, monkeypatch):
    monkeypatch.setattr("vcrast.runs.report.page.plans", lambda record: [])  # figures take longest
    folder, recording = heard

    def players(text):
        return len(re.findall(r"<audio [^>]*src=\"data:audio/ogg", text))

    every = write_report(folder, sounds=ALL, out=tmp_path / "all.html").read_text()
    few = write_report(folder, sounds=FEW, out=tmp_path / "few.html").read_text()
    none = write_report(folder, sounds=NONE, out=tmp_path / "none.html").read_text()
    # A clip that was misjudged has one player for its card and its mark.
    assert [players(text) for text in (every, few, none)] == [24, 3, 0]
    assert "adds those of the map" in few
    assert 'role="button"' not in none
    assert len(every) < BUDGET
    recording.rename(tmp_path / "moved.wav")
    try:
        gone = write_report(folder, sounds=ALL, out=tmp_path / "gone.html").read_text()
    finally:
        (tmp_path / "moved.wav").rename(recording)
    assert players(gone) == 0
    assert "Some clips can no longer be heard" in gone
    assert str(recording) in gone
    assert "taken for <strong>" in gone


def test_no_sound_has_more_room_than_is_left(heard):
    record = read_run(heard[0])
    player = Player(record, budget=3000)
    clips = clips_of_fold(record, "1")
    assert [bool(player.sound(clip, longest_s=1.0, picture=False)) for clip in clips[:3]] == [True, False, False]
    assert player.left_out == 2


def test_settings_that_are_gone_leave_the_page_silent(tmp_path):
    folder = fabricate(tmp_path / "run", folds=("1",), classes=["dog", "rain"])
    give_sounds(folder, num_clips=16)
    (folder / "config.yaml").write_text(json.dumps({"recipe": "esc10"}))
    record = read_run(folder)
    player = Player(record, budget=10**6)
    assert player.sound(clips_of_fold(record, "1")[0], longest_s=1.0, picture=True) is None
    assert "config.yaml does not say how sounds are read (sample_rate)" in player.faults[0]
