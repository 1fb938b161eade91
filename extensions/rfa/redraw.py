"""Draw new random directions every so many steps: a function of (seed, layer, count).

A backend is not told of steps, and may not count its forwards: micro-batches, views and recomputation make many of one
step. So it leaves its name here when it computes with gradient, and PyTorch calls back after the optimiser's step. That
is outside every checkpointed region, hence a recomputed forward sees the directions of the first.
"""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from .features import draw_directions

WAITING: WeakSet[Directions] = WeakSet()


class Directions(nn.Module):
    """The random directions of one layer, as buffers: checkpoints and exports hold them.

    Each layer draws its own. What tells layers apart is a key from torch's global generator, which the program seeds
    before it builds a model and which stands elsewhere after each layer's weights. The generator is put back, so that
    an encoder starts from the same weights under every attention backend.

    Args:
        num_heads: H.
        head_dim: K.
        num_features: R.
        orthogonal: see `draw_directions`.
        seed: other directions for the same model seed.
        every: optimiser steps between draws, those skipped as bad included; 0 keeps the first draw.
    """

    values: Tensor
    key: Tensor
    num_steps: Tensor

    def __init__(
        self, *, num_heads: int, head_dim: int, num_features: int, orthogonal: bool, seed: int, every: int
    ) -> None:
        super().__init__()
        self.shape = (num_heads, num_features, head_dim)
        self.orthogonal, self.seed, self.every = orthogonal, seed, every
        with torch.random.fork_rng(devices=[]):
            key = torch.randint(2**62, (), device="cpu")
        self.register_buffer("key", key)
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("values", self.draw(int(key), 0))
        self.host: tuple[int, int] | None = None  # key and num_steps, so that no step waits for the device
        self.register_load_state_dict_post_hook(forget_host)

    def forward(self) -> Tensor:
        """(H, R, K); in training, an optimiser step is awaited from now on."""
        if self.every and self.training and torch.is_grad_enabled():
            WAITING.add(self)
        return self.values

    def draw(self, key: int, count: int) -> Tensor:
        """(H, R, K): draw number `count` of the layer with `key`."""
        digest = hashlib.blake2b(f"{self.seed}/{key}/{count}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
        num_heads, num_features, head_dim = self.shape
        return draw_directions(num_heads, num_features, head_dim, orthogonal=self.orthogonal, generator=generator)

    def after_step(self) -> None:
        """Count an optimiser step; draw when it is time."""
        key, steps = self.host or (int(self.key), int(self.num_steps))
        steps += 1
        self.host = (key, steps)
        # New tensors rather than in-place writes: the engine puts the buffers that it knew back after a bad step, and a
        # count that only the device knows to be undone could not be read without waiting for it.
        self.num_steps = torch.full_like(self.num_steps, steps)
        if steps % self.every == 0:
            self.values = self.draw(key, steps // self.every).to(self.values)


def forget_host(module: nn.Module, _: Any) -> None:
    """After loading, what the host knew of the buffers is old."""
    module.host = None  # type: ignore[assignment]


def after_optimizer_step(*_: Any) -> None:
    """Tell every layer that has computed with gradient since the last step."""
    layers = list(WAITING)
    WAITING.clear()
    for layer in layers:
        layer.after_step()


register_optimizer_step_post_hook(after_optimizer_step)
