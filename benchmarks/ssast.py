"""Time SSAST's pretraining step as released beside ours, in one process, taking turns.

As released: two forwards of all tokens with masks of their own (one for InfoNCE, one for 10 x MSE), masks and losses in
Python loops over the clips, fp32, attention written out, Adam. The loader makes its filterbanks; our step makes its own
two views, work that theirs is not timed with.

Source: the description of Gong et al. 2022, arXiv:2110.09784, and of the authors' program; none of it is copied.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.flops import block_flops
from benchmarks.machine import matmul_peak, seconds_each
from benchmarks.training import SMALL, build_training
from vcrast.config.compose import compose

COLUMNS = ("step", "precision", "tokens", "clips/s", "ms", "TFLOP/s", "of matmul", "to SSAST")
PATCH = 16
MASKED = 400 / 512  # of the tokens


class ReleasedBlock(nn.Module):
    """Pre-norm block with the softmax written out, as timm's of that time."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        hidden = round(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        tokens = tokens + self.out((weights @ v).transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.norm2(tokens))


class ReleasedSSAST(nn.Module):
    """Encoder with class and distillation token, learned positions, mask token, and the two heads.

    Args:
        model: D, depth, H and the MLP's ratio.
        grid: patches along time and frequency.
    """

    def __init__(self, model: Mapping[str, Any], grid: tuple[int, int]) -> None:
        super().__init__()
        dim, self.grid = model["embed_dim"], grid
        self.embed = nn.Conv2d(1, dim, PATCH, PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn(1, grid[0] * grid[1] + 2, dim))
        self.first = nn.Parameter(0.02 * torch.randn(1, 2, dim))
        self.mask_token = nn.Parameter(0.02 * torch.randn(dim))
        self.blocks = nn.Sequential(
            *(ReleasedBlock(dim, model["num_heads"], model["mlp_ratio"]) for _ in range(model["depth"])),
            nn.LayerNorm(dim, eps=1e-6),
        )
        heads = (nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, PATCH * PATCH)) for _ in range(2))
        self.discriminate, self.generate = heads

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, F) -> the loss."""
        patches = functional.unfold(fbank.unsqueeze(1), PATCH, stride=PATCH).transpose(1, 2)
        total = fbank.new_zeros(())
        for head, masks in ((self.discriminate, self.masks(fbank)), (self.generate, self.masks(fbank))):
            predicted = head(self.encode(fbank, masks))
            for clip, index in enumerate(masks):
                found, target = predicted[clip, index], patches[clip, index]
                if head is self.discriminate:
                    loss = functional.cross_entropy(target @ found.T, torch.arange(len(index), device=fbank.device))
                else:
                    loss = 10 * functional.mse_loss(found, target)
                total = total + loss / len(fbank)
        return total

    def encode(self, fbank: Tensor, masks: list[Tensor]) -> Tensor:
        """(B, T, F) -> (B, N, D): all tokens run through the blocks, the masked ones as the mask token."""
        tokens = self.embed(fbank.unsqueeze(1)).flatten(2).transpose(1, 2)
        hidden = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        for clip, index in enumerate(masks):
            hidden[clip, index] = True
        tokens = torch.where(hidden.unsqueeze(2), self.mask_token, tokens)
        tokens = torch.cat([self.first.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        return self.blocks(tokens)[:, 2:]

    def masks(self, fbank: Tensor) -> list[Tensor]:
        """For each clip the masked tokens, (M,): squares of 3 to 5 patches a side until there are enough."""
        times, bins = self.grid
        wanted = round(times * bins * MASKED)
        found = []
        for _ in range(len(fbank)):
            side, chosen = random.randint(3, 5), dict[int, None]()
            while len(chosen) < wanted:
                start = random.randrange(times * bins)
                for row in range(side):
                    for column in range(side):
                        index = start + bins * row + column
                        if index < times * bins:
                            chosen[index] = None
            found.append(torch.tensor(list(chosen)[:wanted], device=fbank.device))
        return found


def released_flops(model: Mapping[str, Any], grid: tuple[int, int], batch_size: int) -> int:
    """Forward and backward of the two forwards' blocks and patches; heads are below 2 %."""
    num_tokens = grid[0] * grid[1]
    blocks = model["depth"] * block_flops(model["embed_dim"], model["mlp_ratio"], num_tokens + 2)
    return batch_size * 2 * (3 * blocks + 2 * 2 * num_tokens * PATCH**2 * model["embed_dim"])


