"""Fit linear models from frozen embeddings of generated sounds to the sounds' parameters.

found = probe({"mine": model.embed}, num_sounds=2000, num_samples=32000, sample_rate=16000)
found.parameters["f0_hz"].r2["mine"]          # 1: read off exactly; 0: no better than the mean
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vcrast.data.synth.control import LOWEST_RATE, Grid
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.pairs import CHUNK, LARGE_CHUNK, SHORTEST_S
from vcrast.data.synth.program import KINDS, Layers
from vcrast.data.synth.space import Parameter

from .audible import audible, canonical, split
from .ridge import fit_ridge, predict, r2

BLOCK = 64  # sounds that are handed to an embedder at once
HELD_OUT = 4  # one sound in so many is held out
FEWEST = 30  # sounds in which a parameter must be audible, fitted and held out, to be scored
NAMED = "kind"  # the one parameter whose values have no order

Embedder = Callable[[Tensor], Tensor]
"""(b, S) sounds on the device, in [-1, 1] -> (b, D)."""


class Sounds(NamedTuple):
    """wavs (b, S) float32 within [-1, 1]; units (b, units) in [0, 1], columns of `Layers.space_of(num_layers)`."""

    wavs: Tensor
    units: Tensor


class Target(NamedTuple):
    """What is to be read off the embeddings for one parameter.

    Attributes:
        name: of the parameter, without its layer.
        group: of the parameter.
        values: (n, C).
        audible: (n, C) bool; the other sounds say nothing about it.
    """

    name: str
    group: str
    values: Tensor
    audible: Tensor


class Finding(NamedTuple):
    """How well one parameter was read off.

    Attributes:
        group: of the parameter.
        held_out: sounds that it was scored on: those of the held-out ones in which it is audible.
        columns: numbers of a vector (each on its own; sine and cosine of a phase) that are audible in enough sounds.
        r2: of each embedder, the mean over these columns.
    """

    group: str
    held_out: int
    columns: int
    r2: dict[str, float]


class Probed(NamedTuple):
    """Everything that a probe found.

    Attributes:
        parameters: by name.
        groups: R2 of each group and embedder, the mean over the group's parameters.
        unscored: parameters that are audible in too few of the sounds, or in none (`layer_db` of one layer).
        accuracy: of each embedder, share of the held-out sounds whose `kind` was found.
        chance: share of the held-out sounds of the commonest kind.
        num_train: sounds that the linear model was fitted on.
        num_held_out: the others.
    """

    parameters: dict[str, Finding]
    groups: dict[str, dict[str, float]]
    unscored: tuple[str, ...]
    accuracy: dict[str, float]
    chance: float
    num_train: int
    num_held_out: int


def probe(
    embedders: Mapping[str, Embedder],
    *,
    num_sounds: int,
    num_samples: int,
    sample_rate: int,
    seed: int = 0,
    num_layers: int = 1,
    device: torch.device | str = "cpu",
    heard: Callable[[int], None] = lambda _: None,
) -> Probed:
    """Render sounds, embed them, and fit ridge regressions from embeddings to parameters.

    All embedders hear the same sounds, and none of them is one of pretraining's stream. The last quarter of the sounds
    is held out. A parameter is fitted and scored only over the sounds in which it is audible (`audible.py`).

    Args:
        embedders: by the name that their scores get.
        num_sounds: how many, at least 120; the rarer a parameter is audible, the more are needed.
        num_samples: S.
        sample_rate: Hz, at least 16,000.
        seed: of the sounds.
        num_layers: of a sound. The parameters of several layers cannot be told apart: nothing says which is the first.
        device: where the sounds are made.
        heard: called with the number of sounds done so far.

    Raises:
        ValueError: too few sounds, a length or rate that they do not fit into, no layer, or embeddings that are not
            (b, D) finite numbers.

    Source: Alain and Bengio 2016, arXiv:1610.01644 (linear probes), there of classes and of every layer.
    """
    grid = Grid(num_samples, sample_rate, torch.device(device))
    _check(num_sounds, grid)
    units: list[Tensor] = []
    vectors: dict[str, list[Tensor]] = {name: [] for name in embedders}
    done = 0
    for sounds in generate(num_sounds, grid, seed=seed, num_layers=num_layers):
        units.append(sounds.units)
        for name, embed in embedders.items():
            vectors[name].append(_checked(embed(sounds.wavs), name, len(sounds.wavs)))
        done += len(sounds.wavs)
        heard(done)
    return score({name: torch.cat(rows) for name, rows in vectors.items()}, torch.cat(units), num_layers, grid)


@torch.no_grad()
def generate(num_sounds: int, grid: Grid, *, seed: int, num_layers: int) -> Iterator[Sounds]:
    """Sounds 0, 1, ... of a seed, in blocks; a sound is the same whatever their number, but for rounding."""
    layers, chunk = Layers(num_layers=num_layers, grid=grid), CHUNK.get(grid.device.type, LARGE_CHUNK)
    for numbers in torch.arange(num_sounds, device=grid.device).split(BLOCK):
        parts = []
        for some in numbers.split(chunk):
            # A name of their own: pretraining draws "doppelganger".
            dice = Dice.of(seed, "probe", some)
            units = layers.space.draw(dice)
            parts.append(Sounds(layers.render(units, layers.draw_material(dice)), units))
        yield Sounds(*(torch.cat(part) for part in zip(*parts, strict=True)))


def score(embeddings: Mapping[str, Tensor], units: Tensor, num_layers: int, grid: Grid) -> Probed:
    """Fit and score embeddings (n, D) against parameters (n, units); the last quarter of the rows is held out.

    Raises:
        ValueError: embeddings that are not finite.
    """
    num_train = len(units) - len(units) // HELD_OUT
    asked = targets(units.cpu(), num_layers, Grid(grid.num_samples, grid.sample_rate, torch.device("cpu")))
    values, masks = (torch.cat([getattr(target, part) for target in asked], dim=1) for part in ("values", "audible"))
    fits = {name: _explained(rows.cpu(), values, masks, num_train) for name, rows in embeddings.items()}
    parameters, sizes = {}, [target.values.shape[1] for target in asked]
    of_each = {name: fit.split(sizes) for name, fit in fits.items()}
    for number, target in enumerate(asked):
        columns = enough(target.audible, num_train)
        if columns.any():
            means = {name: float(each[number][columns].mean()) for name, each in of_each.items()}
            held_out = int(target.audible[num_train:, columns].any(dim=1).sum())
            parameters[target.name] = Finding(target.group, held_out, int(columns.sum()), means)
    kinds = kind_of(units.cpu(), num_layers)
    return Probed(
        parameters,
        _of_groups(parameters, list(embeddings)),
        tuple(target.name for target in asked if target.name not in parameters),
        {name: classified(rows.cpu(), kinds, num_train) for name, rows in embeddings.items()},
        float(kinds[num_train:].flatten().bincount().max() / kinds[num_train:].numel()),
        num_train,
        len(units) - num_train,
    )


def targets(units: Tensor, num_layers: int, grid: Grid) -> list[Target]:
    """Make a regression target of each parameter with an order; those of several layers are columns of one target.

    Args:
        units: (n, units) in [0, 1], columns of `Layers.space_of(num_layers)`.
        num_layers: of them.
        grid: of the sounds.
    """
    masks = split(audible(units, num_layers, grid).float(), num_layers)
    parts = split(canonical(units, num_layers), num_layers)
    found: dict[str, list[Target]] = {}
    for (space, part), (_, part_mask) in zip(parts, masks, strict=True):
        for parameter in space.parameters:
            if parameter.name == NAMED:
                continue
            columns = space.columns[parameter.name]
            values, mask = _linear_target(part[:, columns], parameter), part_mask[:, columns].bool()
            mask = mask.repeat(1, values.shape[1] // mask.shape[1])
            found.setdefault(parameter.name, []).append(Target(parameter.name, parameter.group, values, mask))
    return [
        Target(name, same[0].group, *(torch.cat(part, dim=1) for part in zip(*(t[2:] for t in same), strict=True)))
        for name, same in found.items()
    ]


def kind_of(units: Tensor, num_layers: int) -> Tensor:
    """Return (n, L) int64: which of `KINDS` the envelope of each layer is."""
    layers = split(units, num_layers)[:num_layers]
    return torch.cat([space.physical(part)[NAMED] for space, part in layers], dim=1).long()


def classified(embeddings: Tensor, kinds: Tensor, num_train: int) -> float:
    """Classify kinds (n, L) by the highest ridge prediction of one-hot targets; accuracy on held-out rows."""
    one_hot = torch.nn.functional.one_hot(kinds, len(KINDS)).flatten(1)
    prediction = predict(fit_ridge(embeddings[:num_train], one_hot[:num_train]), embeddings[num_train:])
    chosen = prediction.unflatten(1, (-1, len(KINDS))).argmax(dim=2)
    return float((chosen == kinds[num_train:]).double().mean())


def enough(mask: Tensor, num_train: int) -> Tensor:
    """(n, C) bool -> (C,) bool: whether there are enough sounds to fit and to score."""
    return (mask[:num_train].sum(dim=0) >= FEWEST) & (mask[num_train:].sum(dim=0) >= FEWEST)


def _explained(embeddings: Tensor, values: Tensor, audible: Tensor, num_train: int) -> Tensor:
    """(C,) R2 on held-out sounds, NaN where there are not enough; columns with equal masks share one decomposition."""
    scores = torch.full((values.shape[1],), torch.nan, dtype=torch.float64)
    scorable = enough(audible, num_train)
    masks, which = torch.unique(audible, dim=1, return_inverse=True)
    for number, mask in enumerate(masks.T):
        columns = (which == number) & scorable
        if not columns.any():
            continue
        train, test = mask.clone(), mask.clone()
        train[num_train:], test[:num_train] = False, False
        prediction = predict(fit_ridge(embeddings[train], values[train][:, columns]), embeddings[test])
        scores[columns] = r2(prediction, values[test][:, columns])
    return scores


def _linear_target(units: Tensor, parameter: Parameter) -> Tensor:
    """Turn (n, size) parameters into targets of a linear model: (n, size), or (n, 2 size) for phases.

    A phase of 0.99 is next to 0: cosine and sine stand for it. A whole number is rounded as the sound is, in [0, 1].
    """
    if parameter.wraps:
        angle = 2 * torch.pi * units
        return torch.cat([angle.cos(), angle.sin()], dim=1)
    if parameter.law == "choice":
        steps = parameter.high - parameter.low
        return (steps * units).floor().clamp_max(steps - 1) / (steps - 1)
    return units


def _of_groups(parameters: Mapping[str, Finding], names: list[str]) -> dict[str, dict[str, float]]:
    groups = sorted({finding.group for finding in parameters.values()})
    members = {group: [finding for finding in parameters.values() if finding.group == group] for group in groups}
    return {
        group: {name: sum(finding.r2[name] for finding in own) / len(own) for name in names}
        for group, own in members.items()
    }


def _check(num_sounds: int, grid: Grid) -> None:
    if num_sounds < HELD_OUT * FEWEST:
        raise ValueError(
            f"a probe on {num_sounds} sounds: one in {HELD_OUT} is held out and a score needs {FEWEST} of those; "
            f"ask for at least {HELD_OUT * FEWEST}, better 2,000"
        )
    if grid.sample_rate < LOWEST_RATE:
        raise ValueError(f"a probe at {grid.sample_rate} Hz: generated sounds need at least {LOWEST_RATE} Hz")
    if grid.duration_s < SHORTEST_S:
        raise ValueError(f"a probe on sounds of {grid.duration_s:g} s: they need at least {SHORTEST_S:g} s")


def _checked(vectors: Tensor, name: str, num_sounds: int) -> Tensor:
    if vectors.ndim != 2 or len(vectors) != num_sounds or not torch.isfinite(vectors).all():
        raise ValueError(
            f"{name}: must give ({num_sounds}, D) finite numbers for {num_sounds} sounds, gave {tuple(vectors.shape)}"
            + ("" if torch.isfinite(vectors).all() else " with NaN or infinite values")
        )
    return vectors.detach().cpu()
