from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from vcrast.training import watchdog
from vcrast.training.watchdog import EXIT_CODE, HangError, Watchdog, note_step, watched

pytestmark = pytest.mark.slow

SETUP = """
    import datetime, logging, os, sys, time
    import torch
    from torch import distributed
    from vcrast.training.watchdog import HangError, Watchdog, note_step, watched

    rank, size, port, gloo_s = (int(word) for word in sys.argv[1:5])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    store = distributed.TCPStore("127.0.0.1", port, size, is_master=rank == 0)
    patience = datetime.timedelta(seconds=gloo_s)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=patience)
    notes = distributed.PrefixStore("notes", store)

    def lost_in_thought():
        time.sleep(15)
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def together(body, size, *, gloo_s=60):
    """Run `body` on `size` processes; (exit code, what it said) of each. The first one to fail does not end others."""
    script = textwrap.dedent(SETUP) + textwrap.dedent(body)
    port = str(free_port())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(size), port, str(gloo_s)], env=environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]  # fmt: skip
    results: dict[int, tuple[int, str]] = {}

    def follow(rank):
        said = processes[rank].communicate(timeout=120)[1]
        results[rank] = processes[rank].returncode, said

    threads = [threading.Thread(target=follow, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(size)]


ONE_SLEEPS = """
    with Watchdog(2.0, rank=rank, world_size=size, store=notes):
        for step in range(3):
            note_step(f"pretrain step {step}")
            if step == 2 and rank == 1:
                lost_in_thought()
            with watched("gather of representations"):
                distributed.all_reduce(torch.ones(3))
"""


def test_a_hang_names_rank_operation_step_and_who_is_missing():
    said = together(ONE_SLEEPS, 3)
    # The first to give up ends the connections of the other, which may notice that instead; rank 0 keeps the notes.
    gave_up = {rank: said[rank][1] for rank in (0, 2) if said[rank][0] == EXIT_CODE}
    for rank, text in gave_up.items():
        assert f"rank {rank} of 3 waited " in text
        assert "s in gather of representations, pretrain step 2; " in text
        assert "most recent call first" in text
        assert "all_reduce" in text
    assert any("pretrain step 2; not there: rank 1\n" in text for text in gave_up.values()), said
    # The one that everybody waits for shows where it is.
    assert "rank 1: others wait for this process, which is here" in said[1][1]
    assert "in lost_in_thought" in said[1][1]


def test_gloos_own_timeout_says_the_same_and_can_be_handled():
    body = """
        if rank == 1:
            time.sleep(6)
            os._exit(0)
        try:
            with Watchdog(2.0, rank=rank, world_size=size, store=notes), watched("save"), watched("average"):
                distributed.all_reduce(torch.ones(3))
        except HangError as error:
            logging.info("handled: %s", error)
            os._exit(3)
    """
    code, text = together(body, 2, gloo_s=2)[0]
    assert code == 3, text
    assert "handled: rank 0 of 2 waited 2 s in save > average; not there: rank 1\n" in text
    assert "most recent call first" in text


class Ended(Exception):
    pass


def dog(timeout_s=0.4, **more):
    """A watchdog that notes the exit code instead of ending this process."""
    codes = []
    return Watchdog(timeout_s, rank=0, world_size=1, end=codes.append, **more), codes


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_innermost_wait_counts_and_all_names_are_said(caplog):
    watching, codes = dog()
    with watching, watched("save"), watched("barrier"):
        wait_for(lambda: codes)
    assert codes == [EXIT_CODE]
    assert "s in save > barrier\n" in caplog.text
    assert "Current thread" in caplog.text


def test_many_short_waits_inside_a_long_one_are_progress(caplog):
    watching, codes = dog(0.4)
    with watching, watched("outer"):
        for _ in range(12):
            with watched("inner"):
                time.sleep(0.1)
    assert codes == []
    assert not caplog.records


def test_a_wait_in_another_thread_is_seen(caplog):
    watching, codes = dog()
    release = threading.Event()

    def work():
        with watched("backward's exchange"):
            release.wait(30)

    with watching:
        thread = threading.Thread(target=work)
        thread.start()
        wait_for(lambda: codes)
        release.set()
        thread.join()
    assert "backward's exchange" in caplog.text


def test_what_is_not_watched_may_take_as_long_as_it_likes():
    watching, codes = dog(0.2)
    with watching:
        with watched("short"):
            pass
        time.sleep(0.8)
    assert codes == []


@pytest.mark.parametrize("timeout_s", [None, 0])
def test_switched_off_it_has_no_thread_and_changes_no_error(timeout_s):
    before = threading.active_count()
    with Watchdog(timeout_s, rank=0, world_size=1):
        assert threading.active_count() == before
        with pytest.raises(RuntimeError, match=r"^Timed out$"), watched("x"):
            raise RuntimeError("Timed out")


def test_without_a_watchdog_nothing_happens():
    note_step("1")
    with pytest.raises(RuntimeError, match=r"^Timed out$"), watched("x"):
        raise RuntimeError("Timed out")


def test_other_errors_pass_unchanged():
    with dog()[0]:
        for error in (RuntimeError("out of memory"), KeyError("x")):
            with pytest.raises(type(error)) as caught, watched("x"):
                raise error
            assert caught.value is error
        with pytest.raises(HangError, match="rank 0 of 1 waited 0 s in x"), watched("x"):
            raise RuntimeError("[gloo/unbound_buffer.cc:84] Timed out waiting 5000ms for recv operation to complete")
        with watched("after an error"):
            assert watchdog._current is not None
            assert [waiting.names for waiting in watchdog._current.threads.values()] == [["after an error"]]


def test_a_log_that_hangs_too_does_not_keep_the_process(monkeypatch, capfd):
    class Stuck(logging.Handler):
        def emit(self, record):
            time.sleep(5)

    monkeypatch.setattr(watchdog, "LOG_S", 0.1)
    stuck = Stuck()
    watchdog.log.addHandler(stuck)
    watching, codes = dog(0.1)
    try:
        with watching, watched("gather"):
            wait_for(lambda: codes)
    finally:
        watchdog.log.removeHandler(stuck)
    assert "s in gather\n" in capfd.readouterr().err


class Store(dict):
    """What a rank sees of the others' notes."""

    def set(self, key, value):
        self[key] = value

    def check(self, keys):
        return all(key in self for key in keys)

    def get(self, key):
        return self[key]


def test_ranks_that_are_missing():
    store = Store({f"watchdog/{rank}": f'[{number}, "gather"]' for rank, number in ((1, 5), (2, 4), (5, 6))})
    watching = Watchdog(0.04, rank=0, world_size=9, store=store)
    watching.exchanges = 5
    assert watching.message(1.0, "gather").endswith("not there: ranks 2-4, 6-8")
    store.update({f"watchdog/{rank}": '[5, "gather"]' for rank in range(9)})
    assert watching.message(1.0, "gather").endswith("all ranks are in it")
    store.check = lambda keys: 1 / 0
    assert "the store does not answer (division by zero)" in watching.message(1.0, "gather")


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match=r"launch\.timeout_s=-1"):
        Watchdog(-1, rank=0, world_size=1)
