"""Style of all figures: colours told apart by all readers, text never parsed."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design"; yellow goes last, it is faint on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#B5A800")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SEQUENTIAL = "cividis"
GREY = "#9A9A9A"

# Fonts with other scripts, tried in turn where the first has no such letter.
OTHER_FONTS = (
    "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Source Han Sans",
    "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "WenQuanYi Zen Hei", "Arial Unicode MS", "Noto Sans Devanagari",
)  # fmt: skip
INSTALLED = {entry.name for entry in font_manager.fontManager.ttflist}

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
    "font.family": ["DejaVu Sans", *(name for name in OTHER_FONTS if name in INSTALLED)],
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
    """A user's class name as matplotlib text: no mathtext, no control characters, cut in the middle to `width`.

    A leading underscore would hide the name from a legend, hence the space before it.
    """
    name = "".join(character if character.isprintable() else " " for character in name).strip()
    if len(name) > width:
        head = (width - 1) * 2 // 3
        name = f"{name[:head]}…{name[head - width + 1 :]}"
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def class_names(classes: Sequence[str]) -> list[str]:
    """Names of classes in figures; one with letters that no font here has is its number, counted from 1."""
    return [plain(name) if can_draw(name) else f"class {number}" for number, name in enumerate(classes, start=1)]


def undrawn(classes: Sequence[str], most: int = 40) -> str:
    """What the numbers of `class_names` stand for, for the text beside a figure; empty where there are none."""
    found = [f"{number} {name}" for number, name in enumerate(classes, start=1) if not can_draw(name)]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"No font here has the letters of: {', '.join(found[:most])}{more}." if found else ""


def can_draw(name: str) -> bool:
    """Whether the fonts of the figures have all letters of a name; right-to-left and joined scripts they do not set."""
    return all(ord(letter) in letters() for letter in name if letter.isprintable()) and not any(
        unicodedata.bidirectional(letter) in ("R", "AL") for letter in name
    )


@functools.cache
def letters() -> frozenset[int]:
    """Code points that the fonts of the figures have."""
    paths = [font_manager.findfont(name, fallback_to_default=False) for name in RC["font.family"]]
    return frozenset(point for path in paths for point in font_manager.get_font(path).get_charmap())
