"""(class, number, seed) -> a clip: draws parameters, calls the formula, adds background, sets the level."""

from __future__ import annotations

import torch
from torch import Tensor

# Imported for the classes that they enter into SOUNDS.
from vcrast.synth import alarms, animals, impacts, machines, voices, weather  # noqa: F401
from vcrast.synth.blocks import shape_spectrum, slope_gain, unit_power
from vcrast.synth.counter import Dice
from vcrast.synth.sound import SOUNDS, Scene, find_sound

# Raised whenever a formula, a range or a hash changes: clips under the same number then sound different, and whatever
# was cached or measured from them is void.
ENGINE = 1
LOWEST_RATE = 16_000
SHORTEST_S = 1.0
CLASSES = tuple(sorted(SOUNDS))


def render(
    class_index: Tensor,
    numbers: Tensor,
    *,
    seed: int,
    num_samples: int,
    sample_rate: int,
    snr_db: tuple[float, float] = (5.0, 40.0),
) -> Tensor:
    """Clips of several classes.

    Args:
        class_index: (n,) int64, positions in `CLASSES`.
        numbers: (n,) int64, which clip of its class; any number from 0.
        seed: of the collection; another seed gives other clips under the same numbers.
        num_samples: S.
        sample_rate: Hz.
        snr_db: [lowest, highest] level of the sound over the background noise.

    Returns:
        (n, S) float32 within [-1, 1] on the device of `numbers`. A clip depends on (seed, class, number) alone.

    Raises:
        ValueError: a sample rate or a length that the sounds do not fit into.
    """
    _check(num_samples, sample_rate, snr_db)
    out = torch.empty(len(numbers), num_samples, device=numbers.device)
    for index in class_index.unique().tolist():
        rows = (class_index == index).nonzero().squeeze(1)
        out[rows] = render_class(
            CLASSES[index],
            numbers[rows],
            seed=seed,
            num_samples=num_samples,
            sample_rate=sample_rate,
            snr_db=snr_db,
        )
    return out


def render_class(
    name: str,
    numbers: Tensor,
    *,
    seed: int,
    num_samples: int,
    sample_rate: int,
    snr_db: tuple[float, float] = (5.0, 40.0),
) -> Tensor:
    """Clips of one class, see `render`.

    Raises:
        KeyError: no such class.
        ValueError: a sample rate or a length that the sounds do not fit into.
    """
    _check(num_samples, sample_rate, snr_db)
    chosen = find_sound(name)
    dice = Dice.of(seed, name, numbers)
    dry = chosen.formula(chosen.draw(dice), Scene(dice, num_samples, sample_rate))
    return finish(dry, dice, sample_rate, snr_db)


def finish(dry: Tensor, dice: Dice, sample_rate: int, snr_db: tuple[float, float]) -> Tensor:
    """Add background noise at a random signal-to-noise ratio and set the peak to a random level of -20 to -1 dB.

    The noise falls by 0 to 6 dB per octave. Both draws are per clip; powers are means over the whole clip.
    """
    slope_db = dice.one("finish/slope", -6.0, 0.0)
    background = dice.normal("finish/background", dry.shape[1])
    background = shape_spectrum(background, lambda hz: slope_gain(hz, slope_db), sample_rate)
    scale = 10 ** (-dice.one("finish/snr", *snr_db) / 20)
    wave = unit_power(dry) + scale * unit_power(background)
    peak = 10 ** (dice.one("finish/level", -20.0, -1.0) / 20)
    return wave * (peak / wave.abs().amax(dim=1, keepdim=True))


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
