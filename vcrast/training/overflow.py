"""Watch a step layer by layer: where does a value first leave the finite numbers?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Seen(NamedTuple):
    """What a layer computed, or the gradient of it.

    Attributes:
        name: of the layer within the objective.
        kind: its class.
        dtype: `float16` and the like.
        largest: absolute value that is finite; 0 where none is.
        num_bad: values that are not finite.
        num_nan: those of them that are NaN; the others are infinite.
        size: number of values.
        largest_input: absolute value of what the layer was given; infinite or NaN where that was. NaN of gradients.
    """

    name: str
    kind: str
    dtype: str
    largest: float
    num_bad: int
    num_nan: int
    size: int
    largest_input: float

    def __str__(self) -> str:
        what = "all" if self.num_bad == self.size else f"{self.num_bad:,} of {self.size:,}"
        kind = "infinite" if not self.num_nan else "NaN" if self.num_nan == self.num_bad else "infinite or NaN"
        bad = f"{what} values {kind}, " if self.num_bad else ""
        largest = "" if self.num_bad == self.size else f"largest |value| {self.largest:.3g}, "
        given = "" if math.isnan(self.largest_input) else f"of what it was given {self.largest_input:.3g}"
        return f"{self.name} ({self.kind}), {self.dtype}: {bad}{largest}{given}".removesuffix(", ")


@dataclass
class Trace:
    """What the layers of a step did, in the order in which they did it."""

    outputs: list[Seen] = field(default_factory=list)
    gradients: list[Seen] = field(default_factory=list)

    def first_bad(self) -> Seen | None:
        """The first layer whose output is not finite."""
        return next((seen for seen in self.outputs if seen.num_bad), None)

    def first_bad_gradient(self) -> Seen | None:
        """The first layer, from the loss back, the gradient of whose output is not finite."""
        return next((seen for seen in self.gradients if seen.num_bad), None)

    def largest(self) -> Seen | None:
        """The layer with the largest finite output."""
        return max(self.outputs, key=lambda seen: seen.largest, default=None)


@contextmanager
def traced(module: nn.Module) -> Iterator[Trace]:
    """Note what every layer computes, those inside others before these; reads the device all the time."""
    trace = Trace()
    hooks = [layer.register_forward_hook(partial(_note, trace, name)) for name, layer in module.named_modules() if name]
    try:
        yield trace
    finally:
        for hook in hooks:
            hook.remove()


def bad_tensors(state: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a value that is not finite."""
    return [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]


def _note(trace: Trace, name: str, layer: nn.Module, given: Any, output: Any) -> None:
    before = max((float(value.detach().abs().max()) for value in _tensors(given)), default=float("nan"))
    for value in _tensors(output):
        trace.outputs.append(_seen(name, layer, value.detach(), before))
        if value.requires_grad:
            value.register_hook(lambda grad: trace.gradients.append(_seen(name, layer, grad, float("nan"))))


def _seen(name: str, layer: nn.Module, value: Tensor, largest_input: float) -> Seen:
    finite = value.isfinite()
    largest = float(torch.where(finite, value, 0).abs().max())
    num_bad, num_nan = int((~finite).sum()), int(value.isnan().sum())
    dtype = str(value.dtype).removeprefix("torch.")
    return Seen(name, type(layer).__name__, dtype, largest, num_bad, num_nan, value.numel(), largest_input)


def _tensors(found: Any) -> Iterator[Tensor]:
    """All tensors of real numbers in tuples, lists and dicts."""
    if isinstance(found, Tensor):
        if found.is_floating_point() and found.numel():
            yield found
    elif isinstance(found, dict):
        for value in found.values():
            yield from _tensors(value)
    elif isinstance(found, tuple | list):
        for value in found:
            yield from _tensors(value)
