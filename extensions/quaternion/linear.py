"""`linear=quaternion`: the Hamilton-product linear layer, a quarter of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vcrast.config.registry import LINEARS
from vcrast.models.attention import cast_once

from .hamilton import hamilton_block
from .init import component_std, polar_


@LINEARS.register("quaternion")
class QuaternionLinear(nn.Module):
    """y = W x + b, where W is a matrix of quaternions and x a vector of them; four adjacent channels are one.

    The real matrix is built once a forward from its four parts and multiplied once: sixteen small products would be
    slower, and the algorithms with eight of them trade that for copies of activations. The bias is real, one number a
    channel.

    Args:
        in_features: a multiple of 4.
        out_features: likewise.
        init: `glorot`, which keeps the variance of activations and gradients in the middle, or `he`, of activations
            before a ReLU.

    Raises:
        ValueError: a size that is no multiple of 4, or no such `init`.

    Source: Parcollet et al. 2019, arXiv:1806.04418, Sec. 3; they put all real parts first, see `hamilton_block`.
    """

    def __init__(self, *, in_features: int, out_features: int, init: str) -> None:
        super().__init__()
        check_sizes("quaternion", in_features, out_features, 4)
        self.in_features, self.out_features, self.init = in_features, out_features, init
        # Four matrices rather than one array: optimisers decay and adapt what has two dimensions, each by itself.
        self.r, self.i, self.j, self.k = (
            nn.Parameter(torch.empty(out_features // 4, in_features // 4)) for _ in range(4)
        )
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh random weights; the bias is 0."""
        polar_(self.parts, component_std(self.in_features, self.out_features, self.init))
        nn.init.zeros_(self.bias)

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """r, i, j, k, each (out / 4, in / 4)."""
        return self.r, self.i, self.j, self.k

    def weight(self) -> Tensor:
        """The real matrix (out, in), in autocast's precision where it is on."""
        # Cast first: a quarter of the numbers, and the matrix is built in two bytes a number.
        return hamilton_block(*(cast_once(part) for part in self.parts))

    def forward(self, values: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return functional.linear(values, self.weight(), self.bias)

    def extra_repr(self) -> str:
        """Sizes, for print."""
        return f"in_features={self.in_features}, out_features={self.out_features}, init={self.init}"


def check_sizes(name: str, in_features: int, out_features: int, n: int) -> None:
    """Refuse a layer whose channels cannot be grouped into numbers of n components.

    Raises:
        ValueError: names the layer's sizes and the settings that decide them.
    """
    wrong = [size for size in (in_features, out_features) if size < 1 or size % n]
    if wrong:
        raise ValueError(
            f"linear={name}: a layer of {in_features} -> {out_features} channels needs both to be multiples of {n}, "
            f"{wrong[0]} is not; set model.embed_dim and model.embed_dim * model.mlp_ratio to multiples of {n}, or "
            "linear=real"
        )
