"""Compare runs: differences found, seeds paired, unfair comparisons named."""

import csv
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcrast.cli.main import main
from vcrast.config.compose import compose
from vcrast.config.saved import save_config
from vcrast.evaluation.classifier import Classifier
from vcrast.evaluation.knn import NearestNeighbours
from vcrast.runs.compare import Run, compare, differing, group, telling
from vcrast.runs.report.compare_figure import curves_figure, dots_figure, mean_curve
from vcrast.runs.report.compare_page import write_comparison

pytestmark = pytest.mark.slow

METRICS = {**Classifier.metrics, **NearestNeighbours.metrics}


def make(folder, *words, knn=None, folds=None, commit="a" * 40, clips=50, **stages):
    """A run folder with these settings and results: `knn` of fold 1, or `folds`, a value each."""
    folder.mkdir(parents=True)
    save_config(compose(["recipe=demo", *words, f"run.dir='{folder}'"]), folder / "config.yaml")
    values = folds if folds is not None else {} if knn is None else {"1": knn}
    summary = {
        fold: {"evaluate": {"knn_accuracy": value, "num_test_clips": clips}, **stages} for fold, value in values.items()
    }
    described = {"evaluate": {name: metric._asdict() for name, metric in METRICS.items()}}
    (folder / "summary.json").write_text(json.dumps({"recipe": "demo", "folds": summary, "metrics": described}))
    environment = {"git": {"commit": commit, "dirty": False}, "cpu": "A", "gpus": [], "packages": {"torch": "2.14.1"}}
    (folder / "env.json").write_text(json.dumps(environment))
    return folder


def labels(found):
    return [variant.label for variant in found.variants]


@pytest.fixture
def sweep(tmp_path):
    """Two attentions at seeds 0 and 1, one of them at seed 2 too."""
    make(tmp_path / "0_softmax", "attention=softmax", "run.seed=0", knn=0.60)
    make(tmp_path / "1_softmax", "attention=softmax", "run.seed=1", knn=0.70)
    make(tmp_path / "2_rfa", "attention=rfa", "run.seed=0", knn=0.62)
    make(tmp_path / "3_rfa", "attention=rfa", "run.seed=1", knn=0.66)
    make(tmp_path / "10_rfa", "attention=rfa", "run.seed=2", knn=0.90)
    return tmp_path


def test_mean_scatter_and_paired_difference_as_worked_by_hand(sweep):
    found = compare([sweep])
    assert labels(found) == ["attention=softmax", "attention=rfa"]
    softmax, rfa = found.variants
    metric = "evaluate.knn_accuracy"
    first = found.estimate(softmax, metric)
    assert (first.mean, first.error, first.count) == (pytest.approx(0.65), pytest.approx(0.1 / math.sqrt(2)), 2)
    second = found.estimate(rfa, metric)
    assert (second.mean, second.count) == (pytest.approx((0.62 + 0.66 + 0.90) / 3), 3)
    # Seeds 0 and 1 only: +0.02 and -0.04, mean -0.01, std 0.06 / sqrt(2), over sqrt(2).
    difference = found.difference(rfa, metric)
    assert (difference.mean, difference.error, difference.count) == (pytest.approx(-0.01), pytest.approx(0.03), 2)
    assert found.difference(softmax, metric).mean == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6))
def test_differences_are_those_of_numpy_over_any_number_of_seeds(pairs):
    def run(variant, seed, value):
        return Run(f"{variant}{seed}", {"k": variant}, seed, {"1": {"evaluate": {"accuracy": value}}})

    runs = [run(variant, seed, pair[variant]) for seed, pair in enumerate(pairs) for variant in (0, 1)]
    variants = group(runs)
    found = compare_of(variants)
    estimate = found.difference(variants[1], "evaluate.accuracy")
    differences = np.array([b - a for a, b in pairs])
    assert estimate.mean == pytest.approx(differences.mean(), abs=1e-12)
    if len(pairs) > 1:
        assert estimate.error == pytest.approx(differences.std(ddof=1) / len(pairs) ** 0.5, abs=1e-9)
    else:
        assert estimate.error is None


def compare_of(variants):
    from vcrast.runs.compare import Comparison

    return Comparison(variants, ("evaluate.accuracy",), ("1",), ())


