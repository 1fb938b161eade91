"""Lay out the map of the embeddings as marks that tell and play their clips."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcrast.data.clip import Clip
from vcrast.runs.report.numbers import most_frequent
from vcrast.runs.report.style import class_mark
from vcrast.runs.report.tested import Player, name_of

WIDTH, HEIGHT, MARGIN = 720.0, 460.0, 16.0
MOST_MARKS = 400  # more make the page large and the map no clearer
LONGEST_S = 2.0  # of a sound of the map
SHAPES = {
    "o": "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z", "s": "M-5.5-5.5h11v11h-11z", "^": "M0-6.5 6.5 5.5h-13z",
    "D": "M0-7 7 0 0 7-7 0z", "v": "M0 6.5 6.5-5.5h-13z",
    "P": "M-2.3-6.5h4.6v4.2h4.2v4.6h-4.2v4.2h-4.6v-4.2h-4.2v-4.6h4.2z",
    "X": "M-6-3.5-3.5-6 0-2.5 3.5-6 6-3.5 2.5 0 6 3.5 3.5 6 0 2.5-3.5 6-6 3.5-2.5 0z",
    "*": "M0-7 1.9-2.2 7-2.2 2.9 1 4.4 6 0 3-4.4 6-2.9 1-7-2.2-1.9-2.2z",
}  # fmt: skip
OTHERS = "var(--soft)"


@dataclass(frozen=True)
class Mark:
    """A clip of the map.

    Attributes:
        x, y: its place in the picture.
        colour, shape: of its class, as CSS and as an SVG path.
        text: its class and name.
        player: the id of what plays it on the page; empty for none.
        audio: the sound's address; empty where that player stands elsewhere on the page.
    """

    x: float
    y: float
    colour: str
    shape: str
    text: str
    player: str
    audio: str


@dataclass(frozen=True)
class ClipMap:
    """The marks, the legend (name, colour, outline), the shares of the two directions and how many clips there are."""

    marks: list[Mark]
    legend: list[tuple[str, str, str]]
    shares: tuple[float, float]
    total: int

    @property
    def num_heard(self) -> int:
        """How many marks play."""
        return sum(bool(mark.player) for mark in self.marks)


def clip_map(
    points: NDArray[Any],
    shares: NDArray[Any],
    labels: NDArray[Any] | None,
    classes: Sequence[str],
    clips: Sequence[Clip],
    *,
    player: Player | None,
    most_sounds: int,
) -> ClipMap:
    """Lay out the map.

    Args:
        points: (n, 2) of `principal_plane`.
        shares: (2,) of the variance.
        labels: (n, C) multi-hot; a clip has the colour of its first.
        classes: C names.
        clips: n, or none if they are not known.
        player: that reads their sounds; None for none.
        most_sounds: at most so many are read, from all over the map.
    """
    belongs = np.zeros(len(points), dtype=np.int64) if labels is None else labels.argmax(axis=1)
    shown = most_frequent(belongs, 24 if len(classes) <= 24 else 12)
    looks = {number: _look(place) for place, number in enumerate(shown)}
    places = np.unique(np.linspace(0, len(points) - 1, min(MOST_MARKS, len(points))).round().astype(int))
    heard = set(places[np.unique(np.linspace(0, len(places) - 1, most_sounds).round().astype(int))].tolist())
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.maximum(high - low, 1e-12)
    marks = []
    for place in places.tolist():
        colour, shape = looks.get(int(belongs[place]), (OTHERS, SHAPES["o"]))
        names = [] if labels is None else [classes[int(number)] for number in np.flatnonzero(labels[place] > 0)]
        clip = clips[place] if clips else None
        text = ": ".join(part for part in (", ".join(names), name_of(clip) if clip else "") if part)
        marks.append(
            Mark(
                round(float(MARGIN + scaled[place, 0] * (WIDTH - 2 * MARGIN)), 1),
                round(float(HEIGHT - MARGIN - scaled[place, 1] * (HEIGHT - 2 * MARGIN)), 1),
                colour, shape, text or f"clip {place + 1}", *_sound(player, clip, place, anew=place in heard),
            )
        )  # fmt: skip
    legend = [] if labels is None else [(classes[int(number)], *looks[number]) for number in shown]
    if len(set(belongs.tolist())) > len(shown):
        legend.append(("other classes", OTHERS, SHAPES["o"]))
    return ClipMap(marks, legend, (float(shares[0]), float(shares[1])), len(points))


def _look(place: int) -> tuple[str, str]:
    colour, marker = class_mark(place)
    return ("var(--ink)" if colour == "#000000" else colour), SHAPES[marker]


def _sound(player: Player | None, clip: Clip | None, place: int, *, anew: bool) -> tuple[str, str]:
    """The id of a clip's player and the address that it still needs."""
    if player is None or clip is None:
        return "", ""
    if clip.segment in player.placed:
        return player.placed[clip.segment], ""
    sound = player.sound(clip, longest_s=LONGEST_S, picture=False) if anew else None
    return (f"clip-{place}", sound.audio) if sound else ("", "")


def script() -> tuple[str, str]:
    """The program of the map, and the hash by which a Content-Security-Policy allows it and no other."""
    text = files("vcrast.runs.report").joinpath("map.js").read_text(encoding="utf-8")
    return text, f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
