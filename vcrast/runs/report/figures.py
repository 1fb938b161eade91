"""Draw the figures of a report; each returns its drawing with its numbers."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vcrast.config.atomic import write_atomic
from vcrast.config.words import natural
from vcrast.runs.record import Arrays
from vcrast.runs.report.numbers import Curve, confusion, curves, most_frequent, moving_mean, principal_plane
from vcrast.runs.report.style import GREY, SEQUENTIAL, class_mark, class_names, fold_colour, house_style, new_figure

Lines = Sequence[Mapping[str, Any]]
WIDEST_VIEWS, NARROWEST_VIEW = 12.0, 0.8  # inches, of all views of a clip and of one


@dataclass(frozen=True)
class Drawn:
    """A figure and the numbers that it shows."""

    figure: Figure
    data: dict[str, Any]

    @property
    def wide(self) -> bool:
        """Whether it needs the page's whole width to be read."""
        return float(self.figure.get_figwidth()) > 8

    def save(self, path: Path) -> bytes:
        """Write a PNG and return its bytes."""
        with io.BytesIO() as drawn:
            FigureCanvasAgg(self.figure).print_png(drawn)
            write_atomic(path, drawn.getvalue())
            return drawn.getvalue()


def loss_figure(lines: Lines, stage: str, *, parts: Sequence[str], labels: Mapping[str, str]) -> Drawn:
    """The loss, its parts and the gradient norm over the steps of `stage`; a part `floor` lies under the loss, dashed.

    Args:
        lines: of `metrics.jsonl`.
        stage: whose.
        parts: names of the loss's parts, in order.
        labels: what a part is called.

    Raises:
        ValueError: the stage logged no loss.
    """
    keys = ["loss", *sorted((part for part in parts if part != "floor"), key=lambda part: part != "above_floor")]
    keys.append("grad_norm")
    data = {key: found for key in keys if (found := curves(lines, stage, key))}
    if "loss" not in data:
        raise ValueError(f"no step of {stage} was logged")
    floor = curves(lines, stage, "floor")
    columns = 1 if len(data) == 1 else 2
    rows = -(-len(data) // columns)
    with house_style():
        figure, axes = new_figure(4.7 * columns if columns > 1 else 5.6, 2.4 * rows + 0.4, rows, columns)
        for axis, (key, found) in zip(axes, data.items(), strict=False):
            draw_curves(axis, found, title=labels.get(key, key.replace("_", " ")), ylabel=key.replace("_", " "))
            if key in ("above_floor", "grad_norm") and _spans_decades(found):
                axis.set_yscale("log")
        for x, y in floor.values():
            axes[0].plot(x, y, color=GREY, linestyle="--", linewidth=1.2, label="floor")
        if floor or len(data["loss"]) > 1:
            draw_legend(axes[0])
        for axis in axes[len(data) :]:
            axis.set_axis_off()
    return Drawn(figure, data | ({"floor": floor} if floor else {}))


def rate_figure(lines: Lines) -> Drawn:
    """The learning rate over the steps, a panel per stage.

    Raises:
        ValueError: no stage logged its learning rate.
    """
    data = {stage: found for stage in ("pretrain", "finetune") if (found := curves(lines, stage, "lr"))}
    if not data:
        raise ValueError("no learning rate was logged")
    with house_style():
        figure, axes = new_figure(5.6, 2.2 * len(data) + 0.3, len(data))
        for axis, (stage, found) in zip(axes, data.items(), strict=True):
            draw_curves(axis, found, title=stage, ylabel="learning rate", smooth=False)
            axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    return Drawn(figure, data)


def collapse_figure(lines: Lines) -> Drawn:
    """Std and effective rank of the clip embeddings during pretraining, and their nearest neighbours if watched.

    Raises:
        ValueError: the embeddings were never watched.
    """
    named = {
        "embedding_std": "mean std over clips", "effective_rank": "effective rank (RankMe)",
        "knn_accuracy": "accuracy, training clips", "knn_mAP": "mAP, training clips",
    }  # fmt: skip
    data = {key: found for key in named if (found := curves(lines, "pretrain", key))}
    if not data:
        raise ValueError("the embeddings were never watched during pretraining")
    with house_style():
        figure, axes = new_figure(5.6, 2.2 * len(data) + 0.3, len(data))
        for axis, (key, found) in zip(axes, data.items(), strict=True):
            draw_curves(axis, found, title=key.replace("_", " "), ylabel=named[key], smooth=False, marker="o")
            axis.set_ylim(bottom=0)
    return Drawn(figure, data)


def accuracy_figure(lines: Lines, num_classes: int = 0) -> Drawn:
    """Accuracy (mAP of clips with several labels) on the test clips over the epochs of finetuning, in percent.

    Raises:
        ValueError: it was never measured.
    """
    single = curves(lines, "finetune", "test_accuracy", over="epoch")
    data = single or curves(lines, "finetune", "test_mAP", over="epoch")
    if not data:
        raise ValueError("the test clips were not scored during finetuning")
    with house_style():
        figure, [axis] = new_figure(5.6, 3.3)
        percent = {fold: (x, 100 * y) for fold, (x, y) in data.items()}
        ylabel = "accuracy (%)" if single else "mAP (%)"
        draw_curves(axis, percent, ylabel=ylabel, xlabel="epoch", smooth=False, marker="o")
        if single and num_classes > 1:
            axis.axhline(100 / num_classes, color=GREY, linestyle="--", linewidth=1.2, label="chance")
        axis.set_ylim(0, 102)
        draw_legend(axis)
    return Drawn(figure, data)


def views_figure(views: Arrays, *, frame_shift_ms: float) -> Drawn:
    """Clips beside what the objective made of each, its views say, as spectrograms on one scale of time.

    Args:
        views: (n, [C,] T, F) each: `original`, and whatever `Objective.examples` names, of any lengths T; columns are
            sorted by these names.
        frame_shift_ms: between frames.

    Raises:
        KeyError: there is no original.
    """
    num_clips = 4 if len(views) <= 4 else 3  # many views make large files
    columns = ["original", *sorted((key for key in views if key != "original"), key=natural)]
    shown = {key: views[key][:num_clips].astype(np.float32) for key in columns}
    # Of several channels (features=quaternion) the first is the log-mel energy.
    shown = {key: value[:, 0] if value.ndim == 4 else value for key, value in shown.items()}
    rows = len(shown["original"])
    low, high = np.percentile(shown["original"], [2, 99.5])
    lengths = [value.shape[1] for value in shown.values()]
    inch = min(2.9 / lengths[0], WIDEST_VIEWS / sum(lengths))  # a frame's
    widths = [max(inch * length, NARROWEST_VIEW) for length in lengths]
    with house_style():
        figure, axes = new_figure(
            sum(widths) + 0.7, 1.75 * rows + 0.5, rows, len(columns), sharey=True, width_ratios=widths
        )
        for number, axis in enumerate(axes):
            row, column = divmod(number, len(columns))
            picture = shown[columns[column]][row]
            scale = frame_shift_ms / 1000
            image = axis.imshow(
                picture.T, origin="lower", aspect="auto", cmap=SEQUENTIAL, vmin=low, vmax=high,
                extent=(0, len(picture) * scale, 0, picture.shape[1]), interpolation="nearest",
            )  # fmt: skip
            axis.set_xlim(0, widths[column] / inch * scale)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=max(1, round(2 * widths[column])), steps=[1, 2, 5, 10]))
            axis.grid(visible=False)
            if row == 0:
                name = "clip" if column == 0 else columns[column]
                axis.set_title(textwrap.fill(name, max(8, int(9 * widths[column]))))
            axis.tick_params(labelbottom=row == rows - 1)
            if column == 0:
                axis.set_ylabel("mel bin")
        figure.supxlabel("time (s)", fontsize=10)
        figure.colorbar(image, ax=axes, shrink=min(1.0, 2.5 / rows), label="normalised log-mel energy")
    return Drawn(figure, dict(shown))


