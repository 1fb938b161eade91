from __future__ import annotations

import math

import numpy as np
import pytest

from vcrast.config.metric import FORMATS, Metric
from vcrast.runs.report.headline import headline, wall_seconds
from vcrast.runs.report.numbers import (
    confusion,
    curves,
    most_frequent,
    moving_mean,
    principal_plane,
    stack_folds,
)

LINES = [
    {"stage": "pretrain", "fold": "10", "step": 2, "loss": 5.0, "invariance": 1.0, "lr": 0.1},
    {"stage": "pretrain", "fold": "2", "step": 4, "loss": 3.0, "covariance": 2.0},
    {"stage": "pretrain", "fold": "2", "step": 2, "loss": 4.0, "reconstruction": 0.5},
    {"stage": "pretrain", "fold": "2", "step": 6, "loss": math.nan},
    {"stage": "pretrain", "fold": "2", "step": 8, "embedding_std": 0.3},
    {"stage": "finetune", "fold": "2", "step": 2, "loss": 1.0, "cross_entropy": 1.0},
]


def test_curves_are_per_fold_in_natural_order_sorted_and_finite():
    found = curves(LINES, "pretrain", "loss")
    assert list(found) == ["2", "10"]
    assert found["2"][0].tolist() == [2, 4]
    assert found["2"][1].tolist() == [4, 3]


def test_moving_mean_by_hand():
    # the window is cut at both ends: (1+4)/2, (1+4+7)/3, (4+7+1)/3, (7+1)/2
    np.testing.assert_allclose(moving_mean(np.array([1.0, 4.0, 7.0, 1.0]), 3), [2.5, 4.0, 4.0, 4.0])


def test_confusion_by_hand():
    scores = np.array([[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0, 0, 1.0]])
    labels = np.eye(3)[[0, 0, 1, 0, 2]]
    found = confusion(scores, labels)
    assert found.counts.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(found.shares, [[1 / 3, 2 / 3, 0], [0, 1, 0], [0, 0, 1]])
    assert found.worst() == [(0, 1, 2, 3)]


def test_confusion_of_a_class_without_clips_has_an_empty_row():
    assert confusion(np.eye(3)[[0, 1]], np.eye(3)[[0, 1]]).shares[2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("row", [[1, 1], [0, 0]])
def test_confusion_needs_exactly_one_label(row):
    with pytest.raises(ValueError, match="no label or several"):
        confusion(np.array([[0.2, 0.8], [0.3, 0.7]]), np.array([[1, 0], row]))


def test_principal_plane_by_hand():
    # variances 8, 2 and 0 along y, x and z
    points = np.array([[0, 2, 5], [0, -2, 5], [1, 0, 5], [-1, 0, 5.0]])
    plane, shares = principal_plane(points)
    np.testing.assert_allclose(shares, [0.8, 0.2])
    np.testing.assert_allclose(plane, points[:, [1, 0]], atol=1e-12)


def test_principal_plane_agrees_with_svd():
    points = np.random.default_rng(0).normal(size=(37, 11)) * np.arange(1, 12)
    centred = points - points.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    plane, shares = principal_plane(points)
    np.testing.assert_allclose(np.abs(plane), np.abs(left * sizes)[:, :2], rtol=1e-8)
    np.testing.assert_allclose(shares, (sizes**2 / (sizes**2).sum())[:2])


@pytest.mark.parametrize("points", [np.zeros((2, 5)), np.zeros((5, 1)), np.full((4, 4), np.nan)])
def test_principal_plane_refuses_too_little(points):
    with pytest.raises(ValueError, match="too few or not finite"):
        principal_plane(points)


def test_principal_plane_of_collapsed_embeddings_is_a_point():
    plane, shares = principal_plane(np.ones((5, 3)))
    assert np.abs(plane).max() == 0
    assert shares.tolist() == [0, 0]


def test_most_frequent_classes():
    assert most_frequent(np.array([5, 2, 2, 7, 7, 7, 1]), 2) == [2, 7]


def test_stack_folds_skips_folds_without_the_arrays():
    both = {"scores": np.ones((2, 3)), "labels": np.ones((2, 3))}
    assert stack_folds({"1": both, "2": {"labels": np.ones((4, 3))}, "3": both}, ["scores", "labels"])[0].shape == (
        4,
        3,
    )
    with pytest.raises(KeyError, match="scores"):
        stack_folds({"2": {"labels": np.ones((4, 3))}}, ["scores"])


def test_headline_cells():
    one = {"evaluate": {"accuracy": 0.8125, "auc": None}, "pretrain": {"steps": 1200, "peak_memory_bytes": 3 * 2**30}}
    two = {"evaluate": {"accuracy": 0.9, "auc": float("nan")}}
    shown = {
        "pretrain": {"steps": Metric("Steps", "count"), "peak_memory_bytes": Metric("Memory", "bytes")},
        "evaluate": {"accuracy": Metric("Accuracy", "percent"), "absent": Metric("Absent"), "auc": Metric("AUC")},
    }
    summary = {
        "folds": {"10": two, "2": one}, "mean": {"evaluate": {"accuracy": 0.85625}}, "std": {},
        "metrics": {stage: {name: how._asdict() for name, how in own.items()} for stage, own in shown.items()},
    }  # fmt: skip
    table = headline(summary)
    assert table.folds == ["2", "10"]
    evaluate, pretrain = table.groups
    assert evaluate.stage == "evaluate"
    assert [row.label for row in evaluate.rows] == ["Accuracy", "AUC"]
    assert evaluate.rows[0].cells == ["81.2 %", "90.0 %"]
    assert (evaluate.rows[0].mean, evaluate.rows[0].std) == ("85.6 %", "–")  # noqa: RUF001
    assert evaluate.rows[1].cells == ["–", "nan"]  # noqa: RUF001
    assert [row.cells[0] for row in pretrain.rows] == ["1,200", "3.0 GiB"]


def test_headline_shows_metrics_it_does_not_know_but_no_lists():
    rows = (
        headline({"folds": {"1": {"finetune": {"new_metric": 0.123456, "accuracy_by_epoch": [[1, 0.5]]}}}})
        .groups[0]
        .rows
    )
    assert [(row.label, row.cells) for row in rows] == [("new metric", ["0.1235"])]


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.54, "9.5 s"), (61, "1 min 01 s"), (3599.6, "1 h 00 min"), (3725, "1 h 02 min")]
)
def test_durations(seconds, text):
    assert Metric("Time", "duration").text(seconds) == text


def test_sizes():
    assert [FORMATS["bytes"](number) for number in (512, 1536, 5 * 2**20, 11 * 2**30)] == [
        "512 B",
        "1.5 KiB",
        "5.0 MiB",
        "11.0 GiB",
    ]


def test_wall_time_is_the_sum_of_stages_or_what_the_log_spans():
    folds = {"1": {"pretrain": {"wall_s": 10}, "evaluate": {"wall_s": 2.5}}, "2": {"pretrain": {"wall_s": 7}}}
    assert wall_seconds({"folds": folds}, []) == 19.5
    assert wall_seconds({}, [{"time": 100.0}, {"time": 160.0}]) == 60
    assert wall_seconds({}, []) is None
