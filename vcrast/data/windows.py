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


def hop_starts(length: int, num_samples: int, hop: float) -> list[int]:
    """Place windows one hop apart from the beginning of a clip until its end is heard.

    The last one may reach beyond the end; it is left out where it would hear no more than `SLACK` of a window that no
    other has heard, as in `window_starts`.

    Args:
        length: of the clip, in samples.
        num_samples: of a window.
        hop: between the beginnings of two windows, in samples; windows rounded to samples do not drift.

    Returns:
        The first sample of each window, ascending.

    >>> hop_starts(250, 100, 50), hop_starts(255, 100, 100), hop_starts(255, 100, 200), hop_starts(205, 100, 100)
    ([0, 50, 100, 150], [0, 100, 200], [0, 200], [0, 100])
    """
    whole = max(0, math.floor((length - num_samples) / hop + 1e-9) + 1)  # 1e-9: 0.3 / 0.1 is 2.9999999999999996
    heard = (whole - 1) * hop + max(num_samples, hop) if whole else 0
    count = whole + (length - heard > SLACK * num_samples)
    starts = [round(number * hop) for number in range(max(1, count))]
    return starts[:-1] if starts[-1] >= length > 0 and count > 1 else starts  # rounded out of the clip
