"""OPTIMS: AdamW and LARS, and parameter groups with their decay and rate."""

from __future__ import annotations

import math
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
    final_weight_decay: float | None,
) -> Optimizer:
    """AdamW; parameters of one dimension or none (biases, norms, mask token) are not decayed.

    Args:
        module: what to train; move it to its device first.
        lr: after warm-up.
        weight_decay: decoupled, times the rate.
        betas: of the two running means; (0.9, 0.95) as in AudioMAE's and MAE's pretraining.
        eps: in the denominator.
        layer_decay: factor of the rate from each block to the one below it, in (0, 1]; 1 for none.
            Source: Clark et al. 2020, arXiv:2003.10555.
        final_weight_decay: where the decay arrives by half a cosine at the end; None: it stays.
            Source: Caron et al. 2021, arXiv:2104.14294.

    Raises:
        ValueError: an option out of its range.
    """
    if final_weight_decay is not None and final_weight_decay < 0:
        raise ValueError(
            f"optim.final_weight_decay={final_weight_decay}: must not be negative; null leaves it as it is"
        )
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"optim.betas={list(betas)}: give two numbers in [0, 1), for instance [0.9, 0.95]")
    if not eps > 0:
        raise ValueError(f"optim.eps={eps}: must be above 0; the usual value is 1e-8")
    groups = parameter_groups(module, weight_decay=weight_decay, layer_decay=layer_decay)
    if final_weight_decay is not None:
        for group in groups:
            if group["params"][0].ndim > 1:
                group["decay_range"] = [group["weight_decay"], final_weight_decay]
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
        ValueError: `lr` is 0, as the thesis prints it: the authors' code overwrites that placeholder at every step; or
            another option is out of its range.
    """
    if not lr > 0:
        raise ValueError(f"optim.lr={lr}: LARS learns nothing at rate 0; the authors use 0.2 per batch of 256")
    if not 0 <= momentum < 1:
        raise ValueError(f"optim.momentum={momentum}: must lie in [0, 1); the authors use 0.9")
    if not trust_coeff > 0:
        raise ValueError(f"optim.trust_coeff={trust_coeff}: must be above 0; the authors use 0.001")
    groups = parameter_groups(module, weight_decay=weight_decay, layer_decay=layer_decay)
    for group in groups:
        group["adapt"] = group["params"][0].ndim > 1
    return Lars(groups, lr=lr, weight_decay=weight_decay, momentum=momentum, trust_coeff=trust_coeff)


def parameter_groups(module: nn.Module, *, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Groups of equal decay and rate.

    Returns:
        Groups with `params`, `names`, `weight_decay` (0 for parameters of at most one dimension) and `lr_scale`, by
        which the engine multiplies the step's rate: `layer_decay ** (top - layer)`.

    Raises:
        ValueError: nothing to train, or `layer_decay` or `weight_decay` out of range.
    """
    if weight_decay < 0:
        raise ValueError(f"optim.weight_decay={weight_decay}: must not be negative; 0 switches it off")
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay={layer_decay}: must lie in (0, 1]; 1 switches it off")
    named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    if not named:
        raise ValueError("nothing to train: no parameter requires a gradient")
    layers = layers_of(module, [name for name, _ in named]) if layer_decay < 1 else {}
    top = max(layers.values(), default=0)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, weight in named:
        layer = layers.get(name, top)
        decayed = weight.ndim > 1
        group = groups.setdefault(
            (layer, decayed),
            {
                "params": [],
                "names": [],
                "weight_decay": weight_decay if decayed else 0.0,
                "lr_scale": layer_decay ** (top - layer),
            },
        )
        group["params"].append(weight)
        group["names"].append(name)
    return list(groups.values())


ABOVE = "above_the_encoder"


def layers_of(module: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """The layer of each parameter: 0 for what makes tokens, then the blocks; all that the encoder does not name on top.

    Args:
        module: an objective; its `encoder` says by its `group_matcher` which parameter belongs to which layer.
        names: of the module's parameters.

    Raises:
        ValueError: there is no encoder, or it does not say.
    """
    from timm.models import group_parameters  # a second to import, which only layer decay should cost

    encoder = getattr(module, "encoder", None)
    if encoder is None or not hasattr(encoder, "group_matcher"):
        raise ValueError("layer_decay: the model has no encoder that tells its layers; set layer_decay=1")
    # The encoder with a head that no pattern names: its layer is that of everything above the blocks.
    whole = nn.Module()
    for name, part in encoder.named_children():
        whole.add_module(name, part)
    for name, weight in encoder.named_parameters(recurse=False):
        whole.register_parameter(name, weight)
    whole.register_parameter(ABOVE, nn.Parameter(torch.empty(0)))
    found: dict[str, int] = group_parameters(whole, encoder.group_matcher(coarse=False), reverse=True)
    return {name: found.get(name.removeprefix("encoder."), found[ABOVE]) for name in names}


def set_rates(optimizer: Optimizer, lr: float, progress: float) -> None:
    """Tell each group its rate and its decay.

    Args:
        optimizer: groups may have `lr_scale`, and `decay_range`: the decay at the first and after the last step.
        lr: of this step.
        progress: share of the steps that are done, from 0 to 1.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        if "decay_range" in group:
            first, last = group["decay_range"]
            group["weight_decay"] = last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))


def parameters_of(optimizer: Optimizer) -> list[torch.Tensor]:
    """All parameters, in the order of the groups."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]
