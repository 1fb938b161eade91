"""OPTIMS: AdamW and LARS, and the groups that tell which parameter gets what decay and rate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from vcrast.config.registry import OPTIMS
from vcrast.training.lars import Lars


@OPTIMS.register("adamw")
def adamw(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: Sequence[float],
    eps: float,
    layer_decay: float,
) -> Optimizer:
    """AdamW; parameters of one dimension or none (biases, norms, mask token) are not decayed.

    Args:
        module: what to train; move it to its device first.
        lr: after warm-up.
        weight_decay: decoupled, times the rate.
        betas: of the two running means; (0.9, 0.95) as in AudioMAE's and MAE's pretraining.
        eps: in the denominator.
        layer_decay: factor of the rate from each block to the one below it, in (0, 1]; 1 for none.
    """
    groups = parameter_groups(module, weight_decay=weight_decay, layer_decay=layer_decay)
    # The fused kernel is also the one that can skip a step on the device (`found_inf`), which the engine relies on.
    beta1, beta2 = betas
    return AdamW(groups, lr=lr, betas=(float(beta1), float(beta2)), eps=eps, fused=True)


@OPTIMS.register("lars")
def lars(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    trust_coeff: float,
    layer_decay: float,
) -> Optimizer:
    """LARS with the VICReg authors' groups: one-dimensional parameters are neither decayed nor adapted.

    Raises:
        ValueError: `lr` is 0, as the thesis prints it: the authors' code overwrites that placeholder at every step.
    """
    if not lr > 0:
        raise ValueError(f"optim.lr={lr}: LARS learns nothing at rate 0; the authors use 0.2 per batch of 256")
    groups = parameter_groups(module, weight_decay=weight_decay, layer_decay=layer_decay)
    for group in groups:
        group["adapt"] = group["params"][0].ndim > 1
    return Lars(groups, lr=lr, weight_decay=weight_decay, momentum=momentum, trust_coeff=trust_coeff)


def layer_decay_adamw(module: nn.Module, *, lr: float, weight_decay: float, layer_decay: float) -> Optimizer:
    """AdamW for finetuning: lower layers, which hold general features, learn more slowly.

    Source: Clark et al. 2020, arXiv:2003.10555; betas (0.9, 0.999) as in MAE's and AudioMAE's finetuning.
    """
    return adamw(module, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.999), eps=1e-8, layer_decay=layer_decay)


def parameter_groups(module: nn.Module, *, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Groups of equal decay and rate.

    Returns:
        Groups with `params`, `names`, `weight_decay` (0 for parameters of at most one dimension) and `lr_scale`, by
        which the engine multiplies the step's rate: `layer_decay ** (depth + 1 - layer)`.

    Raises:
        ValueError: nothing to train, or `layer_decay` out of range.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay={layer_decay}: must lie in (0, 1]; 1 switches it off")
    named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    if not named:
        raise ValueError("nothing to train: no parameter requires a gradient")
    depth = 1 + max((int(found[1]) for name, _ in named if (found := BLOCK.search(name))), default=-1)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, weight in named:
        layer = layer_of(name, depth) if layer_decay < 1 else depth + 1
        decayed = weight.ndim > 1
        group = groups.setdefault(
            (layer, decayed),
            {
                "params": [],
                "names": [],
                "weight_decay": weight_decay if decayed else 0.0,
                "lr_scale": layer_decay ** (depth + 1 - layer),
            },
        )
        group["params"].append(weight)
        group["names"].append(name)
    return list(groups.values())


BLOCK = re.compile(r"(?:^|\.)encoder\.blocks\.(\d+)\.")
LOWEST = re.compile(r"(?:^|\.)encoder\.(patch_embed|pos_embed|mask_token)\b")


def layer_of(name: str, depth: int) -> int:
    """0 for what makes tokens, 1 to `depth` for the blocks, `depth + 1` for the final norm and what follows it."""
    found = BLOCK.search(name)
    if found:
        return int(found[1]) + 1
    return 0 if LOWEST.search(name) else depth + 1


def parameters_of(optimizer: Optimizer) -> list[torch.Tensor]:
    """All parameters, in the order of the groups."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]
