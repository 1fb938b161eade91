"""Start several processes on this machine as torchrun does; forward signals once.

torchrun's agent answers Ctrl-C with a second signal to its workers, which the terminal has signalled already; a run
takes the second one for "stop at once" and leaves without saving. Here the processes are out of the terminal's reach
and get what the launcher gets. They end when it is gone, and all of them when one fails.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import IO, NamedTuple

from vcrast.cli.errors import PEER_LOST
from vcrast.data.processes import is_left_alone, num_cores
from vcrast.runs.failure import LOG, append_to_log

from .arguments import Program

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
PARENT = "VCRAST_PARENT"  # descriptor of a pipe that closes when the launcher is gone
GRACE_S = 20.0  # for the others to notice by themselves that one is gone
KILL_S = 10.0  # between asking them to end and ending them
POLL_S = 0.05


OTHER_LAUNCHERS = {"SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpirun"}
"""What they tell their processes: how many there are. None of them says where rank 0 listens."""


def is_child() -> bool:
    """Whether a launcher has made this process one of several, or ours has started it.

    `RANK=0 WORLD_SIZE=1`, which Kubeflow and others set for a single process, leaves the number to the settings.
    """
    alone = os.environ.get("WORLD_SIZE", "" if "RANK" in os.environ else "1") == "1"
    return PARENT in os.environ or not alone


def refuse_other_launchers(words: Sequence[str]) -> None:
    """Refuse a place among others that a run could not take, and two numbers of processes.

    Raises:
        ValueError: says what to start instead.
    """
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if restarts != "0" and not any(word.startswith(("run.dir=", "run.resume=")) for word in words):
        raise ValueError(
            f"torchrun --max-restarts={restarts}: what is started again goes on in its folder; name that, run.dir=DIR"
        )
    if PARENT in os.environ:
        return
    if not is_child():
        for name, launcher in OTHER_LAUNCHERS.items():
            if (count := os.environ.get(name, "1")) != "1":
                raise ValueError(
                    f"{launcher} has started {count} processes ({name}), each of which would be a run of its own; "
                    "start one, with launch.num_processes=N or torchrun in it; on Slurm, vcrast submit does all of it"
                )
        return
    asked = [word.partition("=")[2] for word in words if word.startswith("launch.num_processes=")]
    size = os.environ.get("WORLD_SIZE")
    if asked and size and asked[-1] not in (size, os.environ.get("LOCAL_WORLD_SIZE")):
        raise ValueError(
            f"launch.num_processes={asked[-1]}: a launcher has started {size} processes (WORLD_SIZE={size}), and its "
            "number counts; leave launch.num_processes out, or start one process"
        )


def launch(program: Program, num_processes: int, words: Sequence[str], *, run_dir: Path | None = None) -> int:
    """Run a launcher again in several processes that find each other by torchrun's variables.

    The first one has this terminal. What others write is shown if one of them fails, and why goes to train.log.

    Args:
        program: how the launcher was called.
        num_processes: on this machine.
        words: the command line of each.
        run_dir: the run folder, if the caller knows it.

    Returns:
        The run's exit code.
    """
    with ExitStack() as stack:
        group = Group(stack, num_processes, [*program.command, *words], program.name, run_dir)
        old = {number: signal.signal(number, group.forward) for number in FORWARDED if not is_left_alone(number)}
        try:
            return group.wait()
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            group.kill()


class Place(NamedTuple):
    """What a run is given that shares the machine with others.

    Attributes:
        environment: variables of its processes.
        output: where its first process writes; None is this terminal.
    """

    environment: Mapping[str, str] = MappingProxyType({})
    output: IO[bytes] | None = None


class Group:
    """The processes of a run on this machine."""

    def __init__(
        self,
        stack: ExitStack,
        num_processes: int,
        command: Sequence[str],
        name: str,
        run_dir: Path | None,
        *,
        place: Place = Place(),  # noqa: B008 - immutable
    ) -> None:
        self.name, self.run_dir = name, run_dir
        reading, writing = os.pipe()
        stack.callback(os.close, writing)
        self.outputs: list[IO[bytes] | None] = [place.output]
        self.outputs += [stack.enter_context(temporary()) for _ in range(1, num_processes)]
        port = str(free_port())
        self.processes = []
        for rank, output in enumerate(self.outputs):
            own = {**variables(rank, num_processes, port), **place.environment}
            environment = {**os.environ, **own, PARENT: str(reading)}
            self.processes.append(
                subprocess.Popen(
                    command, env=environment, stdout=output, stderr=output, pass_fds=[reading], start_new_session=True,
                    stdin=None if output is None else subprocess.DEVNULL,
                )
            )  # fmt: skip
        os.close(reading)
        self.ended: list[int] = []  # ranks, in the order in which they ended
        self.deadline = float("inf")

    def forward(self, number: int, _frame: FrameType | None) -> None:
        """Hand a signal on to every process."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def wait(self) -> int:
        """The exit code, once all have ended; see `poll`."""
        while (code := self.poll()) is None:
            time.sleep(POLL_S)
        return code

    def poll(self) -> int | None:
        """The exit code, or None while some run; after a failure the others get some time to end by themselves."""
        for rank, process in enumerate(self.processes):
            if rank not in self.ended and process.poll() is not None:
                self.ended.append(rank)
                if self.code(rank):
                    self.deadline = min(self.deadline, time.monotonic() + GRACE_S)
        if len(self.ended) < len(self.processes):
            if time.monotonic() > self.deadline:
                self.kill()
            return None
        failed = [rank for rank in self.ended if self.code(rank)]
        if not failed:
            return 0
        cause = self.cause(failed)
        self.explain(cause)
        return self.code(cause)

    def cause(self, failed: Sequence[int]) -> int:
        """The rank that failed by itself; the first process if it did, since it has told the user why."""
        by_itself = [rank for rank in failed if self.code(rank) != PEER_LOST]
        return 0 if 0 in by_itself and self.processes[0].returncode > 0 else (by_itself or list(failed))[0]

    def code(self, rank: int) -> int:
        """Exit code; 128 + n after signal n."""
        code = self.processes[rank].returncode
        return code if code >= 0 else 128 - code

    def explain(self, rank: int) -> None:
        """Say what the terminal has not shown, and keep what the process cannot have written itself."""
        code, output = self.processes[rank].returncode, self.outputs[rank]
        if code < 0:
            name = signal.Signals(-code).name
            why = ", perhaps for lack of memory" if name == "SIGKILL" else ""
            text = f"process {rank} of {len(self.processes)} was ended by {name}{why}"
            print(f"{self.name}: error: {text}", file=sys.stderr)
            if self.run_dir is not None:
                append_to_log(self.run_dir / LOG, text, name=self.name)
        asked = self.code(rank) - 128 in FORWARDED  # it has said in its own log how it goes on
        if output is not None and not (asked and rank == 0):
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
            for line in text.splitlines()[-30:]:
                print(f"[process {rank}] {line}", file=sys.stderr)

    def kill(self) -> None:
        """End what still runs: ask first, insist after a while."""
        alive = [process for process in self.processes if process.poll() is None]
        for process in alive:
            process.terminate()
        deadline = time.monotonic() + KILL_S
        while any(process.poll() is None for process in alive) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        for process in alive:
            process.kill()
            process.wait()


def variables(rank: int, num_processes: int, port: str) -> dict[str, str]:
    """What torchrun would set for a process of one machine, and its share of the cores."""
    given = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": False,
    }  # fmt: skip
    if "OMP_NUM_THREADS" not in os.environ:
        given["OMP_NUM_THREADS"] = max(1, num_cores() // num_processes)
    return {name: str(value) for name, value in given.items()}


def temporary() -> IO[bytes]:
    """A file without a name."""
    return tempfile.TemporaryFile()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def follow_launcher() -> None:
    """Let a thread end this process politely when its launcher is gone, however that ended."""
    descriptor = os.environ.pop(PARENT, None)
    if descriptor is None:
        return

    def watch(pipe: int) -> None:
        while os.read(pipe, 1):  # nobody writes; it returns when the other end closes
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, args=[int(descriptor)], name="launcher", daemon=True).start()
