"""Tables filled by runs: means, scatter, what is missing, published numbers beside."""

import csv
import json

import pytest
from omegaconf import OmegaConf

from vcrast.cli.main import main
from vcrast.runs.filled_tables import fill_tables


def make(folder, cells, seed, **stages):
    """A run folder that fills some cells, with these numbers of fold 1."""
    folder.mkdir(parents=True)
    OmegaConf.save(
        {"recipe": "demo", "run": {"seed": seed, "cells": cells}, "stages": ["pretrain"]}, folder / "config.yaml"
    )
    (folder / "summary.json").write_text(json.dumps({"recipe": "demo", "folds": {"1": stages}}))
    return folder


def cost(speed, data_s, compute_s, **more):
    return {"samples_per_s": speed, "data_s": data_s, "compute_s": compute_s, "peak_memory_bytes": 2**30, **more}


@pytest.fixture
def folder(tmp_path):
    make(tmp_path / "0", ["5.2/toy/SSAST, fp32"], 0, pretrain=cost(50.0, 1.0, 3.0))
    make(tmp_path / "1", ["5.2/toy/SSAST, fp32"], 1, pretrain=cost(40.0, 1.0, 4.0))
    make(tmp_path / "2", ["5.2/toy/VCR"], 0, pretrain=cost(100.0, 0.0, 5.0))
    make(tmp_path / "3", ["5.2/toy/VCR", "projector/toy/4096"], 1, pretrain=cost(80.0, 0.0, 5.0, above_floor=2.5))
    make(tmp_path / "4", [], 0, pretrain=cost(1.0, 1.0, 1.0))
    return tmp_path


def test_a_row_is_the_mean_of_its_seeds_and_times_are_split_as_worked_by_hand(folder):
    found = next(each for each in fill_tables([folder]) if each.table.name == "5.2")
    ssast, vcr = found.variants
    assert [variant.label for variant in found.variants] == ["SSAST, fp32", "VCR"]
    each = found.estimate(ssast, "pretrain.ms_per_sample")
    assert each.mean == pytest.approx((20 + 25) / 2)
    assert each.error == pytest.approx(5 / 2**0.5)
    assert found.estimate(ssast, "pretrain.data_ms").mean == pytest.approx((20 / 4 + 25 / 5) / 2)
    assert found.estimate(ssast, "pretrain.compute_ms").mean == pytest.approx((20 * 3 / 4 + 25 * 4 / 5) / 2)
    assert found.estimate(vcr, "pretrain.data_ms").mean == 0
    # 10 - 20 and 12.5 - 25: by seed.
    assert found.difference(vcr, "pretrain.ms_per_sample").mean == pytest.approx((-10 - 12.5) / 2)


def test_a_run_fills_cells_of_several_tables(folder):
    found = {each.table.name: each for each in fill_tables([folder])}
    assert set(found) == {"5.2", "projector"}
    [row] = found["projector"].variants
    assert (row.label, [run.folder.name for run in row.runs]) == ("4096", ["3"])


def test_rows_without_a_run_are_named(folder):
    found = next(each for each in fill_tables([folder]) if each.table.name == "5.2")
    assert found.planned == ("SSAST, two forwards, fp32", "SSAST", "VCR, fp32")
    assert "no run is done yet: SSAST" in found.notes


def test_seeds_that_differ_in_a_setting_beside_the_table_are_rows_of_their_own(tmp_path):
    for number, rate in enumerate((0.1, 0.2)):
        own = make(tmp_path / str(number), ["5.2/toy/VCR"], 0, pretrain=cost(10.0, 1.0, 1.0))
        config = OmegaConf.load(own / "config.yaml")
        OmegaConf.save(OmegaConf.merge(config, {"optim": {"lr": rate}}), own / "config.yaml")
    [found] = fill_tables([tmp_path])
    assert [variant.label for variant in found.variants] == ["VCR: optim.lr=0.1", "VCR: optim.lr=0.2"]
    assert [found.published(variant) for variant in found.variants] == ["62.8 ms"] * 2
    assert "VCR" not in found.planned


def test_the_verb_prints_published_numbers_beside_ours(folder, capsys):
    assert main(["table", str(folder), "--format", "markdown"]) == 0
    printed = capsys.readouterr().out
    assert "Table 5.2 (toy): Time per sample" in printed
    [vcr] = [line for line in printed.splitlines() if line.startswith("| VCR |")]
    assert vcr.endswith("| 62.8 ms |")
    assert "its SSAST computed in fp32 and its VCR in fp16" in printed


def test_csv_has_a_line_per_run(folder, capsys):
    assert main(["table", str(folder / "2"), str(folder / "0"), "--format", "csv"]) == 0
    header, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert header[:5] == ["table", "scale", "row", "run.seed", "folder"]
    assert [row[:4] for row in rows] == [["5.2", "toy", "SSAST, fp32", "0"], ["5.2", "toy", "VCR", "0"]]
    assert float(rows[1][5]) == 10.0


def test_runs_of_no_table_and_runs_without_numbers_are_refused(folder, tmp_path, capsys):
    assert main(["table", str(folder / "4")]) == 2
    assert "no run belongs to a table; start one with table=NAME" in capsys.readouterr().err
    make(tmp_path / "5", ["5.3/toy/VCR patch"], 0)
    assert main(["table", str(tmp_path / "5")]) == 2
    assert "no run has a number of its table yet" in capsys.readouterr().err


def test_a_run_of_a_table_that_is_no_longer_there_is_named(tmp_path, capsys):
    make(tmp_path / "0", ["9.9/toy/X"], 0, pretrain=cost(1.0, 1.0, 1.0))
    assert main(["table", str(tmp_path / "0")]) == 2
    assert "table=9.9: no configs/table/9.9.yaml" in capsys.readouterr().err
