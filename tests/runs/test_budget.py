import json

import pytest
from small_run import small, stop_and_go_on, weights_hash

import vcrast.run
from vcrast.config.resume import resolve
from vcrast.config.saved import load_config
from vcrast.run import run

WORDS = ("stages=[pretrain]", "pretrain.steps=null", "checkpoint.every_steps=1")


def go(folder, minutes):
    words = small(folder, *WORDS, f"pretrain.minutes={minutes}")
    run(resolve(words), words)
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def half_a_second(monkeypatch):
    """A step that is said to take so long; how often it was asked for."""
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)
    asked = []
    monkeypatch.setattr(vcrast.run, "time_of_a_step", lambda job: asked.append(job) or 0.5)
    return asked


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_steps_that_it_was_begun_with(tmp_path, monkeypatch, half_a_second):
    whole = go(tmp_path / "whole", 0.05)
    assert whole["planned"]["pretrain"] == {"minutes": 0.05, "step_s": 0.5, "steps": 6}
    assert whole["folds"]["1"]["pretrain"]["steps"] == 6
    assert load_config(tmp_path / "whole" / "config.yaml").pretrain.steps is None  # runs of one command are one variant
    stop_and_go_on(lambda folder: go(folder, 0.05), tmp_path / "stopped", monkeypatch)
    assert weights_hash(tmp_path / "stopped") == weights_hash(tmp_path / "whole")
    assert len(half_a_second) == 2  # once for each folder
    assert load_config(tmp_path / "stopped" / "config.yaml").pretrain.steps is None
    longer = go(tmp_path / "stopped", 0.075)
    assert longer["folds"]["1"]["pretrain"]["steps"] == 9
    assert len(half_a_second) == 2  # the same machine is meant


def test_a_step_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)
    found = go(tmp_path / "run", 0.002)
    plan = found["planned"]["pretrain"]
    assert plan["step_s"] > 0
    assert plan["steps"] == max(1, round(0.12 / plan["step_s"])) == found["folds"]["1"]["pretrain"]["steps"]


def test_no_time_is_refused():
    with pytest.raises(ValueError, match=r"pretrain\.minutes=0\.0: must be positive"):
        resolve(["recipe=demo", "pretrain.minutes=0"])
