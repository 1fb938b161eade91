"""Run the study of all objectives at toy size: planned, run, gone on with, compared."""

import json

import pytest
from small_run import SMALL

from benchmarks.study import PLAN, main

WORDS = [word for word in SMALL if not word.startswith(("objective.", "pretrain.steps"))]


@pytest.mark.slow
def test_methods_get_equal_time_and_what_is_done_stays(tmp_path, capsys):
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
    assert steps == max(2, round(60 * 0.001 / plan["seconds_a_step"]["ssast"]))
    summary = json.loads((tmp_path / "study" / "ssast_seed0" / "summary.json").read_text())
    assert summary["folds"]["1"]["pretrain"]["steps"] == steps
    before = (tmp_path / "study" / "ssast_seed0" / "metrics.jsonl").read_bytes()
    assert main([*asked, "--seeds", "0", "--", *words]) == 0
    assert (tmp_path / "study" / "ssast_seed0" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(ValueError, match="was begun with other minutes"):
        main([*asked, "--minutes", "2", "--", *words])
