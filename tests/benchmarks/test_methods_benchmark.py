"""Run the benchmark of all objectives at toy size."""

import json

import pytest

from benchmarks.methods import METHODS, main, parse
from vcrast.config.files import options


@pytest.mark.slow
def test_every_objective_is_timed_beside_ssasts_step(tmp_path, capsys):
    chosen = ["mmcr", "supervised", "ssast", "mae", "asit"]  # the others are compared as they are
    assert main(["--small", "--device", "cpu", "--json", str(tmp_path / "rows.json"), "--methods", *chosen]) == 0
    found = json.loads((tmp_path / "rows.json").read_text())["rows"]
    expected = {name for name in METHODS if name.partition(",")[0] in chosen}
    assert {row["method"] for row in found} == {"SSAST as released", *expected}
    assert all(float(row["clips/s"]) > 0 and float(row["peak MiB"]) > 0 for row in found)
    assert found[0]["to SSAST as released"] == "1.00x"


def test_every_objective_has_a_row():
    named = {words[0].partition("=")[2] for words in METHODS.values()}
    assert named == {name for name, _ in options("objective")}


def test_a_method_that_there_is_not_is_named(capsys):
    with pytest.raises(SystemExit):
        parse(["--methods", "byol"])
    assert "--methods byol: choose from asit, barlow, mae" in capsys.readouterr().err
