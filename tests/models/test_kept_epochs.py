"""Check how epochs are written, and found in a fold's folder."""

import pytest

from vcrast.models.kept_epochs import among, in_words, kept_in, last_named, parse_epochs


@pytest.mark.parametrize(
    ("value", "inside", "last"),
    [
        ("6-8", {6, 7, 8}, 8),
        (5, {5}, 5),
        ([1, "3-4"], {1, 3, 4}, 4),
        ("1,3, 5-6", {1, 3, 5, 6}, 6),
        ("all", set(range(1, 12)), None),
    ],
)
def test_epochs_may_be_written_in_several_ways(value, inside, last):
    epochs = parse_epochs(value, "x")
    assert {number for number in range(12) if among(number, epochs)} == inside
    assert last_named(epochs) == last
    assert last is None or parse_epochs(in_words(inside), "x")[-1][-1] == last


@pytest.mark.parametrize("value", ["", "0", "3-1", "a-b", "best", -1, True, 1.5, [], [[1]], "1-", "1-2-3"])
def test_what_names_no_epochs_is_refused(value):
    with pytest.raises(ValueError, match=r"^finetune.keep_epochs=.*give.* as 6-25, \[1,3,5\] or all"):
        parse_epochs(value, f"finetune.keep_epochs={value}")


def test_folders_are_found_in_the_order_of_their_numbers(tmp_path):
    for name in ("epoch_10", "epoch_9", "epoch_x", "epoch_07", "finetuned", "epoch_11"):
        (tmp_path / name).mkdir()
        if name != "epoch_11":
            (tmp_path / name / "model.json").touch()
    assert kept_in(tmp_path, "model.json") == {9: tmp_path / "epoch_9", 10: tmp_path / "epoch_10"}
    assert kept_in(tmp_path / "nothing", "model.json") == {}
