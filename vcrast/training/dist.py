"""torch.distributed wrappers: rank, collectives, errors that name the peer.

Numbers on the GPU travel over NCCL. What decides where the program goes next (out of memory, a signal, what is on disk)
travels over gloo between the CPUs, so that asking never makes a CPU wait for its GPU.

Three rules make the large batch exact. Each process encodes its clips and gathers the vectors of all; projector, its
BatchNorm and loss are computed on every process from the same numbers; and gradients are averaged. The gather's
backward therefore hands each process its own rows times the number of processes: every process computes the same loss,
so the sum that the encoder needs is that many times the average.
"""

from __future__ import annotations

import datetime
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed

from vcrast.training.watchdog import Watchdog, watched

T = TypeVar("T")
POLL_S = 0.1
PREFIX = "vcrast/start/"
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class PeerLostError(ConnectionError):
    """Another process of the run is gone or does not answer."""


class TorchrunRank(NamedTuple):
    """This process among all, and among those of its machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def torchrun_rank() -> TorchrunRank:
    """What torchrun's variables say; one process on one machine where they are not set, or say that it is alone.

    Raises:
        ValueError: some of the variables are set and others are missing, or they contradict each other.
    """
    size = os.environ.get("WORLD_SIZE", "1" if "RANK" not in os.environ else "")
    if size == "1" and os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
        return TorchrunRank(0, 1, int(os.environ.get("LOCAL_RANK", "0")), 1)
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise ValueError(f"{', '.join(missing)} not set; start several processes with launch.num_processes or torchrun")
    found = TorchrunRank(*(int(os.environ.get(name, default)) for name, default in (
        ("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", os.environ["RANK"]),
        ("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]),
    )))  # fmt: skip
    if not (0 <= found.rank < found.world_size and 0 <= found.local_rank < found.local_world_size):
        raise ValueError(
            f"RANK={found.rank}, WORLD_SIZE={found.world_size}, LOCAL_RANK={found.local_rank}: no such place"
        )
    return found


def running() -> bool:
    """Whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Number of this process among all, from 0; 0 when there is only one."""
    return distributed.get_rank() if running() else 0


def world_size() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if running() else 1


def is_rank_zero() -> bool:
    """Whether this process writes the run folder and speaks to the user."""
    return rank() == 0


@contextmanager
def process_group(device: torch.device, *, timeout_s: float, even_alone: bool = False) -> Iterator[None]:
    """Join the processes that the environment names for as long as the body runs; nothing to do for a single one.

    Args:
        device: of this process; NCCL serves its tensors if it is a GPU, gloo those on the CPU in any case.
        timeout_s: longest wait for the others, in any exchange.
        even_alone: make a group of a single process, too, for an engine that wants one.

    Raises:
        PeerLostError: the others did not come.
    """
    here = torchrun_rank()
    alone = here.world_size == 1
    if (alone and not even_alone) or running():
        yield
        return
    patience = datetime.timedelta(seconds=timeout_s)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store: distributed.Store = distributed.HashStore()
        if not alone:
            store, *_ = next(iter(distributed.rendezvous("env://", here.rank, here.world_size, timeout=patience)))
            store = of_this_start(store, here, timeout_s)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store, rank=here.rank, world_size=here.world_size, timeout=patience,
        )  # fmt: skip
    except RuntimeError as error:
        raise PeerLostError(
            f"rank {here.rank}: the {here.world_size} processes did not find each other at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({_first_line(error)})"
        ) from error
    _common.store = distributed.PrefixStore("vcrast", store)
    try:
        with Watchdog(timeout_s, rank=here.rank, world_size=here.world_size, store=_common.store):
            yield
    finally:
        _common.store = None
        distributed.destroy_process_group()


def of_this_start(store: distributed.Store, here: TorchrunRank, timeout_s: float) -> distributed.Store:
    """A part of the store that these processes share with none that were there before them.

    torchrun keeps its store when it starts processes again, so addresses of those that are gone stand in it
    (pytorch#135712), and no variable numbers the starts alike on all machines. So rank 0 draws a name and hands it to
    each process that asks with a word of its own, which nobody before it can have said.

    Raises:
        RuntimeError: the others did not come.
    """
    deadline, own = time.monotonic() + timeout_s, uuid.uuid4().hex
    start = PREFIX + own  # rank 0's is everybody's
    if here.rank == 0:
        others = [f"{PREFIX}rank_{rank}" for rank in range(1, here.world_size)]
        while store.add(f"{start}/arrived", 0) < len(others):
            for key in others:
                if store.check([key]):
                    store.set(PREFIX + store.get(key).decode(), start)
            _still(deadline, "the others")
    else:
        store.set(f"{PREFIX}rank_{here.rank}", own)
        while not store.check([start]):
            _still(deadline, "rank 0")
        start = store.get(start).decode()
        store.add(f"{start}/arrived", 1)
    return distributed.PrefixStore(start, store)


def _still(deadline: float, whom: str) -> None:
    if time.monotonic() > deadline:
        raise RuntimeError(f"waited in vain for {whom}")
    time.sleep(POLL_S / 5)


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Name an exchange: whoever waits in it in vain says for what, and who is missing."""
    try:
        with watched(what):
            yield
    except RuntimeError as error:
        if not _is_connection(error):
            raise
        raise PeerLostError(
            f"rank {rank()}: another process is gone, or hangs, in {what} ({_first_line(error)})"
        ) from error


def _is_connection(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, distributed.DistError) or any(word in text for word in ("connection", "timed out", "gloo"))


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0][:200]


