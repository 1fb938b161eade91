"""LINEARS: layers that may stand for `nn.Linear`; the plain one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from vcrast.config.registry import LINEARS


def build_linear(options: Mapping[str, Any], in_features: int, out_features: int) -> nn.Module:
    """A linear layer (..., in_features) -> (..., out_features) of the chosen type."""
    return LINEARS.build(options, in_features=in_features, out_features=out_features)


@LINEARS.register("real")
class RealLinear(nn.Linear):
    """`nn.Linear`, initialised as in timm's ViT and so in the AST: normal of std 0.02 cut at +-2, bias 0.

    A linear type owns its initialisation: a quaternion weight wants another.
    """

    def __init__(self, *, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Fresh random weights."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)