def confusion_figure(scores: NDArray[Any], labels: NDArray[Any], classes: Sequence[str]) -> Drawn:
    """Confusion matrix: colour is the share of the true class, the number is the count of clips.

    Args:
        scores: (n, C), larger is likelier.
        labels: (n, C), one-hot.
        classes: C names.

    Raises:
        ValueError: a clip has no label or several.
    """
    matrix = confusion(scores, labels)
    num_classes = len(matrix.counts)
    names = class_names(classes)
    side = min(max(4.6, 1.6 + 0.4 * num_classes), 13.0)
    with house_style():
        figure, [axis] = new_figure(side + 0.9, side)
        image = axis.imshow(matrix.shares, cmap="Blues", vmin=0, vmax=1)
        axis.grid(visible=False)
        axis.set_xlabel("predicted class")
        axis.set_ylabel("true class")
        if num_classes <= 60:
            small = 9 if num_classes <= 25 else 6
            axis.set_xticks(range(num_classes), names, rotation=90 if num_classes > 6 else 0, fontsize=small)
            axis.set_yticks(range(num_classes), names, fontsize=small)
            _write_counts(axis, matrix.counts, matrix.shares, small)
        figure.colorbar(image, ax=axis, shrink=0.7, label="share of the true class")
    return Drawn(figure, {"counts": matrix.counts, "shares": matrix.shares, "worst": matrix.worst()})


