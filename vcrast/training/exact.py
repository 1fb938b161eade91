"""The gradient of a large batch, exactly, in the memory of a small one.

Variance, covariance and BatchNorm are statistics of the batch, so the mean of micro-batch gradients is not the batch's
gradient; after some training it does not even point the same way. Here the encoder, which needs the memory, runs in
micro-batches that keep only their result; projector and loss see the whole batch; one backward runs each micro-batch
again, with the same random numbers, when its turn comes. Several processes encode a part of the batch each and gather
the vectors; the loss is computed on all of them (`vcrast.training.dist`). The price is a second forward of the encoder,
a third more compute, and only for those micro-batches whose graph the memory cannot keep (`vcrast.training.plan` counts
them).

Source: the idea of Gao et al. 2021, arXiv:2101.06983, in one backward instead of two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vcrast.training.dist import all_ranks, average, gather_clips, world_size

log = logging.getLogger(__name__)

T = TypeVar("T")
Parts = dict[str, Tensor]


class Objective(Protocol):
    """What `exact_backward` asks of an objective."""

    couples_clips: bool

    def prepare(self, wavs: Tensor, draws: Any) -> Any:
        """All random choices and views of the batch, without gradient."""

    def represent(self, inputs: Any, clips: slice) -> Tensor:
        """(V, b, D) vectors of some clips."""

    def loss(self, vectors: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Parts]:
        """Loss and its parts, of (V, B, D)."""


class Outcome(NamedTuple):
    """Loss and parts of a step, 0-d on the device, and the cut that fitted: micro-batch size and graphs kept."""

    loss: Tensor
    parts: Parts
    micro_batch_size: int
    kept: int


def exact_backward(
    engine: Any,
    objective: Objective,
    wavs: Tensor,
    labels: Tensor | None,
    draws: Any,
    *,
    micro_batch_size: int | None,
    kept: int = 0,
) -> Outcome:
    """Compute the whole batch's loss and leave its gradients in the parameters.

    Out of memory on any process, everything is put back and the step repeated on all of them with fewer graphs kept,
    then with smaller micro-batches: its random numbers are a function of (seed, step), so it is the same step.

    Args:
        engine: gives autocast and backward.
        objective: on the engine's device.
        wavs: (B, S), or (B, 2, S) pairs; of this process's clips, equally many on each.
        labels: (B, C) likewise, or None without labels.
        draws: of this step and these clips.
        micro_batch_size: clips that the encoder sees at once; None starts with all.
        kept: how many micro-batches, the last ones, keep their graph and so run once; changes speed and memory only.

    Raises:
        ValueError: a micro-batch size below 1, or a negative `kept`.
        torch.OutOfMemoryError: not even one clip at a time fits.
    """
    size = len(wavs) if micro_batch_size is None else min(micro_batch_size, len(wavs))
    if size < 1:
        raise ValueError(f"micro_batch_size={micro_batch_size}: must be 1 or more, or auto")
    if kept < 0:
        raise ValueError(f"kept={kept}: a number of micro-batches, 0 or more")
    engine.remember_buffers()
    while True:
        outcome = attempt(engine, objective, wavs, labels, draws, size, kept)
        if outcome is not None:
            return outcome
        # Here, not where it was caught: the traceback kept the failed step's tensors alive.
        engine.forget_step()
        if wavs.is_cuda:
            torch.cuda.empty_cache()
        size, kept = retreat(size, kept if size < len(wavs) else 0, can_keep=objective.couples_clips)
        log.warning("out of memory: the step is repeated with micro_batch_size=%d, graphs kept: %d", size, kept)


def retreat(size: int, kept: int, *, can_keep: bool) -> tuple[int, int]:
    """The next cut to try when memory was short: half the kept graphs, at the end none, then half the micro-batch.

    A smaller micro-batch starts with one graph kept: the last one, whose backward comes first, needs no more room than
    running any other a second time. Where micro-batches are scored one by one there are no graphs to keep.

    Raises:
        torch.OutOfMemoryError: there is nothing left to cut.
    """
    if kept > 0 and can_keep:
        return size, kept // 2
    if size == 1:
        raise torch.OutOfMemoryError(
            "out of memory with one clip at a time; set engine.checkpoint_blocks=true, choose a smaller model, shorter "
            "clips, a larger patch_stride, attention=memory_efficient, or a smaller batch_size or projector"
        )
    return (size + 1) // 2, int(can_keep)


def attempt(
    engine: Any, objective: Objective, wavs: Tensor, labels: Tensor | None, draws: Any, size: int, kept: int
) -> Outcome | None:
    """One try with micro-batches of `size`, the last `kept` run once; None if memory was short on any process.

    Between the two halves the processes exchange vectors, after them gradients; so they agree on how each half went
    before anyone goes on.
    """
    couples = objective.couples_clips or (size >= len(wavs) and world_size() == 1)

    def first_half() -> Any:
        # What little randomness is torch's own (dropout in an extension) becomes a function of (seed, step), too.
        torch.manual_seed(draws.torch_seed())
        inputs = objective.prepare(wavs, draws)
        return encode(engine, objective, inputs, len(wavs), size, kept) if couples else inputs

    def second_half(found: Any) -> tuple[Tensor, Parts]:
        if couples:
            return score(engine, objective, found, labels)
        return one_by_one(engine, objective, found, labels, len(wavs), size)

    encoded = unless_out_of_memory(first_half)
    if not all_ranks(encoded is not None):
        return None
    scored = unless_out_of_memory(lambda: second_half(encoded))
    encoded = None  # its graph fills the memory in which a failed process still has to take part
    engine.finish_backward()
    if not all_ranks(scored is not None):
        return None
    assert scored is not None
    loss, parts = scored
    if not couples:
        loss, parts = average(loss), {name: average(part) for name, part in parts.items()}
    return Outcome(loss, parts, size, kept)


def unless_out_of_memory(work: Callable[[], T]) -> T | None:
    """What `work` returns, or None where memory did not suffice."""
    try:
        return work()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    return None


def encode(engine: Any, objective: Objective, inputs: Any, num_clips: int, size: int, kept: int = 0) -> Tensor:
    """This process's vectors, (V, b, D); micro-batches are recomputed in the backward, except the last `kept`."""

    def represent(inputs: Any, clips: slice) -> Tensor:
        # Autocast inside: casts of the weights cached over several micro-batches would add their gradients in fp16.
        with engine.autocast():
            return objective.represent(inputs, clips)

    if size >= num_clips:
        return represent(inputs, slice(0, num_clips))
    parts = micro_batches(num_clips, size)
    # The last ones: backward runs in the reverse order, so their memory is free again when others are recomputed.
    again = parts[: max(0, len(parts) - kept)]
    # `inputs` is an argument because checkpoint replays the generators of those devices that it sees tensors of.
    pieces = [checkpoint(represent, inputs, clips, use_reentrant=False) for clips in again]
    return torch.cat([*pieces, *(represent(inputs, clips) for clips in parts[len(again) :])], dim=1)


