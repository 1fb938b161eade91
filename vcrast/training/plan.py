"""Choose the micro-batch size from memory measured on a few clips.

A step is a pure function and can be undone, so its memory can be tried out before the first one. What grows with the
micro-batch is measured with two sizes; a straight line through them says what any other cut would take. The prediction
may err: out of memory, `vcrast.training.exact` still takes a smaller split and repeats the step.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from vcrast.features.draws import Draws
from vcrast.objectives.base import Batch, Clips, Objective
from vcrast.training.dist import all_ranks, all_reduce_max, broadcast_object, world_size
from vcrast.training.engine_base import Engine
from vcrast.training.exact import (
    LOSS,
    WEIGHT,
    Split,
    clips_of,
    encode,
    micro_batches,
    num_recomputed,
    out_of_memory,
    weighted,
)

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

    def peak(self, split: Split) -> int:
        """Predict the peak with this split.

        Backward frees the kept graphs first, so one kept graph adds nothing to the peak.
        """
        size = split.micro_batch_size or 0
        run = self.run_fixed + self.run_per_clip * size
        graphs = max(0, split.num_kept_graphs - 1) * (self.graph_fixed + self.graph_per_clip * size)
        return max(self.base + run + graphs, self.front_end)


@dataclass(frozen=True)
class Plan:
    """A cut of the batch, and what is known about it.

    Attributes:
        batch_size: clips of this process.
        split: its `micro_batch_size` is a number.
        can_keep: graphs can be kept, and are recomputed otherwise: there are losses of the batch.
        predicted_bytes: peak, None where it was not measured.
        capacity_bytes: of the device.
    """

    batch_size: int
    split: Split
    can_keep: bool = True
    predicted_bytes: int | None = None
    capacity_bytes: int | None = None

    @property
    def num_micro_batches(self) -> int:
        """Parts that the batch is cut into."""
        return len(micro_batches(self.batch_size, self.split.micro_batch_size or self.batch_size))

    @property
    def extra_compute(self) -> float:
        """Share by which the encoder's work grows: a third for every clip that is run again.

        A backward costs two forwards, so a step is 3 and a second forward of r of n clips adds r / n: r / (3 n). Losses
        of single clips need none.
        """
        size, num_kept = self.split
        again = num_recomputed(self.batch_size, size or self.batch_size, num_kept) if self.can_keep else 0
        return again / self.batch_size / 3

    def text(self) -> str:
        """One line for the log."""
        number = self.num_micro_batches
        cut = f"{self.batch_size} clips at once"
        if number > 1:
            cut = f"{self.batch_size} clips in {number} micro-batches of {self.split.micro_batch_size}"
            if self.can_keep:
                cut += f", {min(self.split.num_kept_graphs, number)} of which keep their graph"
        memory = "memory not measured"
        if self.predicted_bytes is not None and self.capacity_bytes is not None:
            memory = f"{self.predicted_bytes / GIB:.1f} of {self.capacity_bytes / GIB:.1f} GiB predicted"
        return f"{cut}; {memory}; {self.extra_compute:.0%} extra compute"


def plan_step(
    engine: Engine,
    objective: Objective,
    batch: Batch,
    draws: Draws,
    *,
    micro_batch_size: int | None,
    memory: Memory | None,
) -> Plan:
    """Choose how a batch like this one is cut; leaves weights, gradients and running statistics as they were.

    Args:
        engine: of the stage, before its next step.
        objective: on the engine's device.
        batch: of the shapes that training will see; their content does not matter.
        draws: of any step of these clips.
        micro_batch_size: a size that the user chose; None chooses it here.
        memory: the device's; None (a CPU) takes the whole batch at once unless the user chose.

    Raises:
        ValueError: nothing was chosen, and the engine cannot undo what a trial would do.
    """
    num_clips, can_keep = len(batch.wav), bool(objective.gathered)
    asked = None if micro_batch_size is None else min(micro_batch_size, num_clips)
    if memory is None:
        return Plan(num_clips, Split(asked or num_clips), can_keep)
    if not engine.can_undo:
        if asked is None:
            raise ValueError(
                "micro_batch_size=auto: a step cannot be tried out with this engine, which could not undo it; set "
                "pretrain.micro_batch_size and finetune.micro_batch_size to numbers of clips (engine=torch finds some)"
            )
        return Plan(num_clips, Split(asked), can_keep)
    try:
        footprint = measure(engine, objective, batch, draws, memory)
    finally:
        engine.undo_backward()
        memory.release()
        memory.reset_peak()
    # All processes cut alike, as the one with the least memory must.
    if not all_ranks(footprint is not None) or footprint is None:
        log.warning("the memory of a step could not be measured: a few clips alone do not fit")
        return Plan(num_clips, Split(asked or 1), can_keep)
    capacity = -int(all_reduce_max(-memory.capacity())[0])
    footprint = broadcast_object(footprint)
    split = choose(footprint, num_clips, int(capacity * (1 - MARGIN)), asked=asked, can_keep=can_keep)
    return Plan(num_clips, split, can_keep, footprint.peak(split), capacity)


def choose(
    footprint: Footprint, batch_size: int, budget: int, *, asked: int | None = None, can_keep: bool = True
) -> Split:
    """Choose the split that runs the fewest clips twice within `budget` bytes; of equals the largest micro-batches."""
    sizes = sorted({-(-batch_size // number) for number in range(1, batch_size + 1)}, reverse=True)
    fitting = [size for size in ([asked] if asked else sizes) if footprint.peak(Split(size, 1)) <= budget]
    if not fitting:
        return Split(asked or 1)  # nothing is known to fit; the step itself will tell
    if not can_keep or fitting[0] == batch_size:
        return Split(fitting[0])
    usual = [size for size in fitting if size >= SMALLEST] or fitting[:1]
    cuts = [(size, max_kept_graphs(footprint, batch_size, size, budget)) for size in usual]
    return Split(*min(cuts, key=lambda cut: (num_recomputed(batch_size, *cut), batch_size % cut[0] > 0, -cut[0])))


def max_kept_graphs(footprint: Footprint, batch_size: int, size: int, budget: int) -> int:
    """As many graphs of micro-batches of `size` as fit within `budget`."""
    graph = footprint.graph_fixed + footprint.graph_per_clip * size
    more = (budget - footprint.peak(Split(size, 1))) // graph if graph > 0 else batch_size
    return min(1 + more, len(micro_batches(batch_size, size)))


def measure(engine: Engine, objective: Objective, batch: Batch, draws: Draws, memory: Memory) -> Footprint | None:
    """Try out the step's pieces; None if not even a few clips fit. The caller undoes what is left behind."""
    engine.remember_buffers()
    small = max(1, len(batch.wav) // 24)
    while True:
        try:
            # Compiled code would be made for these sizes and then again for the real ones.
            with torch.compiler.set_stance("force_eager"):
                return Trial(engine, objective, batch, draws, memory).footprint(small, 2 * small)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        engine.undo_backward()
        memory.release()
        if small == 1:
            return None
        small = (small + 1) // 2


class Trial:
    """Pieces of a step, run for what they allocate."""

    def __init__(self, engine: Engine, objective: Objective, batch: Batch, draws: Draws, memory: Memory) -> None:
        self.engine, self.objective, self.memory = engine, objective, memory
        self.num_clips = len(batch.wav)
        memory.reset_peak()
        with torch.no_grad():
            self.inputs = objective.prepare(batch, draws)
        self.inputs.pop(WEIGHT, None)
        self.front_end = memory.peak()

    def footprint(self, small: int, large: int) -> Footprint:
        """Draw lines through the measurements of micro-batches of two sizes."""
        small, large = min(small, self.num_clips), min(large, self.num_clips)
        # Once for the gradients and the libraries' workspaces: later runs add to the same gradients, so that what they
        # take grows evenly with their clips.
        outputs, _, _ = self.run(small)
        self.batch_losses(outputs)
        loss = self.batch_losses(outputs)
        base = self.memory.allocated() + loss + pending_state(self.engine.optimizer)
        (_, run_small, graph_small), (_, run_large, graph_large) = self.run(small), self.run(large)
        run_fixed, run_per_clip = line(small, run_small, large, run_large)
        graph_fixed, graph_per_clip = line(small, graph_small, large, graph_large)
        return Footprint(base, run_fixed, run_per_clip, graph_fixed, graph_per_clip, self.front_end)

    def run(self, size: int) -> tuple[Clips, int, int]:
        """Outputs of the first clips; bytes at the peak of forward and backward, and between the two."""
        before = self.memory.allocated()
        self.memory.reset_peak()
        encoded = encode(self.engine, self.objective, clips_of(self.inputs, slice(0, size)))
        graph = self.memory.allocated() - before
        own = weighted(encoded.losses, torch.ones(size, device=self.engine.device))
        # Any scalar that depends on everything will do.
        numbers = [value.float().square().mean() for value in encoded.outputs.values() if value.is_floating_point()]
        self.engine.backward(torch.stack([*numbers, *([own[LOSS].float()] if LOSS in own else [])]).sum())
        return {name: value.detach() for name, value in encoded.outputs.items()}, self.memory.peak() - before, graph

    def batch_losses(self, outputs: Clips) -> int:
        """Bytes at the peak of the losses of the whole batch, of all processes, and of their backward."""
        if not self.objective.gathered:
            return 0
        count = self.num_clips * world_size()
        whole = {name: repeated(value, count) for name, value in outputs.items()}
        before = self.memory.allocated()
        self.memory.reset_peak()
        self.engine.backward(self.objective.batch_losses(whole)[LOSS])
        return self.memory.peak() - before


def repeated(value: Tensor, count: int) -> Tensor:
    """(b, ...) -> (count, ...): the first clip again and again, as a leaf of the graph."""
    whole = value[:1].repeat(count, *[1] * (value.ndim - 1))
    return whole.requires_grad_() if whole.is_floating_point() else whole


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
