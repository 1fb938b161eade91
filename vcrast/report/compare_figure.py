"""A comparison as dots: every run, its variant's mean, a panel per metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from vcrast.report.figures import Drawn
from vcrast.report.style import COLOURS, GREY, house_style, new_figure, plain

if TYPE_CHECKING:
    from vcrast.compare import Comparison


def compare_figure(found: Comparison) -> Drawn:
    """Every run's value over its variant's row; a bar at the mean, a grey line at the first variant's mean."""
    from vcrast.compare import is_share, title

    data = {
        metric: {
            variant.label: [
                value * (100 if is_share(metric) else 1)
                for run in variant.runs
                if (value := run.value(metric, found.folds)) is not None
            ]
            for variant in found.variants
        }
        for metric in found.metrics
    }
    names = [variant.label for variant in found.variants]
    places = range(len(names))
    with house_style():
        figure, axes = new_figure(2.2 + 3.2 * len(data), 1.1 + 0.42 * len(names), 1, len(data), sharey=True)
        for axis, (metric, values) in zip(axes, data.items(), strict=True):
            first = values[names[0]]
            if first:
                axis.axvline(sum(first) / len(first), color=GREY, linewidth=1.0)
            for place, own in zip(places, values.values(), strict=True):
                colour = COLOURS[place % len(COLOURS)]
                axis.plot(own, [place] * len(own), "o", color=colour, markersize=6, alpha=0.65, markeredgewidth=0)
                if own:
                    axis.plot([sum(own) / len(own)], [place], "|", color=colour, markersize=18, markeredgewidth=2)
            axis.set_xlabel(title(metric))
            axis.margins(x=0.1)
            axis.xaxis.set_major_locator(MaxNLocator(5))
        axes[0].set_yticks(list(places), [plain(name, 60) for name in names])
        axes[0].set_ylim(len(names) - 0.5, -0.5)
    return Drawn(figure, data)