def score(engine: Any, objective: Objective, vectors: Tensor, labels: Tensor | None) -> tuple[Tensor, Parts]:
    """One loss of the vectors of all processes, the same on each; one backward."""
    together = None if labels is None else gather_clips(labels.unsqueeze(0)).squeeze(0)
    loss, parts = objective.loss(gather_clips(vectors), together)
    engine.backward(loss, last=True)
    return loss.detach(), parts


def one_by_one(
    engine: Any, objective: Objective, inputs: Any, labels: Tensor | None, batch_size: int, size: int
) -> tuple[Tensor, Parts]:
    """Add up micro-batch gradients, weighted by their clips: exact where the loss is a mean over clips."""
    total: Parts = {}
    for clips in micro_batches(batch_size, size):
        with engine.autocast():
            vectors = objective.represent(inputs, clips)
        loss, parts = objective.loss(vectors, None if labels is None else labels[clips])
        weight = (clips.stop - clips.start) / batch_size
        engine.backward(loss * weight, last=clips.stop == batch_size)
        for name, part in {"": loss.detach(), **parts}.items():
            total[name] = total.get(name, 0.0) + part * weight
    return total.pop(""), total


def micro_batches(batch_size: int, size: int) -> list[slice]:
    """Consecutive parts of the batch; the last may be smaller."""
    return [slice(start, min(start + size, batch_size)) for start in range(0, batch_size, size)]


def num_recomputed(batch_size: int, size: int, kept: int) -> int:
    """Clips that the encoder sees a second time; none where the batch is not cut."""
    parts = micro_batches(batch_size, size)
    return parts[-kept - 1].stop if 0 <= kept < len(parts) and len(parts) > 1 else 0


def out_of_memory(error: RuntimeError) -> bool:
    """Whether CUDA, or a library on it, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)
