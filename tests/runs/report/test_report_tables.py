import json
from dataclasses import replace

import numpy as np
import pytest
from fabricated_run import fabricate

from vcrast.config.metric import Metric
from vcrast.runs.record import read_run
from vcrast.runs.report.lead import between, differences, lead, split_unit
from vcrast.runs.report.tables import class_rows, loss_terms, stage_tables, time_table


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return read_run(fabricate(tmp_path_factory.mktemp("runs") / "run"))


def test_the_leading_number_is_said_with_what_it_is_of(record):
    found = lead(record)
    assert (found.label, found.value, found.unit, found.spread) == ("Accuracy, finetuned", "82.5", "%", "± 3.5")
    assert found.of == "Mean and standard deviation over 2 folds, 160 test clips in all"
    assert dict(found.beside)["Chance"] == "10.0 %"


def test_of_one_fold_the_scatter_is_that_of_its_clips(record):
    summary = record.summary | {"folds": {"1": record.summary["folds"]["1"]}, "std": {}}
    summary["mean"] = {"evaluate": record.summary["folds"]["1"]["evaluate"]}
    found = lead(replace(record, summary=summary))
    assert (found.value, found.spread) == ("80.0", "± 4.5")  # sqrt(0.8 0.2 / 80)
    assert "standard error" in found.of


def test_without_an_evaluation_the_loss_above_its_floor_leads(record):
    means = {"pretrain": {"above_floor": 1.25, "loss": 22.4}}
    metrics = {"pretrain": record.summary["metrics"]["pretrain"]}
    folds = {"1": {"pretrain": means["pretrain"]}}
    found = lead(replace(record, summary={"metrics": metrics, "folds": folds, "mean": means, "std": {}}))
    assert (found.label, found.value, found.of) == ("Loss above its floor", "1.25", "At the end of pretrain")
    assert lead(replace(record, summary={})) is None


def test_only_what_differs_from_the_recipe_is_told(record):
    words = ["recipe=esc10", "run.dir=x", "+run.resume=y", "run.seed=3", "model=small"]
    assert differences(replace(record, overrides=words)) == ["run.seed=3", "model=small"]


def test_texts_by_hand():
    assert split_unit("81.2 %") == ("81.2", "%")
    assert split_unit("3 min 02 s") == ("3 min 02 s", "")
    assert between(Metric("a", "percent"), 0.76, 0.058) == "76.0 ± 5.8 %"
    assert between(Metric("a", "duration"), 182, 5.0) == "3 min 02 s"
    assert between(Metric("a"), "windows of 5 s", None) == "windows of 5 s"
    assert between(Metric("a"), None, None) == ""


def test_stages_stand_beside_the_untrained_encoder_and_costs_apart(record):
    tables = {table.title: table for table in stage_tables(record)}
    rows = {row[0]: row[1:] for row in tables["evaluate"].rows}
    assert rows["Accuracy, nearest neighbours"] == ["60.0 %", "31.0 %"]
    assert rows["Accuracy, finetuned"] == ["82.5 ± 3.5 %", "–"]  # noqa: RUF001
    assert not {"Wall time", "Invariance term", "Floor of the loss"} & {row[0] for row in tables["pretrain"].rows}
    [terms] = loss_terms(record)
    assert [row[0] for row in terms.rows][:2] == ["Loss", "Invariance term"]
    assert ["Floor of the loss", "21.2", "21.2"] in terms.rows
    [unlogged] = loss_terms(replace(record, lines=[]))
    assert ["Floor of the loss", "–", "21.2"] in unlogged.rows  # noqa: RUF001


def test_what_is_said_in_words_stands_below(record):
    summary = json.loads(json.dumps(record.summary))
    summary["folds"]["1"]["evaluate"]["long_clips"] = "windows of 5 s, averaged"
    [table] = [each for each in stage_tables(replace(record, summary=summary)) if each.title == "evaluate"]
    assert table.notes == ["Clips longer than the model's: windows of 5 s, averaged."]
    assert "Clips longer than the model's" not in [row[0] for row in table.rows]


def test_time_of_a_sample_is_split(record):
    summary = json.loads(json.dumps(record.summary))
    summary["mean"]["pretrain"] |= {"samples_per_s": 40.0, "data_s": 25.0, "compute_s": 75.0}
    rows = {row[0]: row[1:] for row in time_table(replace(record, summary=summary)).rows}
    # 25 ms a sample, of which a quarter is waiting; two folds of 3725 s.
    assert rows["pretrain"] == ["40", "6.25", "18.8", "25.0 %", "11.0 GiB", "2 h 04 min"]


def test_classes_are_means_over_the_folds(record):
    rows = list(class_rows(record))
    assert (rows[0].name, rows[0].clips) == ("dog", 16)
    assert rows[0].accuracy == pytest.approx(7 / 8)
    assert 0.5 < rows[0].AP < 1
    several = {
        fold: {**arrays, "labels": np.ones_like(arrays["labels"])} for fold, arrays in record.evaluations.items()
    }
    assert np.isnan(next(class_rows(replace(record, evaluations=several))).accuracy)
