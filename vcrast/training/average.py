"""Average the weights of a training over its steps, beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vcrast.objectives.ema import move_towards

Weights = dict[str, Tensor]
"""Trained weights and buffers by name."""


class WeightAverage:
    """Exponential moving average of a module's trained weights and buffers.

    After step t (from 1) each average is d average + (1 - d) weight with d = min(decay, t / (9 + t)), so that the first
    steps are not dominated by the weights that training began with.

    Args:
        module: whose weights are averaged; frozen ones are left out.
        decay: in (0, 1): 0.999 looks back over about 1000 steps.

    Raises:
        ValueError: `decay` is not in (0, 1).

    Source: Polyak and Juditsky 1992, doi:10.1137/0330046; the warm-up is TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        check_decay("ema_decay", decay)
        self.module, self.decay, self.steps = module, decay, 0
        self.weights = copy_weights(module)

    def follow(self, skipped: Tensor) -> None:
        """Move towards the weights after a step; `skipped` () bool on the device: the step was not finite."""
        self.steps += 1
        momentum = min(self.decay, self.steps / (9 + self.steps))
        move_towards(self.weights.values(), trained(self.module).values(), momentum, skipped)

    def state_dict(self) -> dict[str, object]:
        """All that the next step depends on, on the CPU."""
        return {"steps": self.steps, "weights": {name: value.cpu() for name, value in self.weights.items()}}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a saved state."""
        steps, weights = state["steps"], state["weights"]
        assert isinstance(steps, int)
        assert isinstance(weights, dict)
        self.steps = steps
        for name, value in weights.items():
            self.weights[name].copy_(value)


def check_decay(setting: str, decay: float | None) -> None:
    """Refuse a decay that averages nothing or everything; None is fine.

    Raises:
        ValueError: names the setting.
    """
    if decay is not None and not 0 < decay < 1:
        raise ValueError(f"{setting}={decay}: must lie between 0 and 1; null averages nothing")


def trained(module: nn.Module) -> Weights:
    """The weights that take a gradient, and saved buffers of floating point, by name; not copied."""
    saved = module.state_dict(keep_vars=True)
    return {
        name: value
        for name, value in saved.items()
        if value.is_floating_point() and (value.requires_grad or not isinstance(value, nn.Parameter))
    }


def copy_weights(module: nn.Module) -> Weights:
    """A copy of `trained`, where the weights are."""
    return {name: value.detach().clone() for name, value in trained(module).items()}


@torch.no_grad()
def put_weights(module: nn.Module, weights: Weights) -> None:
    """Write `weights` over those of the module."""
    own = trained(module)
    for name, value in weights.items():
        own[name].copy_(value)


@contextmanager
def lent(module: nn.Module, weights: Weights) -> Iterator[None]:
    """Put other weights into the module for the time of the block."""
    before = copy_weights(module)
    put_weights(module, weights)
    try:
        yield
    finally:
        put_weights(module, before)
