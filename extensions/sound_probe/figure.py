"""Draw the scores of a probe as bars, one panel for each group of parameters."""

from __future__ import annotations

from vcrast.runs.report.figures import Drawn
from vcrast.runs.report.style import COLOURS, house_style, new_figure

from .probe import Probed

LOWEST = -0.1  # a score far below 0 says no more than one just below it


def probe_figure(found: Probed) -> Drawn:
    """Draw R2 of every parameter and embedder, the groups one below the other."""
    groups = {
        group: {name: finding for name, finding in found.parameters.items() if finding.group == group}
        for group in found.groups
    }
    names = list(found.accuracy)
    heights = [len(own) for own in groups.values()]
    height = 0.8 / len(names)
    with house_style():
        figure, axes = new_figure(
            6.4, 1.2 + 0.36 * sum(heights) + 0.35 * len(groups), len(groups), sharex=True, height_ratios=heights
        )
        for axis, (group, own) in zip(axes, groups.items(), strict=True):
            for number, name in enumerate(names):
                places = [place + (number - (len(names) - 1) / 2) * height for place in range(len(own))]
                widths = [max(LOWEST, finding.r2[name]) for finding in own.values()]
                axis.barh(places, widths, height=height, color=COLOURS[number], label=name.replace("_", "-"))
            axis.set_yticks(range(len(own)), list(own), fontsize=8)
            axis.set(title=group, xlim=(LOWEST, 1), ylim=(len(own) - 0.5, -0.5))
        axes[-1].set_xlabel("R2 on held-out sounds")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(names))
    return Drawn(figure, {name: finding.r2 for name, finding in found.parameters.items()})
