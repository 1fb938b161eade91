"""Draw what a model looked at in a sound: a PNG, and a page with a player."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from vcrast.config.atomic import write_atomic
from vcrast.runs.report.listening import BRIGHT, DARK, sound_address
from vcrast.runs.report.style import COLOURS, SEQUENTIAL, house_style, new_figure
from vcrast.runs.report.tested import LOUDEST
from vcrast.runs.report.write import address, write_page

if TYPE_CHECKING:
    from vcrast.inference.explain import Explanation

MOST_FRAMES = 4000  # of a picture: what is drawn of longer sounds are means over neighbouring frames
PLAYED_S = 600.0  # a longer sound is not put into the page
TICKS_HZ = (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)
FULL = 0.995  # quantile of a map's values above which its colour is as opaque as it gets
OPAQUE = 0.9
BAR_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600)
MOST_BARS = 60
SHOWN = 5

METHODS = {
    "relevance": "relevance (gradient times attention, Chefer et al. 2021)",
    "rollout": "attention rollout (Abnar and Zuidema 2020): attention alone, the same for all classes",
}


@dataclass(frozen=True)
class Stretch:
    """A part of the sound, s, with its share of the map."""

    start_s: float
    end_s: float
    share: float


def stretches(found: Explanation) -> list[Stretch]:
    """The sound cut into equal parts of a round length, at most `MOST_BARS` of them (unless it lasts for hours)."""
    duration_s = len(found.wav) / found.sample_rate
    step = next((each for each in BAR_S if duration_s / each <= MOST_BARS), BAR_S[-1])
    edges = np.arange(0, duration_s, step)
    return [Stretch(float(a), min(float(a + step), duration_s), found.share(a, a + step)) for a in edges]


def in_words(found: Explanation) -> str:
    """What is explained."""
    if found.label is None:
        return "the embedding"
    return f"class {found.label} (probability {found.score:.3g})"


def draw(found: Explanation) -> bytes:
    """A PNG: the spectrogram, the map over it, and the map's share along time."""
    shared = -(-len(found.values) // MOST_FRAMES)
    low, high = colour_range(found)
    duration_s = len(found.wav) / found.sample_rate
    half = found.frame_s / 2
    edges = (found.times_s[0] - half, found.times_s[-1] + half, 0.0, float(len(found.frequencies_hz)))
    shown: dict[str, Any] = {"extent": edges, "origin": "lower", "aspect": "auto"}
    spectrogram = joined_frames(found.spectrogram, shared).T
    with house_style():
        figure, (plain, over, along) = new_figure(
            min(16.0, 8.0 + duration_s / 10), 6.6, 3, 1, sharex=True, height_ratios=(3, 3, 1)
        )
        plain.imshow(spectrogram, cmap=SEQUENTIAL, vmin=low, vmax=high, interpolation="nearest", **shown)
        plain.set_title("Spectrogram")
        over.imshow(overlaid(found, shared), interpolation="nearest", **shown)
        over.set_title(f"{found.method.capitalize()}: the stronger the colour, the more")
        for axis in (plain, over):
            mel_axis(axis, found.frequencies_hz)
        parts = stretches(found)
        along.bar(
            [part.start_s for part in parts], [100 * part.share for part in parts], align="edge",
            width=[part.end_s - part.start_s for part in parts], color=COLOURS[3], edgecolor="white", linewidth=0.4,
        )  # fmt: skip
        along.set_ylabel("% of map")
        along.set_xlabel("s")
        along.set_xlim(0, duration_s)
        with io.BytesIO() as drawn:
            FigureCanvasAgg(figure).print_png(drawn)
            return drawn.getvalue()


def overlaid(found: Explanation, shared: int = 1) -> NDArray[np.float64]:
    """(F, T / shared, 3): the spectrogram in grey, over it the map: one colour, as opaque as its value is large.

    Of `shared` neighbouring frames their mean is drawn; the lowest mel bin is the first row.
    """
    spectrogram, values = (joined_frames(each, shared).T for each in (found.spectrogram, found.values))
    low, high = colour_range(found)
    dark = ((spectrogram - low) / (2 * (high - low))).clip(0, 1)[..., None]  # the loudest is half dark
    above = values[values > 0]
    top = float(np.quantile(above, FULL)) if above.size else 1.0
    opaque = (values / top).clip(0, 1)[..., None] * OPAQUE
    return (1 - opaque) * (1 - dark) + opaque * np.array(to_rgb(COLOURS[3]))


def colour_range(found: Explanation) -> tuple[float, float]:
    """Log-mel energies that get the ends of the colours."""
    low, high = np.quantile(found.spectrogram, (DARK, BRIGHT))
    return float(low), max(float(high), float(low) + 1e-3)


def joined_frames(values: NDArray[Any], count: int) -> NDArray[Any]:
    """(T, F) -> means of `count` neighbouring frames each; a rest at the end has fewer."""
    starts = np.arange(0, len(values), count)
    return np.add.reduceat(values, starts) / np.diff([*starts, len(values)])[:, None]


def mel_axis(axis: Axes, frequencies_hz: Sequence[float] | NDArray[Any]) -> None:
    """Mark round frequencies on an axis of mel bins."""
    centres, places = np.asarray(frequencies_hz), dict[int, float]()
    for hz in reversed(TICKS_HZ):
        place = float(np.interp(hz, centres, np.arange(len(centres)) + 0.5))
        if centres[0] <= hz <= centres[-1] and place < min(places.values(), default=np.inf) - len(centres) / 16:
            places[hz] = place
    axis.set_yticks(list(places.values()), [f"{hz:,}" for hz in places])
    axis.set_ylabel("Hz (mel)")
    axis.grid(visible=False)


def write_explanation(page: Path, found: Explanation, *, name: str, model: str, command: str) -> None:
    """Write `page` and a PNG of the same name beside it, both aside and renamed.

    Args:
        page: ends in .html.
        found: what to show.
        name: of the sound.
        model: which one, in a line.
        command: that makes the page again.
    """
    picture = draw(found)
    write_atomic(page.with_suffix(".png"), picture)
    duration_s = len(found.wav) / found.sample_rate
    loudest = max(float(np.abs(found.wav).max()), 1e-6)
    heard = torch.from_numpy(found.wav / loudest * LOUDEST)
    strongest = sorted(stretches(found), key=lambda part: -part.share)
    write_page(
        page, "explained.html", name=name, model=model, command=command, what=in_words(found),
        method=METHODS[found.method], picture=address("image/png", picture),
        audio=sound_address(heard, found.sample_rate) if duration_s <= PLAYED_S else None,
        duration_s=duration_s, strongest=[part for part in strongest[:SHOWN] if part.share > 0],
        windows=len(found.windows_s), in_padding=found.in_padding, is_empty=not found.values.any(),
    )  # fmt: skip
