from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from fabricated_run import finetune_lines, pretrain_lines

from vcrast.runs.report.figures import (
    accuracy_figure,
    collapse_figure,
    confusion_figure,
    loss_figure,
    map_figure,
    rate_figure,
    views_figure,
)
from vcrast.runs.report.style import class_mark, class_names, plain, undrawn

SHOWN = {"parts": ["invariance", "floor", "above_floor"], "labels": {"invariance": "Pull of the views"}}
LINES = [*pretrain_lines("1", 0), *finetune_lines("1", 0), *pretrain_lines("2", 1)]


def test_confusion_figure_shows_the_counts():
    scores, labels = np.eye(3)[[0, 1, 1, 2]], np.eye(3)[[0, 0, 1, 2]]
    drawn = confusion_figure(scores, labels, ["dog", "cat", "rain"])
    axis = drawn.figure.axes[0]
    written = {text.get_position()[::-1]: int(text.get_text()) for text in axis.texts}
    assert written == {(0, 0): 1, (0, 1): 1, (1, 1): 1, (2, 2): 1}
    assert drawn.data["counts"].tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(np.asarray(axis.images[0].get_array())[0], [0.5, 0.5, 0])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")


def test_loss_figure_has_a_labelled_panel_per_part_and_the_floor():
    drawn = loss_figure(LINES, "pretrain", **SHOWN)
    labels = [axis.get_ylabel() for axis in drawn.figure.axes]
    assert labels == ["loss", "above floor", "invariance", "grad norm"]
    titles = [axis.get_title(loc="left") for axis in drawn.figure.axes]
    assert titles == ["loss", "above floor", "Pull of the views", "grad norm"]
    assert all(axis.get_xlabel() == "step" for axis in drawn.figure.axes)
    assert drawn.data["floor"]["1"][1].tolist() == [21.2] * 120
    np.testing.assert_allclose(drawn.data["loss"]["2"][1] - 21.2, drawn.data["above_floor"]["2"][1])


def test_rates_collapse_and_accuracy_hold_the_logged_numbers(tmp_path):
    assert list(rate_figure(LINES).data) == ["pretrain", "finetune"]
    ranks = collapse_figure(LINES).data["effective_rank"]["1"]
    np.testing.assert_allclose(ranks[1], [4 + 20 * step / 1200 for step in range(200, 1201, 200)])
    drawn = accuracy_figure(LINES, 10)
    assert drawn.data["1"][0].tolist() == list(range(1, 11))
    assert drawn.figure.axes[0].get_ylabel() == "accuracy (%)"
    np.testing.assert_allclose(drawn.figure.axes[0].lines[0].get_ydata(), 100 * drawn.data["1"][1])


def test_accuracy_figure_of_multilabel_clips_is_map():
    lines = [{"stage": "finetune", "fold": "1", "epoch": 1, "step": 5, "test_mAP": 0.3}]
    assert accuracy_figure(lines, 4).figure.axes[0].get_ylabel() == "mAP (%)"


@pytest.mark.parametrize(
    "draw", [lambda: loss_figure([], "pretrain", **SHOWN), lambda: rate_figure([]), lambda: collapse_figure([])]
)
def test_nothing_to_draw_is_an_error_with_a_reason(draw):
    with pytest.raises(ValueError, match=r"was|were"):
        draw()


def test_map_figure_names_the_explained_variance():
    points = np.array([[0, 2.0], [0, -2], [1, 0], [-1, 0]])
    drawn = map_figure(points, np.eye(2)[[0, 0, 1, 1]], ["dog", "cat"])
    assert "80.0 %" in drawn.figure.axes[0].get_xlabel()
    assert "20.0 %" in drawn.figure.axes[0].get_ylabel()


def test_map_figure_of_many_classes_greys_the_rare_ones():
    labels = np.eye(40)[np.repeat(np.arange(40), [5] * 12 + [2] * 28)]
    drawn = map_figure(np.random.default_rng(0).normal(size=(len(labels), 4)), labels, [f"c{i}" for i in range(40)])
    names = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert names == ["other classes", *(f"c{i}" for i in range(12))]


def test_views_figure_is_in_seconds():
    clips = np.random.default_rng(0).normal(size=(6, 250, 128))
    drawn = views_figure({"original": clips, "view 1": clips, "view 2": clips}, frame_shift_ms=10)
    assert len(drawn.data["original"]) == 4
    assert drawn.figure.axes[0].images[0].get_extent() == [0, 2.5, 0, 128]


def test_all_views_stand_on_one_scale_of_time_the_last_names_last():
    names = [*(f"view {number} (local)" for number in (10, 3, 4)), "original", "view 2", "view 1"]
    lengths = {"original": 200, "view 1": 150, "view 2": 150}
    views = {name: np.random.default_rng(0).normal(size=(2, lengths.get(name, 60), 16)) for name in names}
    views["view 3 (local)"][:, :, 8:] = np.nan
    drawn = views_figure(views, frame_shift_ms=10)
    wanted = ["original", "view 1", "view 2", "view 3 (local)", "view 4 (local)", "view 10 (local)"]
    assert list(drawn.data) == wanted
    panels = drawn.figure.axes[: len(wanted)]
    assert [" ".join(axis.get_title(loc="left").split()) for axis in panels] == ["clip", *wanted[1:]]
    drawn.figure.draw_without_rendering()
    for axis, name in zip(panels, wanted, strict=True):
        assert axis.images[0].get_extent()[:2] == [0, pytest.approx(lengths.get(name, 60) / 100)]
        seconds = axis.get_xlim()[1]
        assert axis.get_window_extent().width / seconds == pytest.approx(
            panels[0].get_window_extent().width / 2.0, rel=0.02
        )
    assert drawn.figure.get_figwidth() < 16


def test_class_marks_differ_between_the_first_64_classes():
    assert len({class_mark(number) for number in range(64)}) == 64


@pytest.mark.parametrize(
    "name", ["$\\frac{$", "_hidden", "a\nb\x00c", "x" * 80, "$x$", "", "狗の声", "كلب", "🐶 bark", "Ünï ñ"]
)
@pytest.mark.filterwarnings("error")
def test_any_class_name_can_be_drawn(name, tmp_path):
    drawn = confusion_figure(np.eye(2), np.eye(2), [name, "other"])
    assert drawn.save(tmp_path / "a.png").startswith(b"\x89PNG")
    drawn = map_figure(np.arange(8.0).reshape(4, 2) ** 2, np.eye(2)[[0, 0, 1, 1]], [name, "other"])
    assert drawn.save(tmp_path / "b.png").startswith(b"\x89PNG")
    assert not plain(name).startswith("_")


def test_names_that_no_font_has_are_numbers_and_told_beside_the_figure():
    names = ["dog", "\U00012000", "كلب", "a" * 40]
    assert class_names(names) == ["dog", "class 2", "class 3", "a" * 16 + "…" + "a" * 9]
    assert undrawn(names) == "No font here has the letters of: 2 \U00012000, 3 كلب."
    assert undrawn(["dog", "Jürgen"]) == ""


def test_drawing_leaves_matplotlib_as_it_was():
    import matplotlib.pyplot as plt

    before, numbers = dict(matplotlib.rcParams), plt.get_fignums()
    loss_figure(LINES, "pretrain", **SHOWN)
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == numbers