class Side(NamedTuple):
    """One of those that take turns."""

    name: str
    precision: str
    tokens: int
    flops: int
    step: Callable[[int], object]


def released(arguments: argparse.Namespace, device: torch.device) -> Side:
    """SSAST's step."""
    model = compose([f"model={arguments.model}", *(SMALL if arguments.small else ())]).model
    grid = (arguments.frames[0] // PATCH, 128 // PATCH)
    torch.manual_seed(0)
    random.seed(0)
    module = ReleasedSSAST(model, grid).to(device)
    optimizer = torch.optim.Adam(module.parameters(), 1e-4, betas=(0.95, 0.999), weight_decay=5e-7)
    fbank = torch.randn(arguments.batch, grid[0] * PATCH, 128, device=device).mul(0.5)

    def step(_: int) -> None:
        loss = module(fbank)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return Side("SSAST as released", "fp32", grid[0] * grid[1], released_flops(model, grid, arguments.batch), step)


def ours(arguments: argparse.Namespace, device: torch.device, precision: str, drop: float) -> Side:
    """Our step in one precision with a share of the tokens dropped."""
    words = [
        f"model={arguments.model}", f"views.patch_drop={drop}",
        f"objective.projector_dims={[arguments.projector] * 3}", *(SMALL if arguments.small else ()),
    ]  # fmt: skip
    training = build_training(compose(words), num_frames=arguments.frames[0], precision=precision, device=device)
    wavs = training.noise(arguments.batch)
    num_tokens = training.objective.encoder.num_tokens(arguments.frames[0])
    name = "VCR, all tokens" if drop == 0 else f"VCR, {drop:.0%} dropped"
    kept = num_tokens - round(num_tokens * drop)
    return Side(name, precision, kept, training.flops(arguments.batch), lambda n: training.step(wavs, n))


def compare(arguments: argparse.Namespace, device: torch.device, precision: str, size: int) -> list[list[str]]:
    """Rows of the table.

    Args:
        arguments: of step.py.
        device: where all run.
        precision: that `auto` stands for; shown beside fp32 where it is another.
        size: of the square matrices whose product says what the device can do, measured between the steps.
    """
    drops = (0.0, arguments.patch_drop or 0.5)
    sides = [released(arguments, device)]
    sides += [ours(arguments, device, each, drop) for each in dict.fromkeys(("fp32", precision)) for drop in drops]
    times: list[list[float]] = [[] for _ in sides]
    peaks = dict.fromkeys(("fp32", precision), 0.0)
    for number in range(arguments.warmup + arguments.steps):
        peaks = {each: max(peak, matmul_peak(device, each, size)) for each, peak in peaks.items()}
        for side, taken in zip(sides, times, strict=True):
            taken.append(seconds_each(side.step, times=1, device=device, first=number))
    best = [min(taken[arguments.warmup :]) for taken in times]
    return [
        [
            side.name, side.precision, str(side.tokens), f"{arguments.batch / seconds:.1f}", f"{1000 * seconds:.1f}",
            f"{side.flops / seconds / 1e12:.3g}", f"{side.flops / seconds / peaks[side.precision]:.1%}",
            f"{best[0] / seconds:.2f}x",
        ]
        for side, seconds in zip(sides, best, strict=True)
    ]  # fmt: skip
