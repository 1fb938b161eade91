import json

from benchmarks.attention_paths import WAYS, main


def test_every_size_has_a_row_with_all_ways_and_the_choice(tmp_path):
    words = ["--tokens", "8", "513", "--widths", "8", "--heads", "2", "--clips", "1", "--rounds", "1", "--json"]
    assert main([*words, str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(row["precision"], row["tokens"]) for row in rows] == [
        (precision, tokens) for precision in ("fp32", "bf16") for tokens in ("8", "513")
    ]
    assert [row["chosen"] == "written out" for row in rows] == [False, False, True, False]
    assert all(float(row[way]) >= 0 for row in rows for way in WAYS)
