"""Style of all figures: colours told apart by all readers, text never parsed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design"; yellow goes last, it is faint on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#B5A800")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SEQUENTIAL = "cividis"
GREY = "#9A9A9A"

# The stubs spell out every key; this is plain data.
RC: Any = {
    "figure.dpi": 140,
    "savefig.dpi": 140,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
}


@contextmanager
def house_style() -> Iterator[None]:
    """The settings above while a figure is made; the caller's own matplotlib settings come back afterwards."""
    with matplotlib.rc_context(RC):
        yield


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure outside pyplot, which would keep it alive and may choose a backend that needs a screen; inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def fold_colour(position: int) -> str:
    """The colour of the n-th fold."""
    return COLOURS[position % len(COLOURS)]


def class_mark(position: int) -> tuple[str, str]:
    """Colour and marker of the n-th class: 64 pairs, and shape alone separates those of similar colour."""
    return COLOURS[position % len(COLOURS)], MARKERS[(position + position // len(COLOURS)) % len(MARKERS)]


def plain(name: str, width: int = 26) -> str:
    """A user's class name as matplotlib text: no mathtext, no control characters, cut to `width` characters.

    A leading underscore would hide the name from a legend, hence the space before it.
    """
    name = "".join(character if character.isprintable() else " " for character in name).strip()
    name = name if len(name) <= width else name[: width - 1] + "…"
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")
