"""Check how a task ends: finish, fail, requeue. Slurm's answers are made up."""

import os
import pickle
import signal
import stat
import threading
from dataclasses import replace

import pytest
from submitit.core.utils import DelayedSubmission, UncompletedJobError

from launch import requeue as requeue_module
from launch import slurm_job
from launch.arguments import Program
from launch.requeue import WarningTimer, reason_to_end, requeue, slurm_record
from launch.slurm_job import BatchJob

JOB = BatchJob(("recipe=demo", "run.dir=/x"), 120, Program.of_script("launch/slurm.py"))


class Requeued(BaseException):
    """Stands for submitit's exit."""


@pytest.fixture
def task(monkeypatch):
    """A task of a job as submitit starts it, with this rank; returns what is to be called, and its answers."""

    def start(*, rank=0, status=0, record=None, error=None):
        for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "SLURM_PROCID": rank,
                            "SLURM_NTASKS": 2, "SLURM_JOB_NUM_NODES": 2, "SLURM_NODEID": rank, "SLURM_LOCALID": 0,
                            "SLURM_JOB_NODELIST": "n[1-2]"}.items():  # fmt: skip
            monkeypatch.setenv(name, str(value))
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.setenv(name, "left from the shell")
        monkeypatch.setenv("MASTER_PORT", "12345")
        monkeypatch.setattr("sys.argv", ["_submit.py"])
        monkeypatch.setattr(
            requeue_module, "slurm_record", lambda: record or {"JobState": "RUNNING", "PreemptTime": "None"}
        )
        monkeypatch.setattr(BatchJob, "_start", lambda self: status)

        def handler(number, frame):
            raise error or Requeued

        monkeypatch.setattr(slurm_job, "submitits_handler", lambda: handler)
        return JOB

    return start


def exit_code(call):
    with pytest.raises(SystemExit) as stopped:
        call()
    return stopped.value.code


def test_a_job_survives_pickling_and_starts_again_as_the_same():
    assert pickle.loads(pickle.dumps(JOB)) == JOB
    again = JOB.checkpoint()
    assert isinstance(again, DelayedSubmission)
    assert (again.function, again.args, again.kwargs) == (JOB, (), {})


def test_a_task_learns_its_place_and_keeps_all_devices(task, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert task(rank=1)() == 0
    place = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    assert place == {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    assert (os.environ["MASTER_ADDR"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("n1", "0,1")


def test_failure_is_the_exit_code(task):
    assert exit_code(task(status=2)) == 2


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_after_a_warning_rank_0_requeues_and_the_others_end_quietly(task, number):
    with pytest.raises(Requeued):
        task(status=128 + number)()
    assert exit_code(task(rank=1, status=128 + number)) == 0


def test_after_sigterm_slurm_is_asked_what_it_means(task, capsys):
    preempted = {"JobState": "RUNNING", "PreemptTime": "2026-01-01T00:00:00"}
    with pytest.raises(Requeued):
        task(status=143, record=preempted)()
    for record in ({"JobState": "CANCELLED"}, {"JobState": "COMPLETING", "PreemptTime": "2026-01-01T00:00:00"}, None):
        assert exit_code(task(status=143, record=record)) == 143
        assert "not requeued" in capsys.readouterr().err
        assert exit_code(task(rank=1, status=143, record=record)) == 0


def test_a_job_that_was_cancelled_after_a_warning_stays_away(task):
    assert exit_code(task(status=128 + signal.SIGUSR2, record={"JobState": "CANCELLED"})) == 140


def test_a_job_that_reached_its_limit_too_often_says_how_to_go_on(task, capsys, tmp_path):
    error = UncompletedJobError("Job not requeued because: timed-out too many times.")
    (tmp_path / "train.log").touch()
    words = ("recipe=demo", f"run.dir='{tmp_path}'", "run.resume=auto")
    assert exit_code(replace(task(status=140, error=error), overrides=words)) == 140
    said = capsys.readouterr().err
    assert "not requeued: Job not requeued because" in (tmp_path / "train.log").read_text()
    assert "too many times. Submit the same command with run.dir=FOLDER again" in said
    assert "Traceback" not in said


def test_outside_slurm_nothing_is_asked(monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert slurm_record() == {}
    assert reason_to_end(signal.SIGUSR2) is None
    assert "alone" in reason_to_end(signal.SIGTERM)


def test_slurms_record_is_read_and_its_silence_is_no_answer(monkeypatch, tmp_path):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm_record() == {}
    fake = tmp_path / "scontrol"
    fake.write_text('#!/bin/sh\necho "JobId=$3 JobName=a=b c JobState=RUNNING PreemptTime=None"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    assert slurm_record() == {"JobId": "7", "JobName": "a=b", "JobState": "RUNNING", "PreemptTime": "None"}


def test_a_refused_requeue_is_told():
    def handler(number, frame):
        raise OSError("no scontrol")

    assert "no scontrol" in requeue(handler)


@pytest.fixture
def ignored():
    """A handler for the signals of the tests, which would end pytest."""
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
    old = [signal.signal(number, lambda number, frame: None) for number in numbers]
    yield
    for number, handler in zip(numbers, old, strict=True):
        signal.signal(number, handler)


def test_the_timer_acts_when_a_warned_run_does_not_end(ignored):
    acted = threading.Event()
    with WarningTimer({signal.SIGUSR2}, 0.0, acted.set):
        os.kill(os.getpid(), signal.SIGUSR2)
        assert acted.wait(60)


def test_a_handler_installed_later_does_not_hide_the_warning(ignored):
    acted, noted = threading.Event(), []
    with WarningTimer({signal.SIGUSR2}, 0.0, acted.set):
        old = signal.signal(signal.SIGUSR2, lambda number, frame: noted.append(number))
        os.kill(os.getpid(), signal.SIGUSR2)
        assert acted.wait(60)
        signal.signal(signal.SIGUSR2, old)
    assert noted == [signal.SIGUSR2]


def test_the_timer_does_nothing_when_the_run_ends_or_was_not_warned(ignored):
    acted = threading.Event()
    for sent in (None, signal.SIGTERM, signal.SIGUSR2):
        with WarningTimer({signal.SIGUSR2}, 3600.0, acted.set) as timer:
            if sent is not None:
                os.kill(os.getpid(), sent)
        assert not timer._thread.is_alive()
    assert not acted.is_set()
    assert signal.set_wakeup_fd(-1) == -1


def test_only_rank_0_of_a_slurm_job_acts(task, capsys):
    called = []
    for rank, executor in ((1, "slurm"), (0, "local"), (0, "slurm")):
        task(rank=rank)
        os.environ.update(RANK=str(rank), SUBMITIT_EXECUTOR=executor)
        JOB._too_late(lambda number, frame, rank=rank, executor=executor: called.append((rank, executor)))
    assert called == [(0, "slurm")]
