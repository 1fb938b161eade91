"""Tables of configs/table: what their runs are told."""

import pytest

from vcrast.config.tables import ALL, Row, Scale, Table, read_scale, read_tables, tables

SCALE = Scale(
    "toy", "demo", (0, 1), {"duration": "source.duration_s"}, ("pretrain.steps=3", "model=tiny", "source.clips=8"),
    {"vcr": ("objective.projector_dims=[8,8,8]",)},
)  # fmt: skip


def words(*row, table=(), scale=()):
    made = Table("t", "T", ("evaluate.accuracy",), table, {"toy": scale}, (), ())
    return made.row_words(Row("row", row), SCALE)


def test_the_last_word_on_a_key_wins_row_over_table_over_scale():
    found = words("model=base", table=("pretrain.steps=4",), scale=("pretrain.steps=5", "model=small"))
    assert found == (
        "recipe=demo", "pretrain.steps=5", "model=base", "source.clips=8", "objective.projector_dims=[8,8,8]",
    )  # fmt: skip


def test_a_key_is_called_as_the_scale_calls_it():
    assert "source.duration_s=5.1" in words("duration=5.1")


def test_words_of_an_objective_are_those_of_runs_that_have_it():
    assert "objective.projector_dims=[8,8,8]" not in words("objective=ssast")


def test_a_table_that_does_not_pretrain_has_no_words_of_pretraining():
    assert words(table=("stages=[finetune,evaluate]",)) == ("recipe=demo", "model=tiny", "stages=[finetune,evaluate]")


def test_the_thesiss_tables_are_there_and_their_rows_differ():
    found = {table.name: table for table in read_tables(ALL)}
    assert {"5.2", "5.3", "5.4", "masked_patches", "batch_size", "projector", "finetune_lr"} <= set(found)
    for table in found.values():
        assert table.title
        assert len({row.words for row in table.rows}) == len(table.rows) > 1
        assert set(table.scales) == {"smoke", "esc10", "full"}
    assert [row.label for row in found["5.3"].rows] == ["SSAST patch", "SSAST frame", "VCR patch", "VCR frame"]


def test_what_is_no_table_or_scale_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"table=5\.5: no configs/table/5\.5\.yaml; did you mean 5\.[234]"):
        read_tables("5.5")
    with pytest.raises(ValueError, match=r"table\.scale=esc1: no such scale; did you mean esc10"):
        read_scale("esc1")
    assert read_scale("").name == "smoke"


def test_a_table_of_ones_own_lies_beside_ones_recipes(tmp_path, monkeypatch):
    (tmp_path / "table").mkdir()
    file = tmp_path / "table" / "mine.yaml"
    file.write_text("# Mine\ncolumns: [a.b]\nwords: []\nscales: {}\nrows: {x: {words: [optim.lr=1]}}\nnotes: []\n")
    monkeypatch.setenv("VCRAST_CONFIGS", str(tmp_path))
    assert tables()["mine"] == file
    [mine] = read_tables("mine")
    assert mine.title == "Mine"
    assert mine.rows == (Row("x", ("optim.lr=1",)),)
    file.write_text("# Mine\ncolumns: [a.b]\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: columns, words, scales, rows and notes make a table"):
        read_tables("mine")
