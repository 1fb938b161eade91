import json

import pytest

from vcrast.runs.summary import Summary, spread


def fold(accuracy, curve):
    return {"finetune": {"steps": 4, "accuracy_by_epoch": curve}, "evaluate": {"accuracy": accuracy}}


def test_mean_and_std_by_hand():
    folds = {"1": fold(0.5, [[1, 0.4], [2, 0.5]]), "2": fold(0.9, [[1, 0.8], [2, 0.5]])}
    result = spread(folds)
    assert result["mean"]["evaluate"]["accuracy"] == pytest.approx(0.7)
    assert result["std"]["evaluate"]["accuracy"] == pytest.approx(0.2 * 2**0.5)
    assert (result["mean"]["finetune"]["best_epoch"], result["mean"]["finetune"]["best_epoch_accuracy"]) == (
        1,
        pytest.approx(0.6),
    )


def test_one_fold_has_no_deviation():
    assert spread({"1": fold(0.5, [])})["std"]["evaluate"]["accuracy"] is None


def test_a_perfect_score_has_no_finite_d_prime(tmp_path):
    summary = Summary(tmp_path / "summary.json", recipe="demo", classes=("a",))
    summary.record("1", "evaluate", {"auc": 1.0, "d_prime": float("inf")})
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored["folds"]["1"]["evaluate"] == {"auc": 1.0, "d_prime": None}
    assert stored["mean"]["evaluate"] == {"auc": 1.0}


def test_an_epoch_that_the_test_clips_do_not_define_is_no_best_one():
    folds = {"1": fold(0.5, [[1, None], [2, 0.4], [3, 0.6]]), "2": fold(0.9, [[1, 0.9], [2, 0.8], [3, None]])}
    mean = spread(folds)["mean"]["finetune"]
    assert (mean["best_epoch"], mean["best_epoch_accuracy"]) == (2, pytest.approx(0.6))
    assert "best_epoch" not in spread({"1": fold(0.5, [[1, None]]), "2": fold(0.9, [[1, 0.9]])})["mean"]["finetune"]


def test_numbers_of_classes_are_kept_and_not_averaged(tmp_path):
    summary = Summary(tmp_path / "summary.json", recipe="demo", classes=("a",))
    by_class = {"class_accuracy": {"a": None}, "undefined": {"auc": "why"}, "auc": float("nan")}
    summary.record("1", "evaluate", {"accuracy": 1.0, **by_class})
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored["folds"]["1"]["evaluate"] == {"accuracy": 1.0, **by_class, "auc": None}
    assert stored["mean"]["evaluate"] == {"accuracy": 1.0}


def test_summary_survives_a_restart(tmp_path):
    path = tmp_path / "summary.json"
    Summary(path, recipe="demo", classes=("a",)).record("1", "pretrain", {"loss": 2.0})
    again = Summary(path, recipe="demo", classes=("a",))
    assert again.done("1", "pretrain")
    assert not again.done("1", "finetune")
    assert again.result("1", "pretrain") == {"loss": 2.0}
    again.warn("careful")
    again.warn("careful")
    again.write()
    assert json.loads(path.read_text())["warnings"] == ["careful"]
