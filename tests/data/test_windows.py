"""Where the windows of a long clip begin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vcrast.data.windows import SLACK, window_starts


def test_windows_by_hand() -> None:
    assert window_starts(0, 100) == [0]
    assert window_starts(100, 100) == [0]
    assert window_starts(110, 100) == [5], "a tenth of a window more: the centre"
    assert window_starts(111, 100) == [0, 11]
    assert window_starts(400, 100) == [0, 100, 200, 300]
    assert window_starts(401, 100) == [0, 100, 201, 301], "four windows, one sample unheard"


@given(length=st.integers(1, 10_000), num_samples=st.integers(1, 700))
def test_windows_stay_inside_and_leave_little_unheard(length: int, num_samples: int) -> None:
    starts = window_starts(length, num_samples)
    assert starts == sorted(starts)
    assert starts[0] >= 0
    assert starts[-1] + num_samples <= max(length, num_samples)
    heard = set().union(*(range(start, start + num_samples) for start in starts)) & set(range(length))
    assert length - len(heard) <= SLACK * num_samples + 1e-9
    assert len(starts) - 1 < length / num_samples, "no window more than needed"
