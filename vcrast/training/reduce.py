"""Average the gradients of all processes while the backward is still running."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from vcrast.training.dist import running, waiting_for, world_size

BUCKET_BYTES = 2**25  # large enough for the network's full speed, small enough that the first one leaves early


class GradientAverage:
    """Gradients travel in buckets, the last layers' first, as soon as all of a bucket are there.

    Unlike DistributedDataParallel, whose buckets start with the first backward, it is told which backward is the
    step's last, and a process that fails in the middle can still send what the others wait for: so that all of them
    find out together and repeat the step (`vcrast.training.exact`).

    Args:
        parameters: the same on every process, in the same order.
        bucket_bytes: of gradients that travel together.
    """

    def __init__(self, parameters: Sequence[Tensor], *, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.buckets = in_buckets(parameters, bucket_bytes) if running() else []
        self.armed = False
        self.missing: list[int] = []
        self.sent: list[tuple[list[Tensor], Tensor, distributed.Work]] = []
        for number, bucket in enumerate(self.buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(lambda _, number=number: self._arrived(number))

    def arm(self) -> None:
        """The next backward is the last of the step."""
        self.armed = bool(self.buckets)
        self.missing = [len(bucket) for bucket in self.buckets]
        self.sent = []

    def finish(self) -> None:
        """Send what has not left yet and wait for all; afterwards `.grad` are the averages.

        Call it on every process after an armed backward, also where that failed. A parameter without a gradient stays
        without: the graph is the same everywhere. After a failure gradients are meaningless and must be forgotten.
        """
        if not self.armed:
            return
        self.armed = False
        while len(self.sent) < len(self.buckets):
            self._send()
        with waiting_for("the average of gradients"):
            for bucket, flat, work in self.sent:
                work.wait()
                give_back(bucket, flat)
        self.sent = []

    def _arrived(self, number: int) -> None:
        if not self.armed:
            return
        self.missing[number] -= 1
        # In a fixed order: the processes' exchanges are matched by it.
        while len(self.sent) < len(self.buckets) and self.missing[len(self.sent)] <= 0:
            self._send()

    def _send(self) -> None:
        bucket = self.buckets[len(self.sent)]
        # Where none arrived, or a backward failed, zeros fill the place: the sizes must agree.
        flat = torch.cat([
            (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
            for parameter in bucket
        ])  # fmt: skip
        flat /= world_size()
        with waiting_for("the average of gradients"):
            work = distributed.all_reduce(flat, async_op=True)
        self.sent.append((bucket, flat, work))


def in_buckets(parameters: Sequence[Tensor], bucket_bytes: int) -> list[list[Tensor]]:
    """Trainable parameters from the last to the first, in groups of one dtype and about `bucket_bytes`."""
    buckets: list[list[Tensor]] = []
    size = 0
    for parameter in reversed([parameter for parameter in parameters if parameter.requires_grad]):
        new = not buckets or size + parameter.nbytes > bucket_bytes or buckets[-1][0].dtype != parameter.dtype
        if new:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.nbytes
    return buckets


def give_back(bucket: Sequence[Tensor], flat: Tensor) -> None:
    """Let the gradients be views of the averaged bucket: no copy."""
    pieces = flat.split([parameter.numel() for parameter in bucket])
    for parameter, piece in zip(bucket, pieces, strict=True):
        if parameter.grad is not None:
            parameter.grad = piece.view_as(parameter)
