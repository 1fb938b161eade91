"""Draw the README's picture: python docs/images/overview.py runs/demo/<time>."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from matplotlib.axes import Axes

from vcrast.runs.record import read_run
from vcrast.runs.report.figures import Drawn
from vcrast.runs.report.numbers import principal_plane
from vcrast.runs.report.style import SEQUENTIAL, class_mark, house_style, new_figure

PANELS = (("original", "a clip"), ("view_a", "view a"), ("view_b", "view b"))


def overview(folder: str) -> Drawn:
    """One clip, its two views, and the test clips' embeddings on their two largest directions."""
    record = read_run(folder)
    views = next(iter(record.views.values()))
    clips = next(iter(record.evaluations.values()))
    with house_style():
        figure, axes = new_figure(11.0, 2.5, 1, 4)
        for axis, (name, title) in zip(axes, PANELS, strict=False):
            spectrogram(axis, views[name][0], title)
        cloud(axes[3], clips["embeddings"], clips["labels"].argmax(axis=1))
    return Drawn(figure, {})


def spectrogram(axis: Axes, fbank: np.ndarray, title: str) -> None:
    """(T, F) normalised filterbank, time to the right."""
    axis.imshow(fbank.T, origin="lower", aspect="auto", cmap=SEQUENTIAL, vmin=-2, vmax=2)
    axis.set_title(title)
    axis.set_xticks([])
    axis.set_yticks([])


def cloud(axis: Axes, embeddings: np.ndarray, classes: np.ndarray) -> None:
    """(n, D) embeddings, a mark a clip, a colour and shape a class."""
    places, _ = principal_plane(embeddings)
    for label in np.unique(classes):
        colour, marker = class_mark(int(label))
        x, y = places[classes == label].T
        axis.plot(x, y, marker, color=colour, markersize=5, markeredgewidth=0, linestyle="none")
    axis.set_title("embeddings, by class")
    axis.set_xticks([])
    axis.set_yticks([])


if __name__ == "__main__":
    overview(sys.argv[1]).save(Path(__file__).with_suffix(".png"))
