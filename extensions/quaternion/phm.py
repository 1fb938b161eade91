"""`linear=phm`: hypercomplex multiplication with a learned table, 1/n of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vcrast.config.registry import LINEARS
from vcrast.models.attention import cast_once

from .hamilton import kronecker_block, multiplication
from .init import component_std
from .linear import check_sizes


@LINEARS.register("phm")
class PHMLinear(nn.Module):
    """y = W x + b with W = sum over m = 1..n of A_m ⊗ F_m: small matrices A of n x n say how components combine.

    n³ + in * out / n numbers and a real bias. n = 1 is a plain layer, n = 4 with A fixed to Hamilton's table the
    quaternion layer, to the last bit. A starts at a known table (`multiplication`) and F normal: each entry of W is one
    entry of F, up to its sign, so W has exactly Glorot's or He's variance. (With n³ random numbers in A it would only
    have it on average, and with n = 2 that is eight numbers.)

    Args:
        in_features: a multiple of n.
        out_features: likewise.
        n: components of a number.
        init: `glorot` or `he`.
        learn_rules: whether A is learned, as in the paper, or stays as it starts.

    Raises:
        ValueError: sizes that n does not divide, n below 1, or no such `init`.

    Source: Zhang et al. 2021, arXiv:2102.08597, Sec. 3. Channels are grouped as in the quaternion layer, n adjacent
    ones a number: F_m ⊗ A_m in the order of `torch.kron`. The paper starts all weights like those of a plain layer.
    """

    table: Tensor

    def __init__(self, *, in_features: int, out_features: int, n: int, init: str, learn_rules: bool) -> None:
        super().__init__()
        if n < 1:
            raise ValueError(f"linear.n={n}: a number has at least one component; usual are 2, 4, 8")
        check_sizes(f"phm linear.n={n}", in_features, out_features, n)
        self.in_features, self.out_features, self.n, self.init = in_features, out_features, n, init
        self.learn_rules = learn_rules
        self.factors = nn.ParameterList(torch.empty(out_features // n, in_features // n) for _ in range(n))
        if learn_rules:
            self.rules = nn.ParameterList(torch.empty(n, n) for _ in range(n))
        else:
            # Not saved: a checkpoint holds what was learned, and n says what these are.
            self.register_buffer("table", multiplication(n), persistent=False)
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fresh random factors; the bias is 0, learned rules are put back to their table."""
        std = component_std(self.in_features, self.out_features, self.init)
        for factor in self.factors:
            nn.init.normal_(factor, std=std)
        if self.learn_rules:
            for rule, start in zip(self.rules, multiplication(self.n), strict=True):
                rule.copy_(start)
        nn.init.zeros_(self.bias)

    def weight(self) -> Tensor:
        """The real matrix (out, in), in autocast's precision where it is on."""
        rules = self.rules if self.learn_rules else self.table  # n of (n, n) either way
        return kronecker_block([cast_once(rule) for rule in rules], [cast_once(factor) for factor in self.factors])

    def forward(self, values: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return functional.linear(values, self.weight(), self.bias)

    def extra_repr(self) -> str:
        """Sizes, for print."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, n={self.n}, init={self.init}"
        return sizes if self.learn_rules else f"{sizes}, learn_rules=False"
