"""The gradient of a large batch in the memory of a small one, exactly.

Variance, covariance and BatchNorm are statistics of the batch, so the mean of micro-batch gradients is not the batch's
gradient; after some training it does not even point the same way. Here the encoder, which needs the memory, runs in
micro-batches under checkpointing; the losses of the batch see the representations of all clips of all processes; one
backward recomputes each micro-batch with the same random numbers. Losses of single clips are computed inside the
micro-batches and summed. The price is a second forward of the encoder, a third more compute, and only for those
micro-batches whose graph the memory cannot keep (`vcrast.training.plan` counts them).

Source: the idea of Gao et al. 2021, arXiv:2101.06983, in one backward instead of two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vcrast.features.draws import Draws
from vcrast.objectives.base import WEIGHT, Batch, Clips, Losses, Objective
from vcrast.training.dist import all_ranks, average, gather_clips, world_size
from vcrast.training.engine_base import Engine

log = logging.getLogger(__name__)

T = TypeVar("T")
LOSS = "loss"


class Split(NamedTuple):
    """How this process's part of a batch is cut.

    Attributes:
        micro_batch_size: clips that the encoder sees at once; None is all.
        num_kept_graphs: so many micro-batches, the last ones, keep their graph and run once: speed and memory only.
    """

    micro_batch_size: int | None = None
    num_kept_graphs: int = 0


class Outcome(NamedTuple):
    """Loss and parts of a step, 0-d on the device, and the split that fitted."""

    loss: Tensor
    parts: Losses
    split: Split


class Encoded(NamedTuple):
    """What some clips became: outputs for the losses of the batch, and the losses (b,) of the clips themselves."""

    outputs: Clips
    losses: Losses


def exact_backward(engine: Engine, objective: Objective, batch: Batch, draws: Draws, split: Split) -> Outcome:
    """Compute the whole batch's loss and leave its gradients in the parameters.

    Out of memory on any process, everything is put back and the step repeated on all of them with fewer graphs kept,
    then with smaller micro-batches: its random numbers are a function of (seed, step), so it is the same step.

    Args:
        engine: gives autocast and backward.
        objective: on the engine's device.
        batch: this process's clips, equally many on each.
        draws: of this step and these clips.
        split: where to start.

    Raises:
        ValueError: a micro-batch size below 1, or a negative number of graphs.
        torch.OutOfMemoryError: not even one clip at a time fits.
    """
    num_clips = len(batch.wav)
    split = checked(split, num_clips)
    engine.remember_buffers()
    while True:
        outcome = try_step(engine, objective, batch, draws, split)
        if outcome is not None:
            return outcome
        # Here, not where it was caught: the traceback kept the failed step's tensors alive.
        engine.undo_backward()
        if batch.wav.is_cuda:
            torch.cuda.empty_cache()
        split = next_smaller_split(split, num_clips, can_keep=bool(objective.gathered))
        log.warning(
            "out of memory: the step is repeated with micro_batch_size=%d, graphs kept: %d", split.micro_batch_size,
            split.num_kept_graphs,
        )  # fmt: skip


def checked(split: Split, num_clips: int) -> Split:
    """The split with its size filled in and cut to the batch; errors as in `exact_backward`."""
    size, num_kept = split
    size = num_clips if size is None else min(size, num_clips)
    if size < 1:
        raise ValueError(f"micro_batch_size={split.micro_batch_size}: must be 1 or more, or auto")
    if num_kept < 0:
        raise ValueError(f"num_kept_graphs={num_kept}: a number of micro-batches, 0 or more")
    return Split(size, num_kept)


def next_smaller_split(split: Split, num_clips: int, *, can_keep: bool) -> Split:
    """Halve the kept graphs, at the end to none, then the micro-batch: what to try when memory was short.

    A smaller micro-batch starts with one graph kept: the last one, whose backward comes first, needs no more room than
    running any other a second time. Without losses of the batch there are no graphs to keep.

    Raises:
        torch.OutOfMemoryError: there is nothing left to cut.
    """
    size = num_clips if split.micro_batch_size is None else split.micro_batch_size
    num_kept = split.num_kept_graphs if size < num_clips else 0
    if num_kept > 0 and can_keep:
        return Split(size, num_kept // 2)
    if size == 1:
        raise torch.OutOfMemoryError(
            "out of memory with one clip at a time; set engine.checkpoint_blocks=true, choose a smaller model, shorter "
            "clips, a larger patch_stride, attention=memory_efficient, or a smaller batch_size or projector"
        )
    return Split((size + 1) // 2, int(can_keep))


def try_step(engine: Engine, objective: Objective, batch: Batch, draws: Draws, split: Split) -> Outcome | None:
    """Run one forward and backward; None if memory was short on any process.

    Between the two halves the processes exchange representations, after them gradients; so they agree on how each half
    went before anyone goes on.
    """
    num_clips = len(batch.wav)

    def forward() -> tuple[Clips, Tensor, Encoded | None]:
        # What little randomness is torch's own (dropout in an extension) becomes a function of (seed, step), too.
        torch.manual_seed(draws.torch_seed())
        with torch.no_grad():
            inputs = objective.prepare(batch, draws)
        weight = inputs.pop(WEIGHT, None)
        if weight is None:
            weight = torch.full((num_clips,), 1 / draws.batch_size, dtype=torch.float64, device=batch.wav.device)
        encoded = encode_batch(engine, objective, inputs, num_clips, split) if objective.gathered else None
        return inputs, weight, encoded

    def backward(prepared: tuple[Clips, Tensor, Encoded | None]) -> tuple[Losses, Losses]:
        inputs, weight, encoded = prepared
        if encoded is None:
            return {}, accumulate(engine, objective, inputs, weight, num_clips, split)
        return loss_backward(engine, objective, encoded, weight)

    prepared = unless_out_of_memory(forward)
    if not all_ranks(prepared is not None) or prepared is None:
        return None
    found = unless_out_of_memory(partial(backward, prepared))
    prepared = None  # its graph fills the memory in which a failed process still has to take part
    engine.finish_backward()
    if not all_ranks(found is not None) or found is None:
        return None
    # Summed only now: a process that had run out of memory would not have come.
    of_batch, of_clips = found
    losses = added(of_batch, totals(of_clips))
    return Outcome(losses.pop(LOSS), losses, split)


def unless_out_of_memory(work: Callable[[], T]) -> T | None:
    """What `work` returns, or None where memory did not suffice."""
    try:
        return work()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    return None


def encode(engine: Engine, objective: Objective, inputs: Clips) -> Encoded:
    """Represent some clips and compute the losses that are their own."""
    # Autocast inside: casts of the weights cached over several micro-batches would add their gradients in fp16.
    with engine.autocast():
        outputs = objective.represent(inputs)
    losses = objective.clip_losses(outputs)
    return Encoded({name: outputs[name] for name in objective.gathered}, losses)


def encode_batch(engine: Engine, objective: Objective, inputs: Clips, num_clips: int, split: Split) -> Encoded:
    """Encode this process's clips; micro-batches are recomputed in the backward, except the last ones."""
    size, num_kept = checked(split, num_clips)
    if size is None or size >= num_clips:
        return encode(engine, objective, inputs)
    parts = micro_batches(num_clips, size)
    # The last ones: backward runs in the reverse order, so their memory is free again when others are recomputed.
    again = parts[: max(0, len(parts) - num_kept)]
    # `inputs` is an argument because checkpoint replays the generators of those devices that it sees tensors of.
    pieces = [
        checkpoint(encode, engine, objective, clips_of(inputs, clips), use_reentrant=False) for clips in again
    ] + [encode(engine, objective, clips_of(inputs, clips)) for clips in parts[len(again) :]]
    return Encoded(*(joined([piece[kind] for piece in pieces]) for kind in range(2)))