def test_folds_that_not_all_have_are_left_out_and_named(tmp_path):
    make(tmp_path / "a", "model=tiny", folds={"1": 0.5, "2": 0.7, "10": 0.9})
    make(tmp_path / "b", "model=small", folds={"2": 0.6, "10": 0.8})
    # Another sweep's run of the same name.
    make(tmp_path / "other" / "a", "model=tiny", "run.seed=1", folds={"1": 0.5, "2": 0.7, "10": 0.9})
    assert compare([tmp_path, tmp_path / "other"]).folds == ("2", "10")
    found = compare([tmp_path])
    assert found.folds == ("2", "10")
    assert found.estimate(found.variants[0], "evaluate.knn_accuracy").mean == pytest.approx(0.8)
    assert any("a: not all runs have fold 1: left out" in note for note in found.notes)
    make(tmp_path / "c", "model=base", folds={"1": 0.6})
    with pytest.raises(ValueError, match=r"no fold in common \(a: 1, 2, 10; b: 2, 10; c: 1\)"):
        compare([tmp_path])


def test_a_run_that_has_not_come_so_far_costs_the_others_no_fold(tmp_path):
    make(tmp_path / "a", "model=tiny", folds={"1": 0.5, "2": 0.7})
    folder = make(tmp_path / "b", "model=small")
    (folder / "summary.json").write_text(json.dumps({"folds": {"1": {"pretrain": {"loss": 2.0}}}}))
    found = compare([tmp_path])
    assert (found.folds, labels(found)) == (("1", "2"), ["all runs"])
    assert f"{folder}: none of these numbers yet, left out" in found.notes
    assert compare([tmp_path], ["pretrain.loss"]).folds == ("1",)


def test_a_fold_in_which_a_number_is_undefined_is_named(tmp_path):
    folder = make(tmp_path / "a", folds={"1": 0.5, "2": 0.7})
    content = json.loads((folder / "summary.json").read_text())
    content["folds"]["1"]["evaluate"] |= {"auc": 0.9, "class_auc": {"dog": 0.9}}
    content["folds"]["2"]["evaluate"] |= {"auc": None, "undefined": {"auc": "one class"}}
    (folder / "summary.json").write_text(json.dumps(content))
    found = compare([folder], ["auc"])
    assert (found.folds, found.estimate(found.variants[0], "evaluate.auc").mean) == (("1",), 0.9)
    assert f"{folder}: undefined in fold 2, which is left out" in found.notes
    both = compare([folder], ["auc", "knn_accuracy"])
    assert both.folds == ("1", "2")
    assert both.estimate(both.variants[0], "evaluate.auc") is None
    assert f"{folder}: has no evaluate.auc" in both.notes


def test_nothing_done_is_said(tmp_path):
    make(tmp_path / "a")
    with pytest.raises(ValueError, match="no stage of any run is done yet"):
        compare([tmp_path])


def test_what_a_parts_name_implies_is_not_told_again(tmp_path):
    make(tmp_path / "a", "attention=softmax", knn=0.5)
    make(tmp_path / "b", "attention=rfa", knn=0.5)
    make(tmp_path / "c", "attention=rfa", "attention.num_features=32", knn=0.5)
    make(tmp_path / "d", "attention=rfa", "optim.lr=0.002", knn=0.5)
    found = compare([tmp_path])
    assert all("module" not in label for label in labels(found))
    features = compose(["attention=rfa"]).attention["num_features"]
    rate = compose(["recipe=demo"]).optim["lr"]
    assert labels(found) == [
        f"attention=softmax optim.lr={rate}",
        f"attention=rfa attention.num_features={features} optim.lr={rate}",
        f"attention=rfa attention.num_features=32 optim.lr={rate}",
        f"attention=rfa attention.num_features={features} optim.lr=0.002",
    ]


def test_the_views_that_an_objective_brings_are_not_told_unless_they_differ(tmp_path):
    make(tmp_path / "a", knn=0.5)
    make(tmp_path / "b", "objective=supervised", knn=0.5)
    assert labels(compare([tmp_path])) == ["objective=vcr", "objective=supervised"]
    make(tmp_path / "c", "objective=supervised", "views.gain_db=3.0", knn=0.5)
    told = [set(label.split()) for label in labels(compare([tmp_path]))]
    assert told[1:] == [{"objective=supervised", f"views.gain_db={gain}"} for gain in ("0.0", "3.0")]


def test_how_and_where_a_run_computes_makes_no_variant(tmp_path):
    make(tmp_path / "a", knn=0.5)
    make(
        tmp_path / "b", "pretrain.micro_batch_size=2", "launch.num_processes=2", "data.num_workers=1", "run.seed=4",
        "logger=[jsonl,tensorboard]", "checkpoint.keep=5", "slurm.partition=gpu", "engine=deepspeed", knn=0.5,
    )  # fmt: skip
    assert labels(compare([tmp_path])) == ["all runs"]


