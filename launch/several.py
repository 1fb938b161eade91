"""Run several runs of a sweep at a time, each on its own share of the machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from vcrast.data.processes import is_left_alone, num_cores

from .arguments import Program
from .processes import FORWARDED, POLL_S, Group, Place


@dataclass(frozen=True)
class Job:
    """A run that is to be started.

    Attributes:
        number: its place in the sweep.
        num_processes: of the run.
        words: its command line.
        folder: where it runs.
    """

    number: int
    num_processes: int
    words: tuple[str, ...]
    folder: Path

    @property
    def output(self) -> Path:
        """Where what it prints is kept: beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.log")


def environments(jobs: int, num_processes: int, *, on_gpus: bool) -> list[dict[str, str]]:
    """What tells each of `jobs` runs at a time its GPUs, one a process, and its share of the cores.

    Raises:
        ValueError: there are GPUs, but fewer than that.
    """
    found: list[dict[str, str]] = [{} for _ in range(jobs)]
    if "OMP_NUM_THREADS" not in os.environ:
        for place in found:
            place["OMP_NUM_THREADS"] = str(max(1, num_cores() // (jobs * num_processes)))
    devices = visible_gpus() if on_gpus else []
    if not devices:
        return found
    if len(devices) < jobs * num_processes:
        raise ValueError(
            f"launch.jobs={jobs}: needs {jobs * num_processes} GPUs for {num_processes} "
            f"process{'es' * (num_processes > 1)} each, {len(devices)} can be seen; lower it"
        )
    for slot, place in enumerate(found):
        own = devices[slot * num_processes : (slot + 1) * num_processes]
        place["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return found


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def run_several(
    program: Program,
    waiting: Sequence[Job],
    places: Sequence[dict[str, str]],
    *,
    began: Callable[[Job], None],
    ended: Callable[[Job, int], bool],
) -> None:
    """Keep as many runs going as there are places; a signal reaches all of them, and no other starts after it.

    Args:
        program: the launcher that each run is handed to.
        waiting: in the order in which they start.
        places: the environment of each run at a time.
        began: called with each run that was started.
        ended: called with a run and its exit code; False starts no other.
    """
    left, going = list(waiting), dict[int, tuple[Job, Group, ExitStack]]()
    asked = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        for _, group, _ in list(going.values()):
            group.forward(number, frame)

    old = {number: signal.signal(number, forward) for number in FORWARDED if not is_left_alone(number)}
    try:
        while going or (left and not asked):
            while left and len(going) < len(places) and not asked:
                slot = next(number for number in range(len(places)) if number not in going)
                job, stack = left.pop(0), ExitStack()
                job.output.parent.mkdir(parents=True, exist_ok=True)
                place = Place(places[slot], stack.enter_context(job.output.open("ab+")))
                command = [*program.command, *job.words]
                group = Group(stack, job.num_processes, command, program.name, job.folder, place=place)
                going[slot] = job, group, stack
                began(job)
            for slot, (job, group, stack) in list(going.items()):
                if (code := group.poll()) is not None:
                    del going[slot]
                    stack.close()
                    asked |= not ended(job, code)
            time.sleep(POLL_S)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        for _, group, stack in going.values():
            group.kill()
            stack.close()
