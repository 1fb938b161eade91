"""Read what a run has logged, from before its folder exists to how it ended."""

import logging

import pytest
from small_run import small

from vcrast.cli.errors import exit_code
from vcrast.cli.start import start
from vcrast.config.compose import compose
from vcrast.objectives.vcr import VCR
from vcrast.runs.interrupt import Interrupt
from vcrast.runs.lock import RunLockedError
from vcrast.runs.messages import LogFile, endings_kept, setup_logging
from vcrast.runs.stage import Interrupted
from vcrast.training.dist import PeerLostError

log = logging.getLogger("vcrast.test")


@pytest.fixture(autouse=True)
def _handlers():
    yield
    for handler in [each for each in logging.getLogger().handlers if getattr(each, "is_ours", False)]:
        logging.getLogger().removeHandler(handler)
    logging.captureWarnings(False)


def test_what_was_logged_before_the_folder_exists_is_in_its_log(tmp_path, capsys):
    setup_logging(None)
    log.info("early")
    assert "I early" in capsys.readouterr().err
    setup_logging(tmp_path / "run")
    log.info("late")
    assert "early" not in capsys.readouterr().err
    lines = (tmp_path / "run" / "train.log").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["early", "late"]


def test_what_a_refused_start_has_logged_is_not_in_the_log_of_the_next_run(tmp_path):
    with pytest.raises(ValueError, match="9"):
        start(small(tmp_path / "refused", "data.folds=[9]"))
    assert not (tmp_path / "refused").exists()
    setup_logging(tmp_path / "next")
    assert (tmp_path / "next" / "train.log").read_text() == ""


def test_a_full_disk_costs_lines_and_is_said_once(capsys):
    root = logging.getLogger()
    setup_logging(None)
    full = LogFile("/dev/full")
    full.is_ours = True
    root.addHandler(full)
    log.warning("one")
    log.warning("two")
    said = capsys.readouterr().err
    assert said.count("lines are being lost") == 1
    assert "Traceback" not in said
    root.removeHandler(full)


def end(folder, error):
    config = compose(["recipe=demo", f"run.dir={folder}"])
    with pytest.raises(type(error)), endings_kept(config):
        raise error


def test_of_several_processes_the_log_names_the_one_that_failed(tmp_path, monkeypatch):
    for path in ("train.log", "logs/rank_3.log"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    for name, value in {"RANK": 3, "WORLD_SIZE": 8, "MASTER_ADDR": "x", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    end(tmp_path, PeerLostError("rank 3: another process is gone"))
    assert (tmp_path / "train.log").read_text() == ""  # not to blame
    end(tmp_path, ZeroDivisionError("division by zero"))
    assert (tmp_path / "train.log").read_text().endswith("process 3 of 8: ZeroDivisionError: division by zero\n")
    own = (tmp_path / "logs" / "rank_3.log").read_text()
    assert "another process is gone" in own
    assert "Traceback" in own


def test_how_a_run_was_stopped_is_kept_and_that_another_is_refused_is_not(tmp_path):
    (tmp_path / "train.log").touch()
    end(tmp_path, RunLockedError("in use"))
    assert (tmp_path / "train.log").read_text() == ""
    end(tmp_path, Interrupted("SIGTERM", "after step 3 of 9"))
    assert (tmp_path / "train.log").read_text().endswith("stopped by SIGTERM after step 3 of 9; everything is saved\n")


def test_a_fault_in_an_objective_shows_its_place_in_the_log_and_on_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(VCR, "batch_losses", lambda self, outputs: outputs["no such output"])
    words = small(tmp_path / "run", "stages=[pretrain]", "pretrain.steps=2")
    with pytest.raises(KeyError):
        exit_code("local.py", lambda: start(words))
    log = (tmp_path / "run" / "train.log").read_text()
    assert "in <lambda>\n" in log
    assert log.endswith("KeyError: 'no such output'\n")
    assert "data=synthetic: 60 clips" in log.partition("run folder")[0]


def test_a_mistake_found_on_the_way_is_one_line_in_both(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Interrupt, "agreed", lambda _: compose(["recipe=nothing"]))
    words = small(tmp_path / "run", "stages=[pretrain]", "pretrain.steps=2")
    assert exit_code("local.py", lambda: start(words)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("local.py: error: recipe=nothing: no configs")
    assert (tmp_path / "run" / "train.log").read_text().splitlines()[-1].count("recipe=nothing: no configs") == 1
