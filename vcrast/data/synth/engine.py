"""Render the clips of a labelled class: (class, number, seed) -> waveform."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from vcrast.config.words import suggest
from vcrast.data.synth import spectra
from vcrast.data.synth.classes import REGIONS, SPACE
from vcrast.data.synth.control import LOWEST_RATE, Grid
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.program import Layers
from vcrast.data.synth.sound import LEVEL, at_level
from vcrast.data.synth.space import decibels
from vcrast.data.synth.spectra import Bins

# Raised whenever a formula, a range or a hash changes: clips under the same number then sound different, and whatever
# was cached or measured from them is void. 1 had a formula for each class.
ENGINE = 2
SHORTEST_S = 1.0
CLASSES = tuple(REGIONS)


class Rendered(NamedTuple):
    """wavs (n, S) float32 within [-1, 1]; units (n, units) parameters in [0, 1], columns of `classes.SPACE`."""

    wavs: Tensor
    units: Tensor


def render_class(
    name: str,
    numbers: Tensor,
    *,
    seed: int,
    num_samples: int,
    sample_rate: int,
    snr_db: tuple[float, float] = (5.0, 40.0),
) -> Rendered:
    """Render clips of one class.

    Args:
        name: of the class, in `CLASSES`.
        numbers: (n,) int64, which clip of the class; any number from 0.
        seed: of the collection; another seed gives other clips under the same numbers.
        num_samples: S.
        sample_rate: Hz.
        snr_db: [lowest, highest] level of the sound over the background noise.

    Returns:
        On the device of `numbers`. A clip depends on (seed, class, number) alone.

    Raises:
        KeyError: no such class.
        ValueError: a sample rate or a length that the sounds do not fit into.
    """
    _check(num_samples, sample_rate, snr_db)
    if name not in REGIONS:
        raise KeyError(f"sound {name!r} does not exist; {suggest(name, CLASSES)}")
    dice = Dice.of(seed, name, numbers)
    grid = Grid(num_samples, sample_rate, numbers.device)
    units = REGIONS[name].draw(dice)
    layers = Layers(num_layers=1, grid=grid)
    sound = layers.render(units, layers.draw_material(dice))
    wave = with_background(sound, dice, grid, snr_db)
    return Rendered(at_level(wave, SPACE.physical(units)[LEVEL.name]), units)


def with_background(sound: Tensor, dice: Dice, grid: Grid, snr_db: tuple[float, float]) -> Tensor:
    """Add noise that falls by 0 to 6 dB per octave at a random level below the sound; (n, S) -> (n, S).

    The level is uniform in `snr_db`, of powers over the whole clip; the sound has power 1 in the result.
    """
    bins = Bins.of(grid)
    gain = spectra.sloped(bins.hertz, dice.one("background/slope", -6.0, 0.0))
    noise = spectra.coloured(dice.complex_normal("background", bins.size), gain, bins, grid.num_samples)
    return unit_power(sound) + decibels(-dice.one("background/snr", *snr_db)) * unit_power(noise)


def unit_power(wave: Tensor) -> Tensor:
    """Scale (n, S) to mean square 1; silence stays silence."""
    return wave / wave.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-12)


def _check(num_samples: int, sample_rate: int, snr_db: tuple[float, float]) -> None:
    if sample_rate < LOWEST_RATE:
        raise ValueError(
            f"data.sample_rate={sample_rate}: the synthetic sounds reach 7 kHz; set at least {LOWEST_RATE} Hz"
        )
    if num_samples < SHORTEST_S * sample_rate:
        raise ValueError(
            f"a clip of {num_samples / sample_rate:g} s: some synthetic sounds come once a second; "
            f"set data.clip_duration_s to at least {SHORTEST_S:g}"
        )
    if snr_db[0] > snr_db[1]:
        raise ValueError(f"data.options.snr_db={list(snr_db)}: give [lowest, highest], for instance [5, 40]")
