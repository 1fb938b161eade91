"""Choose the patches that are hidden: single ones, SSAST's squares, or unbiased ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vcrast.config.registry import check_options
from vcrast.features.draws import Draws

Grid = tuple[int, int]
Integers = NDArray[np.int64]


class Hidden(NamedTuple):
    """Which of N patches are hidden, as places in the time-major grid, ascending.

    Attributes:
        hidden: (b, M) int64.
        visible: (b, N - M) int64.
    """

    hidden: Tensor
    visible: Tensor


def build_masks(options: Mapping[str, Any]) -> Masks:
    """The masks that `objective.masks` describes; an option that is missing, unknown or of another type is refused."""
    check_options("objective.masks", Masks, options)
    return Masks(**options)


class Masks:
    """Draws exactly M hidden patches a clip, without a loop over clips.

    Chosen on the CPU, where the numbers are drawn: how many squares are needed depends on where they fall, and asking a
    GPU would make the program wait for it.

    Args:
        sampler: `random`, uniform without replacement; `paper`, SSAST's squares, see `paper_mask`; `even`, squares of
            which every patch is hidden with probability M / N, see `even_mask`. On a grid of one patch in frequency
            (frame patches) all three are `random`, as in the paper.
        count: M, or M / N where it is below 1.
        cluster: [least, largest] side of the squares in patches; each clip has one, uniform in between.
        by: `clip`, each its own mask, or `batch`, one for all.

    Raises:
        ValueError: a count or a side out of its range.

    Source: Gong et al. 2022, arXiv:2110.09784; `batch` for squares is Baade et al. 2022, arXiv:2203.16691, where the
        loop was too slow for one of each clip.
    """

    def __init__(
        self,
        *,
        sampler: Literal["random", "paper", "even"],
        count: float,
        cluster: list[int],
        by: Literal["clip", "batch"],
    ) -> None:
        if not count > 0 or (count >= 1 and count != int(count)):
            raise ValueError(
                f"objective.masks.count={count}: give a whole number of patches, or a fraction below 1 such as 0.78"
            )
        if len(cluster) != 2 or not 1 <= cluster[0] <= cluster[1]:
            raise ValueError(
                f"objective.masks.cluster={list(cluster)}: give [least, largest] side, for instance [3, 5]"
            )
        self.sampler, self.count, self.cluster, self.by = sampler, count, (cluster[0], cluster[1]), by

    def sampler_on(self, grid: Grid) -> str:
        """What is used on a grid: one row of patches has no squares."""
        return "random" if grid[1] == 1 else self.sampler

    def num_hidden(self, grid: Grid, *, least: int = 1) -> int:
        """M on a grid of (t, f) patches.

        Args:
            grid: of the clips.
            least: that the loss needs.

        Raises:
            ValueError: fewer than `least`, or more than can be hidden.
        """
        num_tokens = grid[0] * grid[1]
        # One must stay visible. `paper` never hides the first, and goes on until one more than M was hit.
        most = num_tokens - (2 if self.sampler_on(grid) == "paper" else 1)
        number = round(num_tokens * self.count) if self.count < 1 else int(self.count)
        if least <= number <= most:
            return number
        limit = f"sampler={self.sampler} can hide {least} to {most}" if most >= least else "too few to hide any"
        endless = "; SSAST's own routine would never end" if self.sampler_on(grid) == "paper" and number > most else ""
        usual = min(most, max(least, round(0.78 * num_tokens)))
        remedy = (
            f"set objective.masks.count={usual}, or a fraction such as 0.78" if most >= least else "use longer clips"
        )
        raise ValueError(
            f"objective.masks.count={self.count:g}: asks for {number} of the {num_tokens} patches of these clips, "
            f"{limit}{endless}; {remedy}"
        )

    def draw(self, draws: Draws, name: str, grid: Grid, *, least: int = 1) -> Hidden:
        """The patches of each clip that are hidden, and those that are not: a function of seed, step and clip.

        Args:
            draws: of b clips; names that start with `name/` are read.
            name: of the mask; another name gives another mask.
            grid: (t, f) patches along time and frequency.
            least: as in `num_hidden`, whose errors these are.
        """
        count = self.num_hidden(grid, least=least)
        source = draws if self.by == "clip" else draws.first()
        mask = self.mask(source, name, grid, count)
        # Rows are equally full, and `nonzero` runs along them.
        places = (torch.from_numpy(each.nonzero()[1].reshape(len(mask), -1)) for each in (mask, ~mask))
        hidden, visible = (draws.move(each.expand(draws.size, -1).contiguous()) for each in places)
        return Hidden(hidden, visible)

    def mask(self, draws: Draws, name: str, grid: Grid, count: int) -> NDArray[np.bool_]:
        """(b, N) True at M = `count` places, time-major."""
        sampler = self.sampler_on(grid)
        if sampler == "random":
            return first_of(draws.host_uniform(f"{name}/order", grid[0] * grid[1]), count)
        low, high = self.cluster
        sides = low + draws.host_integers(f"{name}/side", high - low + 1)
        wraps = sampler == "even"
        enough = count if wraps else count + 1
        starts = np.zeros((draws.size, 0), dtype=np.int64)
        size, number = squares_needed(grid, enough, low), 0
        while True:  # a second round is rare: the first is half as long again as is needed on average
            more = draws.host_integers(f"{name}/start/{number}", grid[0] * grid[1], size)
            starts, number = np.concatenate([starts, more], axis=1), number + 1
            hits = first_hits(starts, sides, grid, wraps=wraps)
            if ((hits < starts.shape[1]).sum(axis=1) >= enough).all():
                break
        if wraps:
            mask = even_mask(hits, draws.host_uniform(f"{name}/order", hits.shape[1]), count)
        else:
            mask = paper_mask(hits, count)
        # Squares are numbered along time first.
        return mask.reshape(-1, grid[1], grid[0]).transpose(0, 2, 1).reshape(len(mask), -1)


def squares_needed(grid: Grid, enough: int, side: int) -> int:
    """So many squares usually hit `enough` patches of a grid: half more than were they independent patches."""
    num_tokens = grid[0] * grid[1]
    area = min(side, grid[0]) * min(side, grid[1])
    return math.ceil(1.5 * num_tokens / area * math.log(num_tokens / (num_tokens - enough + 0.5))) + 4


def first_hits(starts: Integers, sides: Integers, grid: Grid, *, wraps: bool) -> Integers:
    """The number of the square that hits each patch first.

    Args:
        starts: (b, K) patches where the squares begin, numbered along time first, as SSAST's: frequency * t + time.
        sides: (b,) of the squares.
        grid: (t, f).
        wraps: a square goes on at the other side of either axis. Else, as in SSAST, one that crosses the end of the
            clip goes on at its beginning, one row higher; what lies beyond the last row is lost, and so is patch 0.

    Returns:
        (b, N) in [0, K], numbered as `starts`; K where no square hits.
    """
    times, bins = grid
    (num_clips, num_squares), num_tokens = starts.shape, times * bins
    up, along = np.divmod(np.arange(sides.max() ** 2), sides.max())
    inside = (up < sides[:, None]) & (along < sides[:, None])  # (b, squares' own patches)
    if wraps:
        rows = (starts // times)[:, :, None] + up
        places = rows % bins * times + ((starts % times)[:, :, None] + along) % times
        hits = np.broadcast_to(inside[:, None], places.shape)
    else:
        places = starts[:, :, None] + times * up + along
        hits = inside[:, None] & (places > 0) & (places < num_tokens)
    clips = num_tokens * np.arange(num_clips)[:, None, None]
    order = np.broadcast_to(np.arange(num_squares)[:, None], places.shape)
    found = np.full(num_clips * num_tokens, num_squares)
    np.minimum.at(found, (places + clips)[hits], order[hits])
    return found.reshape(num_clips, num_tokens)


def paper_mask(hits: Integers, count: int) -> NDArray[np.bool_]:
    """SSAST's mask: squares are added until more than M patches are hit, of which the M of the lowest numbers stay.

    For the same squares it is what its loop gives. So it has the loop's bias, too: the lowest frequencies, reached only
    by squares that begin there, are hidden less often, patch 0 never, and of too many hits the highest are let go.

    The loop keeps the first M of a Python set of numbers; these come in ascending order where M is 77 or more and N at
    most 512, or M 307 and N 2048, as in all of the paper's settings; here they do always.

    Args:
        hits: (b, N) as `first_hits` makes them without wrapping; more than M are below K.
        count: M.

    Source: Gong et al. 2022, arXiv:2110.09784, Sec. 2.2, and the released program's order of things.
    """
    last = np.partition(hits, count, axis=1)[:, count, None]  # the square with which there are more than M
    union = hits <= last
    return union & (union.cumsum(axis=1) <= count)


def even_mask(hits: Integers, chances: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Squares on a grid whose ends meet, until M patches are hit; of the last square, as many as are missing.

    All places of that grid are alike and so is each patch's chance of being hidden: M / N. The price is that a square
    may begin at one end of the clip, or of the spectrum, and go on at the other.

    Args:
        hits: (b, N) as `first_hits` makes them with wrapping; M or more are below K.
        chances: (b, N) uniform in [0, 1): which patches of the last square stay.
        count: M.
    """
    return first_of(hits + chances.astype(np.float64), count)


def first_of(keys: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """(b, N) keys -> (b, N) True at the `count` smallest of each row."""
    chosen = np.zeros(keys.shape, dtype=np.bool_)
    np.put_along_axis(chosen, keys.argsort(axis=1, kind="stable")[:, :count], True, axis=1)
    return chosen
