"""Check that a part's own losses and metrics are shown everywhere."""

import json
import sys

import pytest
from rich.console import Console
from small_run import small

from vcrast.config.resume import resolve
from vcrast.run import run
from vcrast.runs.compare import compare
from vcrast.runs.report.compare_page import write_comparison
from vcrast.runs.report.summary_table import print_summary

pytestmark = pytest.mark.slow

MODULE = """
from vcrast.config.metric import Metric
from vcrast.config.registry import EVALUATIONS, OBJECTIVES
from vcrast.evaluation.base import Evaluation, Features
from vcrast.objectives.vcr import VCR


@OBJECTIVES.register("own_vcr")
class Own(VCR):
    parts = {**VCR.parts, "distance": Metric("Distance of the views", "percent", "lower", "far", headline="distance")}
    note = "The distance should fall, says its author."

    def batch_losses(self, outputs):
        losses = super().batch_losses(outputs)
        return {**losses, "distance": losses["invariance"].sqrt()}


@EVALUATIONS.register("own_width")
class Width(Evaluation):
    needs = Features
    metrics = {"own_width": Metric("Width of the test embeddings", "fixed", "higher", "width", headline="width")}

    def __init__(self, *, times):
        self.times = times

    def measure(self, given):
        return {"own_width": self.times * float(given.test.embedding.std(dim=0).mean())}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_numbers_module.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    words = small(
        folder / "run", "stages=[pretrain,evaluate]", "pretrain.steps=3", "objective.name=own_vcr",
        "objective.module=own_numbers_module", "+evaluation.own_width.module=own_numbers_module",
        "+evaluation.own_width.times=2",
    )  # fmt: skip
    yield run(resolve(words), words)
    sys.path.remove(str(folder))


def test_the_summary_holds_the_numbers_and_how_they_are_shown(finished):
    summary = json.loads((finished / "summary.json").read_text())
    fold = summary["folds"]["1"]
    assert fold["pretrain"]["distance"] == pytest.approx(fold["pretrain"]["invariance"] ** 0.5, rel=1e-4)
    assert fold["evaluate"]["own_width"] > 0
    assert summary["mean"]["evaluate"]["own_width"] == fold["evaluate"]["own_width"]
    assert summary["metrics"]["pretrain"]["distance"]["label"] == "Distance of the views"
    assert summary["metrics"]["evaluate"]["own_width"]["format"] == "fixed"
    assert "distance" in summary["parts"]["pretrain"]


def test_the_report_and_the_table_show_them(finished):
    page = (finished / "report.html").read_text()
    for said in ("Distance of the views", "Width of the test embeddings", "The distance should fall, says its author."):
        assert said in page, said
    console = Console(record=True, width=120, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    print_summary(finished, console)
    fold = json.loads((finished / "summary.json").read_text())["folds"]["1"]
    shown = console.export_text()
    assert f"{fold['evaluate']['own_width']:.3f}" in shown
    assert f"{100 * fold['pretrain']['distance']:.1f} %" in shown


def test_a_comparison_takes_them_for_its_columns(finished, tmp_path):
    found = compare([finished])
    assert {"pretrain.distance", "evaluate.own_width"} <= set(found.metrics)
    write_comparison(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "width" in page
    assert "far" in page
