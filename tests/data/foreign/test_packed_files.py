"""Threads that read packed files can be stopped."""

import threading

import pytest

from vcrast.data.foreign.files import reading_threads


def test_what_was_not_begun_is_not_done_after_ctrl_c():
    begun, waiting = threading.Event(), []

    def stopped():
        with reading_threads() as pool:
            waiting.extend(pool.submit(begun.wait, 5) for _ in range(500))
            threading.Timer(0.2, begun.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert sum(future.cancelled() for future in waiting) > 400
