"""Choose how weights made for another grid, or for images, are fitted to an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vcrast.config.words import suggest
from vcrast.models.pos_embed import bilinear_weights


class Transfer(NamedTuple):
    """How weights are fitted to an encoder.

    Attributes:
        kernels: of an image model's colours: their `sum` or `mean`.
        positions: learned ones of a larger grid: `cut` takes its middle, `stretch` shrinks it; a smaller one is
            stretched in either case.
    """

    kernels: str | None = None
    positions: str | None = None


AS_AST = Transfer()
CHOICES = {"kernels": ("sum", "mean"), "positions": ("cut", "stretch")}
"""Of each the first is what None means: as the AST's code does it."""


def transfer_of(model: Mapping[str, Any]) -> Transfer:
    """How a run's `model` options want weights fitted.

    Raises:
        ValueError: no such way, or one without effect.
    """
    found = Transfer(*(model.get(f"checkpoint_{name}") for name in CHOICES))
    for name, value in found._asdict().items():
        if value is None:
            continue
        if value not in CHOICES[name]:
            raise ValueError(f"model.checkpoint_{name}={value}: {suggest(str(value), CHOICES[name])}")
        if model.get("checkpoint") is None:
            raise ValueError(f"model.checkpoint_{name}={value}: without effect, model.checkpoint names no weights")
    if found.positions is not None and model.get("positions") == "sincos":
        raise ValueError(
            f"model.checkpoint_positions={found.positions}: without effect under model.positions=sincos, which learns "
            "none; set model.positions=learned"
        )
    return found


def refuse_kernels(transfer: Transfer, where: str) -> None:
    """Refuse to choose how colours are joined of weights that have none.

    Raises:
        ValueError: names the setting.
    """
    if transfer.kernels is not None:
        raise ValueError(f"{where}: is no image model; leave model.checkpoint_kernels={transfer.kernels} out")


def fit_positions(table: Tensor, shape: torch.Size, *, how: str | None = None) -> Tensor:
    """Learned positions (t, f, D) on another grid, each axis by itself; `how`: see `Transfer`.

    The middle of a larger one, as the AST takes it, or all of it, its ends on the ends; a smaller one is stretched.
    """
    if table.shape[2] != shape[2] or table.shape == shape:
        return table
    time, frequency = (
        bilinear_weights(places(old, new, how), old).to(table)
        for old, new in zip(table.shape[:2], shape[:2], strict=True)
    )
    return torch.einsum("ti,fj,ijd->tfd", time, frequency, table)


def places(old: int, new: int, how: str | None) -> Tensor:
    """Where the `new` entries of an axis lie among the `old` ones; (new,) float64."""
    if how == "stretch" and new > 1:
        return torch.linspace(0, old - 1, new, dtype=torch.float64)
    return torch.arange(new, dtype=torch.float64) + max(0, old // 2 - new // 2)
