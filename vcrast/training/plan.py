"""How the batch is cut so that it fits: measured on a few clips, predicted for all, chosen for the least extra work.

A step is a pure function and can be undone, so its memory can be tried out before the first one. What grows with the
micro-batch is measured with two sizes; a straight line through them says what any other cut would take. The prediction
may err: out of memory, `vcrast.training.exact` still retreats and repeats the step.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from vcrast.training.dist import all_ranks, all_reduce_max, broadcast_object
from vcrast.training.exact import Objective, micro_batches, num_recomputed, out_of_memory

log = logging.getLogger(__name__)

MARGIN = 0.1  # of the memory left alone: the allocator's blocks do not pack perfectly
SMALLEST = 8  # clips at once, where the memory allows: fewer keep a GPU's matrix units waiting
STATE_TENSORS = {"AdamW": 2, "Lars": 1}  # as large as the weights, made at the optimiser's first step
GIB = 2**30


class Memory(Protocol):
    """What the plan reads of a device; all in bytes."""

    def capacity(self) -> int:
        """Most that this process may hold."""

    def allocated(self) -> int:
        """Held by tensors now."""

    def reset_peak(self) -> None:
        """Begin to watch."""

    def peak(self) -> int:
        """Most held by tensors since then."""

    def release(self) -> None:
        """Give unused blocks back."""


class CudaMemory:
    """PyTorch's allocator on one GPU; reading it waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def capacity(self) -> int:
        """What is free, what this process already has, and no more than its share of the device."""
        free, total = torch.cuda.mem_get_info(self.device)
        share = torch.cuda.get_per_process_memory_fraction(self.device) * total
        return int(min(free + torch.cuda.memory_reserved(self.device), share))

    def allocated(self) -> int:
        """Held by tensors now."""
        return torch.cuda.memory_allocated(self.device)

    def reset_peak(self) -> None:
        """Begin to watch."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        """Most held by tensors since then."""
        return torch.cuda.max_memory_allocated(self.device)

    def release(self) -> None:
        """Give unused blocks back."""
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Footprint:
    """Bytes of a step, as a function of how the batch is cut.

    Attributes:
        base: weights, gradients, optimiser state, the inputs of the whole batch, its loss.
        run_fixed: forward and backward of a micro-batch, whatever its size: the weights in half precision.
        run_per_clip: and for each of its clips.
        graph_fixed: what a micro-batch's graph holds between forward and backward, whatever its size.
        graph_per_clip: and for each of its clips.
        front_end: most that making the views of the whole batch takes, before the encoder runs.
    """

    base: int
    run_fixed: int
    run_per_clip: int
    graph_fixed: int
    graph_per_clip: int
    front_end: int = 0

    def peak(self, size: int, kept: int) -> int:
        """Predicted peak with micro-batches of `size`, `kept` of them with their graphs.

        One graph costs nothing: while others are run again, one at a time, the kept ones are gone.
        """
        run = self.run_fixed + self.run_per_clip * size
        graphs = max(0, kept - 1) * (self.graph_fixed + self.graph_per_clip * size)
        return max(self.base + run + graphs, self.front_end)


@dataclass(frozen=True)
class Plan:
    """A cut of the batch, and what is known about it."""

    batch_size: int
    micro_batch_size: int
    kept: int = 0
    couples_clips: bool = True
    predicted_bytes: int | None = None
    capacity_bytes: int | None = None

    @property
    def num_micro_batches(self) -> int:
        """K."""
        return len(micro_batches(self.batch_size, self.micro_batch_size))

    @property
    def extra_compute(self) -> float:
        """Share by which the encoder's work grows: a third for every clip that is run again.

        A backward costs two forwards, so a step is 3 and a second forward of r of n clips adds r / n: r / (3 n). With
        equal micro-batches, R of K kept, that is (1 - R / K) / 3. Losses that do not couple clips need none.
        """
        again = num_recomputed(self.batch_size, self.micro_batch_size, self.kept) if self.couples_clips else 0
        return again / self.batch_size / 3

    def text(self) -> str:
        """One line for the log."""
        number = self.num_micro_batches
        cut = f"{self.batch_size} clips at once"
        if number > 1:
            cut = f"{self.batch_size} clips in {number} micro-batches of {self.micro_batch_size}"
            if self.couples_clips:
                cut += f", {min(self.kept, number)} of which keep their graph"
        memory = "memory not measured"
        if self.predicted_bytes is not None and self.capacity_bytes is not None:
            memory = f"{self.predicted_bytes / GIB:.1f} of {self.capacity_bytes / GIB:.1f} GiB predicted"
        return f"{cut}; {memory}; {self.extra_compute:.0%} extra compute"


def plan_step(
    engine: Any,
    objective: Objective,
    wavs: Tensor,
    labels: Tensor | None,
    draws: Any,
    *,
    micro_batch_size: int | None,
    memory: Memory | None,
) -> Plan:
    """Choose how a batch like this one is cut; leaves weights, gradients and running statistics as they were.

    Args:
        engine: of the stage, before its next step.
        objective: on the engine's device.
        wavs: (B, S) of the shape that training will see; their content does not matter.
        labels: (B, C) likewise, or None.
        draws: of any step of B clips.
        micro_batch_size: a size that the user chose; None chooses it here.
        memory: the device's; None (a CPU) takes the whole batch at once unless the user chose.

    Raises:
        ValueError: nothing was chosen, and the engine cannot undo what a trial would do.
    """
    batch_size, couples = len(wavs), objective.couples_clips
    asked = None if micro_batch_size is None else min(micro_batch_size, batch_size)
    if memory is None:
        return Plan(batch_size, asked or batch_size, couples_clips=couples)
    if not engine.repeatable:
        if asked is None:
            raise ValueError(
                "micro_batch_size=auto: a step cannot be tried out with this engine, which could not undo it; set "
                "pretrain.micro_batch_size and finetune.micro_batch_size to numbers of clips (engine=torch finds some)"
            )
        return Plan(batch_size, asked, couples_clips=couples)
    try:
        footprint = measure(engine, objective, wavs, labels, draws, memory)
    finally:
        engine.forget_step()
        memory.release()
        memory.reset_peak()
    # All processes cut alike, as the one with the least memory must.
    if not all_ranks(footprint is not None) or footprint is None:
        log.warning("the memory of a step could not be measured: a few clips alone do not fit")
        return Plan(batch_size, asked or 1, couples_clips=couples)
    capacity = -int(all_reduce_max(-memory.capacity())[0])
    footprint = broadcast_object(footprint)
    size, kept = choose(footprint, batch_size, int(capacity * (1 - MARGIN)), asked=asked, can_keep=couples)
    return Plan(batch_size, size, kept, couples, footprint.peak(size, kept), capacity)


def choose(
    footprint: Footprint, batch_size: int, budget: int, *, asked: int | None = None, can_keep: bool = True
) -> tuple[int, int]:
    """The cut that runs the fewest clips twice within `budget` bytes; among equals the largest micro-batches.

    Returns:
        Micro-batch size, and how many micro-batches keep their graph.
    """
    sizes = sorted({-(-batch_size // number) for number in range(1, batch_size + 1)}, reverse=True)
    fitting = [size for size in ([asked] if asked else sizes) if footprint.peak(size, 1) <= budget]
    if not fitting:
        return asked or 1, 0  # nothing is known to fit; the step itself will tell
    if not can_keep or fitting[0] == batch_size:
        return fitting[0], 0
    usual = [size for size in fitting if size >= SMALLEST] or fitting[:1]
    cuts = [(size, most_kept(footprint, batch_size, size, budget)) for size in usual]
    return min(cuts, key=lambda cut: (num_recomputed(batch_size, *cut), batch_size % cut[0] > 0, -cut[0]))


def most_kept(footprint: Footprint, batch_size: int, size: int, budget: int) -> int:
    """R: as many graphs of micro-batches of `size` as fit within `budget`."""
    graph = footprint.graph_fixed + footprint.graph_per_clip * size
    more = (budget - footprint.peak(size, 1)) // graph if graph > 0 else batch_size
    return min(1 + more, len(micro_batches(batch_size, size)))


def measure(
    engine: Any, objective: Objective, wavs: Tensor, labels: Tensor | None, draws: Any, memory: Memory
) -> Footprint | None:
    """Try out the step's pieces; None if not even a few clips fit. The caller undoes what is left behind."""
    engine.remember_buffers()
    small = max(1, len(wavs) // 24)
    while True:
        try:
            # Compiled code would be made for these sizes and then again for the real ones.
            with eager():
                return Probe(engine, objective, wavs, labels, draws, memory).footprint(small, 2 * small)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        engine.forget_step()
        memory.release()
        if small == 1:
            return None
        small = (small + 1) // 2


def eager() -> AbstractContextManager[Any]:
    """A context in which torch.compile stands aside."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    return set_stance("force_eager") if set_stance else nullcontext()


class Probe:
    """Pieces of a step, run for what they allocate."""

    def __init__(
        self, engine: Any, objective: Objective, wavs: Tensor, labels: Tensor | None, draws: Any, memory: Memory
    ) -> None:
        self.engine, self.objective, self.labels, self.memory = engine, objective, labels, memory
        self.num_clips = len(wavs)
        memory.reset_peak()
        self.inputs = objective.prepare(wavs, draws)
        self.front_end = memory.peak()

    def footprint(self, small: int, large: int) -> Footprint:
        """Lines through the measurements of micro-batches of two sizes."""
        small, large = min(small, self.num_clips), min(large, self.num_clips)
        # Once for the gradients and the libraries' workspaces: later runs add to the same gradients, so that what they
        # take grows evenly with their clips.
        vectors, _, _ = self.run(small)
        self.score(vectors)
        loss = self.score(vectors)
        base = self.memory.allocated() + loss + pending_state(self.engine.optimizer)
        (_, run_small, graph_small), (_, run_large, graph_large) = self.run(small), self.run(large)
        run_fixed, run_per_clip = line(small, run_small, large, run_large)
        graph_fixed, graph_per_clip = line(small, graph_small, large, graph_large)
        return Footprint(base, run_fixed, run_per_clip, graph_fixed, graph_per_clip, self.front_end)

    def run(self, size: int) -> tuple[Tensor, int, int]:
        """Vectors (V, b, D) of the first clips; bytes at the peak of forward and backward, and between the two."""
        before = self.memory.allocated()
        self.memory.reset_peak()
        with self.engine.autocast():
            vectors = self.objective.represent(self.inputs, slice(0, size))
        graph = self.memory.allocated() - before
        self.engine.backward(vectors.square().mean())
        return vectors.detach(), self.memory.peak() - before, graph

    def score(self, vectors: Tensor) -> int:
        """Bytes at the peak of the whole batch's loss and its backward."""
        whole = vectors[:, :1].repeat(1, self.num_clips, 1).requires_grad_()
        before = self.memory.allocated()
        self.memory.reset_peak()
        loss, _ = self.objective.loss(whole, self.labels)
        self.engine.backward(loss)
        return self.memory.peak() - before


def line(small: int, at_small: int, large: int, at_large: int) -> tuple[int, int]:
    """Constant and slope, neither negative, through two measurements; all slope if there is only one."""
    if large == small:
        return 0, -(-at_small // small)
    slope = max(0, -(-(at_large - at_small) // (large - small)))
    return max(0, at_small - slope * small), slope


def pending_state(optimizer: Optimizer) -> int:
    """Bytes that the optimiser's first step will add for good; 0 after it."""
    tensors = STATE_TENSORS.get(type(optimizer).__name__, 2)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return sum(
        tensors * weight.numel() * weight.element_size() for weight in weights if not optimizer.state.get(weight)
    )