def all_reduce_max(*values: float) -> list[float]:
    """The largest of each value over all processes; of CPU numbers, so that no GPU is waited for."""
    if not running():
        return list(values)
    found = torch.tensor(values, dtype=torch.float64)
    with waiting_for("an agreement"):
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return [float(value) for value in found.tolist()]


def all_ranks(condition: bool) -> bool:
    """Whether it holds on every process."""
    return all_reduce_max(0.0 if condition else 1.0)[0] == 0.0


def broadcast_object(value: T) -> T:
    """What the first process has: plain values, of any size."""
    if not running():
        return value
    box = [value]
    with waiting_for("a message from rank 0"):
        distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Let the first process run the body, then the first of every machine, then all others.

    What is made once and kept on disk (a cache, statistics) is found there by those who come later, whether machines
    share the disk or not. It may take hours, so nobody's patience ends while the process before is alive.
    """
    if not running():
        yield
        return
    turn = 0 if is_rank_zero() else 1 if torchrun_rank().local_rank == 0 else 2
    for now in range(3):
        if now == turn:
            yield
        _patiently()


def _patiently() -> None:
    """A barrier without a deadline; a process that is gone is noticed all the same."""
    assert _common.store is not None
    key = f"turn/{_common.turns}"
    _common.turns += 1
    try:
        arrived = _common.store.add(key, 1)
        while arrived < world_size():
            time.sleep(POLL_S)
            arrived = _common.store.add(key, 0)
    except RuntimeError as error:
        raise PeerLostError(f"rank {rank()}: rank 0 is gone while others wait for their turn") from error


class _Common:
    """What the processes share besides the process group."""

    store: distributed.Store | None = None
    turns = 0


_common = _Common()


class _Gather(torch.autograd.Function):
    """(b, ...) of each process -> (B, ...) of all, in the order of the ranks."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        """Collect."""
        ctx.num_clips = len(own)
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(world_size())]
        with waiting_for("the gather of representations"):
            distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Own rows, times the number of processes: see the module's text."""
        first = rank() * ctx.num_clips
        return gradients[0][first : first + ctx.num_clips] * world_size()


def gather_clips(values: Tensor) -> Tensor:
    """Gather (b, ...) of this process's clips to (B, ...) of the whole batch, with gradient.

    Exact if every process computes the same loss from the result and gradients are averaged over the processes. All
    processes must hold equally many clips.
    """
    gathered: Tensor = _Gather.apply(values) if running() else values
    return gathered


def average(value: Tensor) -> Tensor:
    """Mean over the processes, without gradient."""
    if not running():
        return value
    mean = value.detach() / world_size()
    with waiting_for("an average"):
        distributed.all_reduce(mean)
    return mean


def gather_rows(rows: Tensor) -> Tensor:
    """(n_rank, ...) CPU tensors, each process its own number of rows -> all rows, in the order of the ranks."""
    if not running():
        return rows
    boxes: list[Any] = [None] * world_size()
    with waiting_for("the gather of results"):
        distributed.all_gather_object(boxes, rows.numpy())
    return torch.cat([torch.from_numpy(box) for box in boxes])


def rank_slice(number: int) -> range:
    """This process's contiguous part of `number` items; parts differ by one at most."""
    return range(rank() * number // world_size(), (rank() + 1) * number // world_size())
