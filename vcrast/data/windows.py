"""Cut a clip that is longer than the model's into windows: where each begins."""

from __future__ import annotations

import math

SLACK = 0.1  # of a window: 10.02 s of a clip of 10 s are heard in one


def window_starts(length: int, num_samples: int) -> list[int]:
    """Spread the fewest windows that hear a clip evenly from its beginning to its end.

    Up to `SLACK` windows' length may stay unheard: of a clip that is hardly longer than one window, its centre is
    taken.

    Args:
        length: of the clip, in samples.
        num_samples: of a window.

    Returns:
        The first sample of each window, ascending; [0] where the clip is no longer than one.

    >>> window_starts(80, 100), window_starts(104, 100), window_starts(250, 100)
    ([0], [2], [0, 75, 150])
    """
    last = length - num_samples
    if last <= 0:
        return [0]
    count = max(1, math.ceil(length / num_samples - SLACK))
    return [last // 2] if count == 1 else [round(number * last / (count - 1)) for number in range(count)]
