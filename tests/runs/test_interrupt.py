from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from vcrast.runs.interrupt import Interrupt, Interrupted

pytestmark = pytest.mark.slow


def raise_signal(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_is_noted_and_the_old_handlers_come_back(name):
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with Interrupt(also=["SIGUSR1", "SIGUSR2"]) as interrupt:
        assert interrupt.requested is None
        raise_signal(number)
        assert interrupt.requested == name
    assert signal.getsignal(number) is before
    assert interrupt.requested == name


def test_the_first_signal_is_the_one_that_is_reported():
    with Interrupt() as interrupt:
        raise_signal(signal.SIGTERM)
        raise_signal(signal.SIGTERM)
        raise_signal(signal.SIGINT)
        assert interrupt.requested == "SIGTERM"


def test_the_second_ctrl_c_stops_at_once_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117 the first must not raise
        with Interrupt() as interrupt:
            raise_signal(signal.SIGINT)
            assert interrupt.requested == "SIGINT"
            raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_that_were_not_asked_for_are_left_alone():
    with Interrupt():
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_what_nohup_started_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            raise_signal(signal.SIGHUP)
        assert interrupt.requested is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_unknown_signal_is_refused():
    with pytest.raises(ValueError, match="'SIGNAL9'"):
        Interrupt(also=["SIGNAL9"])


def test_in_another_thread_it_does_nothing():
    seen = []

    def enter() -> None:
        before = signal.getsignal(signal.SIGINT)
        with Interrupt() as interrupt:
            seen.append(interrupt.requested)
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None, True]


LOOP = """
    import sys, time
    from vcrast.runs.interrupt import Interrupt, Interrupted
    with Interrupt(also=["SIGUSR1"]) as interrupt:
        print("ready", flush=True)
        while interrupt.requested is None:
            time.sleep(0.01)
        print(f"saved after {interrupt.requested}", flush=True)
        if sys.argv[1:] == ["linger"]:
            time.sleep(60)
"""


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(LOOP), *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signalled_process_finishes_its_step_and_ends_well(name):
    child = start()
    child.send_signal(signal.Signals[name])
    out, err = child.communicate(timeout=30)
    assert (out, child.returncode) == (f"saved after {name}\n", 0)
    assert f"{name}: saving after this step" in err


def test_a_process_that_hangs_while_saving_obeys_the_second_ctrl_c():
    child = start("linger")
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "saved after SIGINT\n"
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=30) != 0
    assert "KeyboardInterrupt" in child.stderr.read()


def test_a_forked_worker_outlives_ctrl_c_and_obeys_its_parents_sigterm():
    with Interrupt() as interrupt:
        worker = os.fork()
        if worker == 0:
            raise_signal(signal.SIGINT)
            raise_signal(signal.SIGINT)
            raise_signal(signal.SIGTERM)
            os._exit(3)
        _, status = os.waitpid(worker, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGTERM
        assert interrupt.requested is None


def test_what_may_be_left_at_any_moment_is_left_at_once():
    with Interrupt() as interrupt:
        with pytest.raises(Interrupted, match="SIGTERM while preparing"), interrupt.at_once("while preparing"):
            signalled_at_work()
        os.kill(os.getpid(), signal.SIGTERM)  # outside it is noted
        assert interrupt.requested == "SIGTERM"
        entered = False
        with pytest.raises(Interrupted, match="stopped by SIGTERM before"), interrupt.at_once("before"):
            entered = True
        assert not entered


def signalled_at_work():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
