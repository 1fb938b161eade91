"""Shape events over time: attack, decay, sustain, release (ADSR) and damping."""

from __future__ import annotations

import torch
from torch import Tensor

from vcrast.data.synth.control import Grid


def adsr(
    since_s: Tensor, attack_s: Tensor, decay_s: Tensor, sustain: Tensor, hold_s: Tensor, release_s: Tensor
) -> Tensor:
    """Compute an envelope: lines to 1 in the attack and to `sustain` in the decay, level for `hold_s`, then to 0.

    With x seconds since the onset, and each bracket cut to [0, 1]:
    [x / A] (1 - (1 - s) [(x - A) / D]) (1 - [(x - A - D - H) / R]). Every factor is constant while another moves.

    Args:
        since_s: x, any shape; negative before the onset, where the envelope is 0.
        attack_s: A above 0; as all that follow, of a shape that meets x.
        decay_s: D above 0.
        sustain: s in [0, 1], the level after the decay.
        hold_s: H from 0, time at that level.
        release_s: R above 0.
    """
    rise = (since_s / attack_s).clamp(0.0, 1.0)
    fall = 1 - (1 - sustain) * ((since_s - attack_s) / decay_s).clamp(0.0, 1.0)
    end = 1 - ((since_s - attack_s - decay_s - hold_s) / release_s).clamp(0.0, 1.0)
    return rise * fall * end


def events(
    times: Tensor, levels: Tensor, count: Tensor, shape_s: tuple[Tensor, ...], damping_hz: Tensor, grid: Grid
) -> Tensor:
    """Sum events: levels_i ADSR(x) exp(-damping x), i < count, x = t - times_i duration seconds since the onset.

    Args:
        times: (n, events) in [0, 1], as shares of the clip's duration.
        levels: (n, events) amplitudes.
        count: (n, 1) how many of the events sound.
        shape_s: the last five arguments of `adsr`, (n, 1) each.
        damping_hz: (n, 1) 1/s, from 0.
        grid: the control points.

    Returns:
        (n, points) amplitude at the control points.
    """
    since = grid.time_s - (times * grid.duration_s).unsqueeze(2)  # (n, events, points)
    curve = adsr(since, *(value.unsqueeze(2) for value in shape_s))
    damped = curve * torch.exp(-damping_hz.unsqueeze(2) * since.clamp_min(0.0))
    heard = levels * (torch.arange(times.shape[1], device=times.device) < count)
    return (heard.unsqueeze(2) * damped).sum(dim=1)
