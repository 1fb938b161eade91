"""Run the study of all objectives at toy size: planned, run, gone on with, compared."""

import json
import sys

import pytest
from small_run import SMALL

from benchmarks.study import PLAN, Planned, cpu_seconds, main

WORDS = [word for word in SMALL if not word.startswith(("objective.", "pretrain.steps"))]


class Busy(Planned):
    """A run that only takes time."""

    def command(self, out):
        return [sys.executable, "-c", "import time\nwhile time.process_time() < 0.6: pass"]


def test_time_is_that_of_the_processor(tmp_path):
    assert 0.6 <= cpu_seconds(Busy("busy", ()), tmp_path) < 5
    with pytest.raises(ValueError, match=r"none: ended with 2, see .*none\.log"):
        cpu_seconds(Planned("none", ("no_such_recipe",)), tmp_path)


@pytest.mark.slow
def test_methods_get_equal_time_and_what_is_done_stays(tmp_path, capsys, monkeypatch):
    # The runs of a few steps, by themselves tried above: 2 of them take 3 s, 8 take 6.
    monkeypatch.setattr("benchmarks.study.cpu_seconds", lambda run, _: 3.0 if "steps=2" in run.words[-1] else 6.0)
    words = [*WORDS, f"data.cache_dir={tmp_path / 'cache'}"]
    asked = [
        "--out",
        str(tmp_path / "study"),
        "--minutes",
        "0.001",
        "--methods",
        "ssast",
        "supervised",
        "--rounds",
        "1",
    ]
    assert main([*asked, "--seeds", "0", "--", *words]) == 0
    assert "objective=ssast" in capsys.readouterr().out
    plan = json.loads((tmp_path / "study" / PLAN).read_text())
    steps = plan["steps"]["ssast"]
    assert (plan["seconds_a_step"]["ssast"], steps) == (0.5, 2)  # of 1.2 s
    summary = json.loads((tmp_path / "study" / "ssast_seed0" / "summary.json").read_text())
    assert summary["folds"]["1"]["pretrain"]["steps"] == steps
    before = (tmp_path / "study" / "ssast_seed0" / "metrics.jsonl").read_bytes()
    assert main([*asked, "--seeds", "0", "--", *words]) == 0
    assert (tmp_path / "study" / "ssast_seed0" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(ValueError, match="was begun with other minutes"):
        main([*asked, "--minutes", "2", "--", *words])
