import json
import os
import time

import pytest
from run_folders import make_run

from vcrast.cli.main import main
from vcrast.runs.lock import NAME
from vcrast.runs.overview import TAIL_BYTES, find_run_folders, last_lines, look


@pytest.fixture
def runs(tmp_path):
    """A finished run, a better one of a sweep, one stopped in its second fold, one that runs."""
    make_run(tmp_path / "esc10" / "first", accuracy=0.6)
    make_run(tmp_path / "esc10" / "sweep" / "10_seed-1", accuracy=0.7, warnings=["a", "b"])
    make_run(tmp_path / "esc10" / "sweep" / "9_seed-0", begun=("1", "2"), accuracy=0.9, done=("1",), report=False)
    running = make_run(tmp_path / "synth" / "now", recipe="synth", done=(), report=False)
    (running / NAME).write_text("")
    (running / "exported" / "inner").mkdir(parents=True)
    (running / "exported" / "inner" / "config.yaml").write_text("")
    return tmp_path


def test_every_run_below_is_found_once_in_natural_order(runs):
    found = [str(folder.relative_to(runs)) for folder in find_run_folders(runs)]
    assert found == ["esc10/first", "esc10/sweep/9_seed-0", "esc10/sweep/10_seed-1", "synth/now"]


def test_states_and_places(runs):
    found = {each.folder.name: each for each in map(look, find_run_folders(runs))}
    assert {name: each.state for name, each in found.items()} == {
        "first": "done", "9_seed-0": "stopped", "10_seed-1": "done", "now": "running"
    }  # fmt: skip
    assert str(found["9_seed-0"].place) == "fold 2 pretrain 20 of 40"
    assert found["first"].numbers == {"knn_accuracy": 0.6, "own_error": pytest.approx(0.4)}
    assert found["first"].headline == "knn_accuracy"
    assert found["now"].headline == ""
    assert found["10_seed-1"].warnings == 2


def test_a_run_says_how_long_its_stage_takes_and_what_it_logged(runs, capsys):
    folder = runs / "synth" / "now"
    with (folder / "metrics.jsonl").open("w") as file:
        for step, at in ((10, 0), (20, 20), (30, 5000), (32, 5004)):  # a pause of more than an hour between two starts
            line = {"fold": "1", "stage": "pretrain", "step": step, "time": at, "loss": 0.5, "samples_per_s": 8.0}
            file.write(json.dumps(line) + "\n")
    found = look(folder)
    assert (found.place.left_s, found.place.samples_per_s, found.number) == (16.0, 8.0, "loss 0.5")
    assert main(["ls", str(runs), "--state", "running"]) == 0
    assert "fold 1 pretrain 32 of 40, 16 s left  loss 0.5" in capsys.readouterr().out
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"fold": "1", "stage": "pretrain", "step": 32, "knn_accuracy": 0.25}) + "\n")
    assert look(folder).number == "kNN 25.0 %"


def test_the_age_of_a_run_that_hangs_grows_though_its_lock_is_alive(runs):
    folder = runs / "synth" / "now"
    for path in folder.iterdir():
        if path.name != NAME:
            os.utime(path, (time.time() - 5000,) * 2)
    assert look(folder).state == "running"
    assert 4990 < look(folder).age_s < 5100


def test_a_lock_without_heartbeat_is_no_running_run(runs):
    lock = runs / "synth" / "now" / NAME
    os.utime(lock, (time.time() - 1000,) * 2)
    assert look(lock.parent).state == "stopped"


def test_damaged_files_are_said_and_hide_no_run(runs, capsys):
    (runs / "esc10" / "first" / "summary.json").write_text("{")
    (runs / "esc10" / "first" / "metrics.jsonl").unlink()
    assert main(["ls", str(runs)]) == 0
    assert "summary.json damaged" in capsys.readouterr().out


def test_the_last_line_of_a_long_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "text": "x" * 90}) + "\n" for step in range(TAIL_BYTES // 50)))
    assert last_lines(path)[-1]["step"] == TAIL_BYTES // 50 - 1
    path.write_text("")
    assert last_lines(path) == []


def test_ls_prints_a_row_a_run(runs, capsys):
    assert main(["ls", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[1].split()[:3] == ["esc10/first", "esc10", "done"]
    assert "kNN 60.0 %" in lines[1]
    assert "fold 2 pretrain 20 of 40" in lines[2]
    assert "done, 2 warnings" in lines[3]
    assert main(["ls", str(runs), "--state", "running", "--format", "json"]) == 0
    (given,) = json.loads(capsys.readouterr().out)
    assert (given["recipe"], given["state"], given["at"]) == ("synth", "running", "fold 1 pretrain 20 of 40")
    assert main(["ls", str(runs / "synth" / "now" / "exported")]) == 0
    assert "no runs here or below" in capsys.readouterr().err
    assert main(["ls", str(runs / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_best_is_first_in_the_numbers_own_direction(runs, capsys):
    assert main(["best", "knn_accuracy", str(runs), "--path"]) == 0
    assert capsys.readouterr().out.strip() == str(runs / "esc10" / "sweep" / "9_seed-0")
    assert main(["best", "evaluate.own_error", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["0.100", "1"], ["0.300", "1"], ["0.400", "1"]]
    assert main(["best", "knn_acuracy", str(runs)]) == 2
    assert "did you mean knn_accuracy?" in capsys.readouterr().err
