"""Where the windows of a long clip begin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vcrast.data.windows import SLACK, hop_starts, window_starts


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


def test_hops_by_hand() -> None:
    assert hop_starts(1, 100, 50) == [0], "a clip shorter than a window"
    assert hop_starts(250, 100, 50) == [0, 50, 100, 150]
    assert hop_starts(300, 50, 5)[-1] == 250, "every window that fits, however small the hop"
    assert hop_starts(255, 100, 100) == [0, 100, 200], "the last one hears 55 samples"
    assert hop_starts(210, 100, 100) == [0, 100], "a tenth of a window is left"
    assert hop_starts(255, 100, 200) == [0, 200], "gaps"
    assert hop_starts(400, 100, 100 / 3)[:4] == [0, 33, 67, 100], "rounded, without drift"
    assert hop_starts(3, 1, 0.1 * 10) == [0, 1, 2]


@given(length=st.integers(1, 3000), num_samples=st.integers(1, 300), hop=st.floats(1, 400))
def test_windows_of_a_hop_hear_all_that_they_can(length: int, num_samples: int, hop: float) -> None:
    starts = hop_starts(length, num_samples, hop)
    assert starts == [round(number * hop) for number in range(len(starts))]
    assert starts[-1] < length
    following = round(len(starts) * hop)
    unheard = length - max(following, min(length, starts[-1] + num_samples))
    assert unheard <= SLACK * num_samples + 1, "no further window would hear more"
    assert following + num_samples >= length, "every window that fits, to the sample that it is rounded by"
