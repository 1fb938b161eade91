import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.synth import COLUMNS, parse

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def output():
    words = "benchmarks/synth.py --device cpu --tiny --batch 6 --seconds 0.5 1.0 --steps 1 --warmup 1 --draws 900"
    return subprocess.run(
        [sys.executable, *words.split(), "source.distance=0.3"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=300,
    ).stdout  # fmt: skip


def test_rows_agree_with_themselves(output):
    lines = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("| ")]
    assert lines[0] == list(COLUMNS)
    rows = [dict(zip(COLUMNS, line, strict=True)) for line in lines[2:]]
    assert [(row["clip"], row["batch"], row["layers"]) for row in rows] == [("0.5 s", "6", "2"), ("1 s", "6", "2")]
    for row, seconds in zip(rows, (0.5, 1.0), strict=True):
        rate, pairs, training = (float(row[name].replace(",", "")) for name in ("pairs/s", "pairs ms", "training ms"))
        assert pairs == pytest.approx(6000 / rate, rel=0.02)
        assert float(row["x real time"].replace(",", "")) == pytest.approx(2 * rate * seconds, rel=0.02, abs=1)
        assert float(row["share of the step"].rstrip("%")) == pytest.approx(100 * pairs / (pairs + training), abs=0.2)


def test_the_check_over_many_draws_finds_none(output):
    assert "1,000 sounds: 0 not finite, clipped or silent; peaks from 0.1" in output


def test_the_header_says_where_it_ran(output):
    for word in ("# hardware: ", "precision fp32", f"torch {torch.__version__}", "# commit: ", "source.distance=0.3"):
        assert word in output


def test_sizes_of_nothing_are_refused(capsys):
    with pytest.raises(SystemExit):
        parse(["--batch", "0"])
    assert "--batch 0: must be at least 1" in capsys.readouterr().err