def joined(pieces: list[Clips]) -> Clips:
    """The pieces in one, along the clips."""
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def clips_of(inputs: Clips, clips: slice) -> Clips:
    """Some clips of every tensor."""
    return {name: value[clips] for name, value in inputs.items()}


def loss_backward(engine: Engine, objective: Objective, encoded: Encoded, weight: Tensor) -> tuple[Losses, Losses]:
    """One loss and one backward: of the representations of all processes, and of this one's own clips.

    Returns:
        The losses of the batch, the same on all processes, and this process's part of those of clips.
    """
    found = objective.batch_losses({name: gather_clips(value) for name, value in encoded.outputs.items()})
    own = weighted(encoded.losses, weight)
    # Gradients are averaged over the processes; the losses of single clips are a sum over them.
    loss = sum((each[LOSS] * factor for each, factor in ((found, 1), (own, world_size())) if LOSS in each), start=0.0)
    assert isinstance(loss, Tensor), f"{type(objective).__name__} has no loss"
    engine.backward(loss, last=True)
    return detached(found), detached(own)


def accumulate(
    engine: Engine, objective: Objective, inputs: Clips, weight: Tensor, num_clips: int, split: Split
) -> Losses:
    """Add up the gradients of micro-batches, exact for losses of single clips; returns this process's part of those."""
    total: Losses = {}
    size, _ = checked(split, num_clips)
    assert size is not None
    for clips in micro_batches(num_clips, size):
        own = weighted(encode(engine, objective, clips_of(inputs, clips)).losses, weight[clips])
        engine.backward(own[LOSS] * world_size(), last=clips.stop == num_clips)
        total = added(total, detached(own))
    return total


def weighted(losses: Losses, weight: Tensor) -> Losses:
    """(b,) losses of clips -> their 0-d sums with `weight` (b,)."""
    return {name: (value * weight.to(value.dtype)).sum() for name, value in losses.items()}


def detached(losses: Losses) -> Losses:
    """The same numbers without their graph."""
    return {name: value.detach() for name, value in losses.items()}


def added(one: Losses, other: Losses) -> Losses:
    """Entry by entry; what only one has stays."""
    both = (one, other)
    return {name: torch.stack([each[name] for each in both if name in each]).sum() for name in {**one, **other}}


def totals(losses: Losses) -> Losses:
    """0-d losses summed over the processes, in one exchange."""
    if not losses or world_size() == 1:
        return losses
    sums = average(torch.stack(list(losses.values()))) * world_size()
    return dict(zip(losses, sums.unbind(), strict=True))


def micro_batches(batch_size: int, size: int) -> list[slice]:
    """Consecutive parts of the batch; the last may be smaller."""
    return [slice(start, min(start + size, batch_size)) for start in range(0, batch_size, size)]


def num_recomputed(batch_size: int, size: int, num_kept_graphs: int) -> int:
    """Clips that the encoder sees a second time; none where the batch is not cut."""
    parts = micro_batches(batch_size, size)
    return parts[-num_kept_graphs - 1].stop if 0 <= num_kept_graphs < len(parts) and len(parts) > 1 else 0


def out_of_memory(error: RuntimeError) -> bool:
    """Whether CUDA, or a library on it, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)
