"""Measure weak and strong scaling on this machine, and the bytes of a step.

python benchmarks/scaling.py [--processes 1 2 4] [--steps 5] [--small]

Each process is a real one with its part of the batch; bytes are what the kernel counted on the process's own TCP
connections, so other programs do not disturb them. On a CPU all processes share the cores: times say little there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cost import FLOAT_BYTES, all_gather_bytes, all_reduce_bytes
from benchmarks.machine import header, seconds_each
from benchmarks.memory import VIEWS
from benchmarks.training import SMALL, Training, build_training
from launch.processes import free_port, variables
from vcrast.config.compose import compose
from vcrast.training.dist import process_group, rank, rank_slice, world_size

COLUMNS = (
    "scaling", "processes", "batch", "step", "expected", "clips/s", "received a step", "model", "off by",
)  # fmt: skip
RECEIVED_AT = 128  # of `tcpi_bytes_received` in Linux's struct tcp_info, there since 4.1
WAIT_S = 300.0


class Measured(NamedTuple):
    """What one process saw; seconds of a step, of projector and loss alone, of averaging the gradients alone."""

    step_s: float
    head_s: float
    average_s: float
    received: float
    num_parameters: int
    embed_dim: int


def received_bytes() -> int:
    """Bytes that this process has received on the TCP connections that it has open. Linux only."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            descriptor = os.dup(int(name))
            try:
                connection = socket.socket(fileno=descriptor)
            except OSError:
                os.close(descriptor)
                continue
            with connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += struct.unpack_from("Q", info, RECEIVED_AT)[0]
    return total


def build(arguments: argparse.Namespace) -> Training:
    """What each process trains."""
    config = compose([f"model={arguments.model}", "attention=softmax", *(SMALL if arguments.small else ())])
    return build_training(config, num_frames=arguments.frames, precision="fp32", device=torch.device("cpu"))


def measure(arguments: argparse.Namespace) -> Measured:
    """Run steps as one process of the group."""
    device = torch.device("cpu")
    training = build(arguments)
    mine = rank_slice(arguments.batch)
    wavs = training.noise(arguments.batch)[mine.start : mine.stop]

    def step(number: int) -> None:
        training.step(wavs, number)

    step(0)
    meet()
    before = received_bytes()
    seconds = [seconds_each(step, times=1, device=device, first=1 + number) for number in range(arguments.steps)]
    meet()
    received = (received_bytes() - before) / arguments.steps

    def head(_: int) -> None:
        training.loss_alone(arguments.batch)

    gradients = torch.zeros(sum(each.numel() for each in training.engine.parameters))

    def average(_: int) -> None:
        if world_size() > 1:
            distributed.all_reduce(gradients)

    head_s, average_s = (min(seconds_each(part, times=1, device=device) for _ in range(3)) for part in (head, average))
    width = training.objective.encoder.embed_dim
    return Measured(statistics.median(seconds), head_s, average_s, received, gradients.numel(), width)


def meet() -> None:
    """Wait for the others, so that everything they sent has arrived."""
    if world_size() > 1:
        distributed.barrier()


def work(arguments: argparse.Namespace) -> None:
    """One process: measure, and write the result for the one that started it."""
    torch.set_num_threads(1)
    with process_group(torch.device("cpu"), timeout_s=WAIT_S):
        found = measure(arguments)
        (arguments.out / f"{rank()}.json").write_text(json.dumps(found))
        meet()


def run(arguments: argparse.Namespace, number: int, batch: int, folder: Path) -> list[Measured]:
    """`number` processes with `batch` clips together.

    Raises:
        ValueError: a process failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, str(Path(__file__).resolve()), "--worker", "--batch", str(batch),
        "--steps", str(arguments.steps), "--frames", str(arguments.frames),
        "--model", arguments.model, "--out", str(folder),
        *(["--small"] if arguments.small else []),
    ]  # fmt: skip
    port = str(free_port())
    # Over TCP although all are on one machine: that is what is counted.
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(command, env={**shared, **(variables(place, number, port) if number > 1 else {})})
        for place in range(number)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise ValueError(f"{number} processes with batch {batch}: exit codes {codes}")
    return [Measured(*json.loads((folder / f"{place}.json").read_text())) for place in range(number)]


def model_bytes(number: int, batch: int, found: Measured) -> float:
    """What each process should receive in a step: its share of averaged gradients and of gathered vectors."""
    gradients = all_reduce_bytes(number, FLOAT_BYTES * found.num_parameters)
    return gradients + all_gather_bytes(number, FLOAT_BYTES * VIEWS * batch * found.embed_dim)


def rows(arguments: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    """The table: the batch grows with the processes, then is shared by them."""
    alone = run(arguments, 1, arguments.clips, folder / "alone")[0]
    whole_batch = arguments.clips * max(arguments.processes)
    whole = run(arguments, 1, whole_batch, folder / "whole")[0]
    for kind in ("weak", "strong"):
        for number in arguments.processes:
            batch = arguments.clips * number if kind == "weak" else whole_batch
            single = alone if kind == "weak" else whole
            found = [single] if number == 1 else run(arguments, number, batch, folder / f"{kind}-{number}")
            first = found[0]
            encoder_s = alone.step_s - alone.head_s if kind == "weak" else (whole.step_s - whole.head_s) / number
            yield row(kind, number, batch, found, expected_s=encoder_s + first.head_s + first.average_s)


def row(kind: str, number: int, batch: int, found: list[Measured], *, expected_s: float) -> list[str]:
    """One line: seconds and bytes, measured and expected."""
    step_s = max(each.step_s for each in found)
    received = statistics.mean(each.received for each in found)
    model = model_bytes(number, batch, found[0])
    off = f"{received / model - 1:+.2%}" if model else "-"
    return [
        kind, str(number), str(batch), f"{1e3 * step_s:.0f} ms", f"{1e3 * expected_s:.0f} ms", f"{batch / step_s:.1f}",
        f"{received:,.0f} B", f"{model:,.0f} B", off,
    ]  # fmt: skip


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--clips", type=int, default=8, help="of a process, where the batch grows with them")
    parser.add_argument("--steps", type=int, default=5, help="measured, after one")
    parser.add_argument("--frames", type=int, default=256, help="of a clip")
    parser.add_argument("--model", default="tiny", help="a file of configs/model")
    parser.add_argument("--small", action="store_true", help="a toy model: shows that it works")
    parser.add_argument("--out", type=Path, default=Path("outputs/scaling"), help="folder for what processes found")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Start the processes and print the table."""
    arguments = parse(argv)
    if arguments.worker:
        work(arguments)
        return 0
    cores = len(os.sched_getaffinity(0))
    notes: Any = [
        f"command: scaling.py {' '.join(sys.argv[1:] if argv is None else argv)}",
        f"one thread a process, {cores} cores; gloo over the loopback interface, counted by the kernel per connection",
    ]
    for text in header(torch.device("cpu"), "fp32", *notes):
        print(f"# {text}")
    print(f"\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for cells in rows(arguments, arguments.out):
        print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"scaling.py: error: {error}")