def map_figure(embeddings: NDArray[Any], labels: NDArray[Any] | None, classes: Sequence[str]) -> Drawn:
    """The clips on the two main directions of their embeddings, coloured by class (by the first of several labels).

    Raises:
        ValueError: too few clips, or embeddings that are not finite.
    """
    points, shares = principal_plane(embeddings)
    # More points than this make the file large and the picture no clearer.
    step = -(-len(points) // 4000)
    names = class_names(classes)
    belongs = np.zeros(len(points), dtype=np.int64) if labels is None else labels.argmax(axis=1)
    shown = most_frequent(belongs, 24 if len(classes) <= 24 else 12)
    with house_style():
        figure, [axis] = new_figure(6.6, 4.4)
        others = ~np.isin(belongs, shown)
        if others.any():
            axis.scatter(
                points[others][::step, 0],
                points[others][::step, 1],
                s=9,
                color="#D0D0D0",
                label="other classes",
                linewidths=0,
            )
        for position, number in enumerate(shown):
            colour, marker = class_mark(position)
            name = names[number] if labels is not None else "clips"
            place = points[belongs == number][::step]
            axis.scatter(
                place[:, 0], place[:, 1], s=32, color=colour, marker=marker, label=name, alpha=0.8, linewidths=0
            )
        axis.set_xlabel(f"first direction ({100 * shares[0]:.1f} % of the variance)")
        axis.set_ylabel(f"second direction ({100 * shares[1]:.1f} % of the variance)")
        figure.legend(loc="outside right upper", title="class" if labels is not None else None)
    return Drawn(figure, {"points": points, "shares": shares, "classes": belongs})


def draw_curves(
    axis: Axes,
    found: Mapping[str, Curve],
    *,
    ylabel: str,
    xlabel: str = "step",
    title: str = "",
    smooth: bool = True,
    marker: str | None = None,
) -> None:
    """One line per fold. Long noisy ones are drawn faintly under their moving mean."""
    for position, (fold, (x, y)) in enumerate(found.items()):
        colour, width = fold_colour(position), len(y) // 50 * 2 + 1
        # A single point has no line: it needs a marker to be seen at all.
        mark = marker if len(y) <= 60 else None
        mark = mark or ("o" if len(y) == 1 else None)
        if smooth and width >= 5:
            axis.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
            y = moving_mean(y, width)
        axis.plot(x, y, color=colour, marker=mark, markersize=4, label=f"fold {fold}")
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def draw_legend(axis: Axes) -> None:
    """A legend that names each kind of line once."""
    handles, names = axis.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axis.legend(list(unique.values()), list(unique), ncols=2 if len(unique) > 3 else 1)


def _spans_decades(found: Mapping[str, Curve]) -> bool:
    """Whether a logarithmic axis helps: all values positive, and the largest 30 times the smallest."""
    values = np.concatenate([y for _, y in found.values()])
    return bool(values.min() > 0 and values.max() > 30 * values.min())


def _write_counts(axis: Axes, counts: NDArray[Any], shares: NDArray[Any], fontsize: int) -> None:
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.55 else "#222222"
        axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=fontsize)