def test_stages_lists_and_nothing_are_written_as_one_types_them(tmp_path):
    make(tmp_path / "a", "views.time_stretch=[0.8,1.2]", "views.roll=true", knn=0.5)
    make(tmp_path / "b", "stages=[finetune,evaluate]", "views.time_stretch=null", "views.roll=false", knn=0.5)
    assert labels(compare([tmp_path])) == [
        "stages=[pretrain,finetune,evaluate] views.time_stretch=[0.8,1.2] views.roll=true",
        "stages=[finetune,evaluate] views.time_stretch=null views.roll=false",
    ]
    for label in labels(compare([tmp_path])):  # and can be typed
        compose(["recipe=demo", *label.split()])


def test_recipes_stand_for_their_settings_which_a_note_lists(tmp_path):
    make(tmp_path / "a", knn=0.5)
    make_recipe(tmp_path / "b", "esc10")
    found = compare([tmp_path])
    assert labels(found) == ["recipe=demo", "recipe=esc10"]
    note = next(note for note in found.notes if note.startswith("the recipes differ in"))
    assert "pretrain.epochs" in note


def make_recipe(folder, recipe):
    make(folder, knn=0.5)
    save_config(compose([f"recipe={recipe}", f"run.dir='{folder}'"]), folder / "config.yaml")
    return folder


def test_what_makes_it_less_fair_is_said(tmp_path):
    make(tmp_path / "a", "run.seed=0", "data.root=here", knn=0.5, commit="a" * 40, pretrain={"loss": 1.0})
    make(tmp_path / "b", "run.seed=1", "optim.lr=0.1", "data.root=elsewhere", knn=0.5, commit="b" * 40, clips=49)
    make(tmp_path / "c")
    (tmp_path / "c" / "summary.json").unlink()
    said = "\n".join(compare([tmp_path]).notes)
    for text in (
        "c: none of these numbers yet, left out", "b: has no pretrain", "different data: elsewhere; here",
        "different commit: aaaaaaaaaa; bbbbbbbbbb",
        "different seeds", "different numbers of test clips: 49, 50",
    ):  # fmt: skip
        assert text in said, said


def test_a_fair_comparison_says_only_how_many_clips_there_are(tmp_path):
    make(tmp_path / "a", "optim.lr=0.2", knn=0.5)
    make(tmp_path / "b", "optim.lr=0.1", knn=0.5)
    # sqrt(0.7 * 0.3 / 50) = 0.0648
    assert compare([tmp_path]).notes == (
        "50 test clips: by their choice alone an accuracy of 70 % has a standard error of 6.5 points",
    )


def test_missing_seeds_are_listed_by_variant(sweep):
    assert (
        "variants have different seeds: 0, 1 of attention=softmax; 0, 1, 2 of attention=rfa" in compare([sweep]).notes
    )


def test_a_run_named_twice_counts_once_and_runs_come_in_the_order_of_folds_numbers(sweep):
    found = compare([sweep / "2_rfa", sweep, sweep / "2_rfa"])
    assert labels(found) == ["attention=rfa", "attention=softmax"]
    assert [run.folder.name for run in found.variants[0].runs] == ["2_rfa", "3_rfa", "10_rfa"]


def test_losses_are_compared_where_nothing_was_evaluated(tmp_path):
    folder = make(tmp_path / "a")
    (folder / "summary.json").write_text(json.dumps({"folds": {"1": {"pretrain": {"loss": 2.0, "steps": 5}}}}))
    assert compare([folder]).metrics == ("pretrain.loss",)


def test_telling_keeps_a_key_that_a_name_does_not_explain():
    runs = [
        Run("a", {"part.name": "x", "part.k": 1}, 0, {}), Run("b", {"part.name": "x", "part.k": 2}, 0, {}),
        Run("c", {"part.name": "y"}, 0, {}),
    ]  # fmt: skip
    assert differing(runs) == telling(runs) == ["part.name", "part.k"]
    assert telling([runs[0], runs[2]]) == ["part.name"]


