import json

import pytest

from benchmarks.views import COLUMNS, main
from vcrast.features.augment import CHANGES


def test_every_change_has_a_row_and_the_differences_are_to_the_filterbank(tmp_path):
    file = tmp_path / "rows.json"
    assert main([*["--device", "cpu", "--batch", "2", "--seconds", "0.2", "--rounds", "1", "--json"], str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["views"] for row in rows][:3] == ["none", "default", "sounds"]
    assert {name.replace("_", "-") for name in CHANGES} < {row["views"] for row in rows}
    for row in rows:
        assert tuple(row) == COLUMNS
        more = float(row["ms a clip"]) - float(rows[0]["ms a clip"])
        assert float(row["more than the filterbank"]) == pytest.approx(more, abs=0.0021)
