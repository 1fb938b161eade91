"""Positions of patches in physical time and frequency, not by patch number.

A patch's coordinate is its start divided by the patch size. So a patch that starts at frame 160 gets the same vector in
a long and in a short clip, with overlapping patches and without.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Coordinates = tuple[Tensor, Tensor]


def patch_coordinates(grid: Sequence[int], patch_size: Sequence[int], patch_stride: Sequence[int]) -> Coordinates:
    """Starts of the patches, in patch sizes: (t,) along time and (f,) along frequency, float64."""
    time, frequency = (
        torch.arange(count, dtype=torch.float64) * stride / size
        for count, size, stride in zip(grid, patch_size, patch_stride, strict=True)
    )
    return time, frequency


def sincos_1d(coordinates: Tensor, dim: int) -> Tensor:
    """(n,) coordinates -> (n, dim): sines, then cosines, of wavelengths 2 pi to 2 pi 10000."""
    frequencies = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = coordinates.double().outer(frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(coordinates: Coordinates, dim: int) -> Tensor:
    """Coordinates (t,) and (f,) -> (t * f, dim), time-major: the first half tells the time, the second the frequency.

    Raises:
        ValueError: `dim` is not a multiple of 4.

    Source: Chen et al. 2021, arXiv:2104.02057, App. (their halves are the other way round).
    """
    if dim % 4:
        raise ValueError(f"model.embed_dim={dim}: 2-D sin-cos positions need a multiple of 4")
    time, frequency = (sincos_1d(values, dim // 2) for values in coordinates)
    return torch.cat([time.repeat_interleave(len(frequency), dim=0), frequency.repeat(len(time), 1)], dim=1)


class SinCosPositions(nn.Module):
    """Fixed 2-D sin-cos positions; no parameters, nothing in a checkpoint."""

    def __init__(self, *, embed_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        # One table per grid and device. Not a buffer: it is a constant of the code, and its size changes with the clip.
        self.tables: dict[tuple, Tensor] = {}
        sincos_2d((torch.zeros(1), torch.zeros(1)), embed_dim)

    def forward(
        self, grid: Sequence[int], patch_size: Sequence[int], patch_stride: Sequence[int], like: Tensor
    ) -> Tensor:
        """(N, D) positions on the device of `like`, at least fp32."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        key = (*grid, *patch_size, *patch_stride, like.device, dtype)
        if key not in self.tables:
            table = sincos_2d(patch_coordinates(grid, patch_size, patch_stride), self.embed_dim)
            self.tables[key] = table.to(device=like.device, dtype=dtype)
        return self.tables[key]


class LearnedPositions(nn.Module):
    """A learned vector for each patch of a reference grid, read off bilinearly in between.

    Args:
        embed_dim: D.
        grid: (t, f) patches of the reference.
        cell: (frames, mel bins) between them; None is the size of a patch.

    Within the reference length a time keeps its vector. A longer clip stretches the grid over its length, as the AST
    does with ImageNet's; so a model whose clips vary should take the longest as reference, or sin-cos positions.
    """

    def __init__(self, *, embed_dim: int, grid: Sequence[int], cell: Sequence[int] | None = None) -> None:
        super().__init__()
        self.cell = cell
        self.table = nn.Parameter(torch.empty(*grid, embed_dim))
        nn.init.trunc_normal_(self.table, std=0.02)
        # Weights of the reference grid's entries, once per grid, device and precision: copied anew in every step, they
        # would make the program wait for the GPU.
        self.weights: dict[tuple, Coordinates] = {}

    def forward(
        self, grid: Sequence[int], patch_size: Sequence[int], patch_stride: Sequence[int], like: Tensor
    ) -> Tensor:
        """(N, D) positions, in the parameter's precision."""
        cell = patch_size if self.cell is None else self.cell
        key = (*grid, *cell, *patch_stride, self.table.device, self.table.dtype)
        if key not in self.weights:
            pairs = zip(patch_coordinates(grid, cell, patch_stride), self.table.shape[:2], strict=True)
            along_time, along_frequency = (bilinear_weights(values, size).to(self.table) for values, size in pairs)
            self.weights[key] = (along_time, along_frequency)
        time, frequency = self.weights[key]
        # A product of small matrices: exact where the grids agree, and deterministic on CUDA, unlike grid_sample.
        with torch.autocast(like.device.type, enabled=False):
            return torch.einsum("ti,fj,ijd->tfd", time, frequency, self.table).flatten(0, 1)


def bilinear_weights(coordinates: Tensor, size: int) -> Tensor:
    """(n,) coordinates -> (n, size) weights of the entries of a grid at 0, 1, ..., size - 1.

    Coordinates that exceed the grid by a whole cell or more are scaled onto it; a smaller overhang reads the last
    entry.
    """
    last = size - 1
    if float(coordinates[-1]) >= size:
        coordinates = coordinates * (last / coordinates[-1])
    coordinates = coordinates.clamp(max=last)
    return (1 - (coordinates.unsqueeze(1) - torch.arange(size)).abs()).clamp_min(0)