def test_the_verb_prints_tables_that_other_programs_read(sweep, capsys):
    assert main(["compare", str(sweep), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["attention"], row["run.seed"], float(row["evaluate.knn_accuracy"])) for row in rows] == [
        ("softmax", "0", 0.6), ("softmax", "1", 0.7), ("rfa", "0", 0.62), ("rfa", "1", 0.66), ("rfa", "2", 0.9),
    ]  # fmt: skip
    assert main(["compare", str(sweep), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["variants"][1]["difference"]["evaluate.knn_accuracy"]["count"] == 2
    assert main(["compare", str(sweep), "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "|  | runs | kNN, % |"
    assert lines[3] == "| attention=rfa | 3 | 72.7 ± 15.1 |"
    assert lines[4] == "| against the first, 2 seeds in common |  | -1.0 ± 3.0 |"


def test_the_verb_prints_a_table_and_writes_a_page(sweep, capsys, tmp_path):
    page = tmp_path / "compared.html"
    assert main(["compare", str(sweep), "--metric", "knn_accuracy", "--html", str(page)]) == 0
    said = capsys.readouterr()
    assert "attention=rfa" in said.out
    assert "72.7 ± 15.1" in said.out
    assert said.err == f"page: {page}\n"
    text = page.read_text()
    for shown in ("attention=rfa", "72.7 ± 15.1", "-1.0 ± 3.0", "different seeds", str(sweep / "10_rfa"), "no curves"):
        assert shown in text, shown
    assert text.count("data:image/png;base64,") == 1
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text


def test_what_comes_from_a_run_is_text_on_the_page(tmp_path):
    make(tmp_path / "<b>bold", "run.seed=0", "data.root='<script>'", "model.checkpoint='<i>x'", knn=0.5)
    make(tmp_path / "plain", knn=0.5)
    write_comparison(compare([tmp_path]), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<i>x" not in text
    assert "&lt;i&gt;x" in text
    assert "<b>bold" not in text


def test_other_variants_are_named_by_what_differs_from_the_first(tmp_path):
    make(tmp_path / "a", "attention=softmax", knn=0.5)
    make(tmp_path / "b", "attention=rfa", knn=0.5)
    make(tmp_path / "c", "attention=softmax", "views.patch_drop=0.25", knn=0.5)
    make(tmp_path / "d", "attention=rfa", "views.patch_drop=0.25", knn=0.5)
    found = compare([tmp_path])
    drop = compose(["recipe=demo"]).views["patch_drop"]
    assert [found.name(variant) for variant in found.variants] == [
        f"views.patch_drop={drop} attention=softmax", "attention=rfa", "views.patch_drop=0.25",
        "views.patch_drop=0.25 attention=rfa",
    ]  # fmt: skip


def log(folder, losses, accuracies):
    lines = [{"stage": "pretrain", "fold": "1", "step": 10 * i + 10, "above_floor": x} for i, x in enumerate(losses)]
    lines += [
        {"stage": "finetune", "fold": "1", "step": i, "epoch": i, "test_accuracy": x} for i, x in enumerate(accuracies)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_figures_hold_every_run_and_the_mean_of_each_variants_curves(sweep):
    log(sweep / "2_rfa", [5.0, 3.0], [0.1, 0.5])
    log(sweep / "3_rfa", [7.0, 4.0, 2.0], [])
    found = compare([sweep])
    dots = dots_figure(found).data
    assert dots["evaluate.knn_accuracy"]["attention=rfa"] == pytest.approx([62, 66, 90])
    drawn = curves_figure(found)
    assert list(drawn.data) == ["pretraining: loss above its floor", "finetuning: accuracy on the test clips"]
    own = drawn.data["pretraining: loss above its floor"]
    assert own["attention=softmax"] == []
    x, y = mean_curve(own["attention=rfa"])
    assert (x.tolist(), y.tolist()) == ([10, 20], [6.0, 3.5])  # the third step is one run's alone
    lines = {line.get_label(): line.get_xydata().tolist() for line in drawn.figure.axes[0].get_lines()}
    assert lines["attention=rfa"] == [[10, 6.0], [20, 3.5]]


def test_curves_without_a_common_step_are_not_averaged():
    one, other = (np.array([1.0, 2.0]), np.array([5.0, 6.0])), (np.array([3.0]), np.array([7.0]))
    assert mean_curve([one, other]) is one


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "neither a run folder nor a folder of runs"),
        (["SWEEP", "--metric", "knn_acuracy"], "knn_acuracy: no run has it; did you mean knn_accuracy?"),
        (["SWEEP", "--html", "nowhere/x.html"], "the folder nowhere does not exist"),
    ],
)
def test_mistakes_are_one_line(sweep, capsys, words, said):
    assert main(["compare", *(str(sweep) if word == "SWEEP" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_damaged_files_are_named_or_done_without(tmp_path):
    folder = make(tmp_path / "a", knn=0.5)
    (folder / "env.json").write_text("{")
    assert compare([tmp_path]).folds == ("1",)
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"a: config\.yaml \(not readable"):
        compare([tmp_path])
