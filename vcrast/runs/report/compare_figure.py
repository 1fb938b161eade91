"""Draw a comparison: every run's final numbers, and the curves of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vcrast.runs.report.compare_table import is_share, title
from vcrast.runs.report.figures import Drawn
from vcrast.runs.report.numbers import Curve, curves, moving_mean
from vcrast.runs.report.style import GREY, class_mark, house_style, new_figure, plain

if TYPE_CHECKING:
    from vcrast.runs.compare import Comparison

# Stage, key, over what, title.
PANELS = (
    ("pretrain", "above_floor", "step", "pretraining: loss above its floor"),
    ("pretrain", "loss", "step", "pretraining: loss"),  # of objectives without a floor
    ("pretrain", "effective_rank", "step", "pretraining: effective rank"),
    ("finetune", "loss", "step", "finetuning: loss"),
    ("finetune", "test_accuracy", "epoch", "finetuning: accuracy on the test clips"),
    ("finetune", "test_mAP", "epoch", "finetuning: mAP on the test clips"),
)
LABEL = 60  # characters of a variant's name


def dots_figure(found: Comparison) -> Drawn:
    """Every run's value in its variant's row, a panel per metric; a bar at the mean, a grey line at the first one's."""
    data = {
        metric: {
            found.name(variant): [
                value * (100 if is_share(found.metric(metric)) else 1)
                for run in variant.runs
                if (value := run.value(metric, found.folds)) is not None
            ]
            for variant in found.variants
        }
        for metric in found.metrics
    }
    names = [found.name(variant) for variant in found.variants]
    places = range(len(names))
    with house_style():
        beside = 0.6 + 0.085 * max(len(plain(name, LABEL)) for name in names)  # inches that the names take
        figure, axes = new_figure(beside + 3.2 * len(data), 1.1 + 0.42 * len(names), 1, len(data), sharey=True)
        for axis, (metric, values) in zip(axes, data.items(), strict=True):
            if first := values[names[0]]:
                axis.axvline(sum(first) / len(first), color=GREY, linewidth=1.0)
            for place, own in zip(places, values.values(), strict=True):
                colour, marker = class_mark(place)
                axis.plot(own, [place] * len(own), marker, color=colour, markersize=6, alpha=0.65, markeredgewidth=0)
                if own:
                    axis.plot([sum(own) / len(own)], [place], "|", color=colour, markersize=18, markeredgewidth=2)
            axis.set_xlabel(title(found, metric))
            axis.margins(x=0.1)
            axis.xaxis.set_major_locator(MaxNLocator(4))
        axes[0].set_yticks(list(places), [plain(name, LABEL) for name in names])
        axes[0].set_ylim(len(names) - 0.5, -0.5)
    return Drawn(figure, data)


def curves_figure(found: Comparison) -> Drawn:
    """What the runs logged, a panel per quantity: each run and fold faintly, the mean of a variant on top.

    Raises:
        ValueError: the runs logged nothing that can be drawn.
    """
    data: dict[str, dict[str, list[Curve]]] = {}
    for stage, key, over, name in PANELS:
        drawn = {
            found.name(variant): [
                curve
                for run in variant.runs
                for fold, curve in curves(run.lines, stage, key, over=over).items()
                if fold in found.folds
            ]
            for variant in found.variants
        }
        if any(drawn.values()) and not (key == "loss" and any(panel.startswith(f"{name} ") for panel in data)):
            data[name] = drawn
    if not data:
        raise ValueError("no curves: the runs logged nothing that can be drawn")
    columns = min(2, len(data))
    rows = -(-len(data) // columns)
    with house_style():
        figure, axes = new_figure(5.0 * columns, 2.7 * rows + 0.3 * len(found.variants), rows, columns)
        for axis, (name, drawn) in zip(axes, data.items(), strict=False):
            for place, (label, own) in enumerate(drawn.items()):
                draw_variant(axis, own, label=plain(label, LABEL), colour=class_mark(place)[0])
            axis.set_title(name)
            axis.set_xlabel("epoch" if "test clips" in name else "step")
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for axis in axes[len(data) :]:
            axis.set_axis_off()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=1 if max(map(len, labels)) > 40 else columns)
    return Drawn(figure, data)


def draw_variant(axis: Axes, own: list[Curve], *, label: str, colour: str) -> None:
    """The curves of one variant: faint if there are several, and their mean, smoothed where it is long."""
    for x, y in own:
        axis.plot(x, y, color=colour, linewidth=0.7, alpha=0.3)
    if own:
        x, y = mean_curve(own)
        width = len(y) // 50 * 2 + 1
        axis.plot(x, moving_mean(y, width), color=colour, label=label, marker="o" if len(y) == 1 else None)


def mean_curve(own: list[Curve]) -> Curve:
    """Mean over curves at the places that all of them have; of those of the first one if they share none."""
    shared = own[0][0]
    for x, _ in own[1:]:
        shared = np.intersect1d(shared, x)
    if not len(shared):
        return own[0]
    return shared, np.mean([y[np.isin(x, shared)] for x, y in own], axis=0)
