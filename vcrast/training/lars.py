"""LARS as the VICReg authors wrote it, able to skip a step on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lars(Optimizer):
    """Momentum SGD whose every matrix moves by a fixed share of its own norm.

    For gradient g and weights w: d = g + weight_decay w; in groups with `adapt`, d is scaled by
    trust_coeff |w| / |d| (by 1 if either is 0); m = momentum m + d; w = w - lr m.

    timm's LARS gives the same numbers up to its denominator, |g| + weight_decay |w|, and up to matrices whose gradient
    is 0, whose decay it does not adapt. This one is our own because it must also work with `found_inf`, a tensor that
    PyTorch's fused optimisers read: where it is 1 the step changes nothing, decided on the device, so the CPU need not
    wait to learn whether a gradient was finite.

    Args:
        params: groups; `adapt` is False where neither scaling nor decay shall apply.
        lr: overwritten at every step by the schedule.
        weight_decay: added to the gradient.
        momentum: in [0, 1).
        trust_coeff: the share, at lr 1.

    Source: You et al. 2017, arXiv:1708.03888; Bardes et al. 2022, arXiv:2105.04906, the authors' code.
    """

    # GradScaler and our engine set `found_inf` on optimisers that declare this.
    _step_supports_amp_scaling = True
    found_inf: Tensor

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 1e-6,
        momentum: float = 0.9,
        trust_coeff: float = 1e-3,
    ) -> None:
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust_coeff": trust_coeff, "adapt": True,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update from the gradients, or none where `found_inf` is 1."""
        assert closure is None
        skip = getattr(self, "found_inf", None)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self.update(group, weights, skip)

    def update(self, group: dict[str, Any], weights: list[Tensor], skip: Tensor | None) -> None:
        """Update the weights of one group; 0-d tensors on the device stand for numbers when a step may be skipped."""
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
        steps = [weight.grad for weight in weights if weight.grad is not None]
        momentum, lr = group["momentum"], group["lr"]
        if skip is not None:
            bad = skip > 0
            # Zero instead of NaN, since 0 * NaN would not vanish below; momentum 1 and rate 0 then change nothing.
            for step in steps:
                step.masked_fill_(bad, 0.0)
            dtype = weights[0].dtype
            momentum = torch.where(bad, 1.0, torch.full_like(skip, momentum, dtype=dtype))
            lr = torch.where(bad, 0.0, torch.full_like(skip, lr, dtype=dtype))
        steps = list(torch._foreach_add(steps, weights, alpha=group["weight_decay"]))
        scales = self.trust(group, weights, steps)
        if skip is not None:
            scales = [torch.where(bad, 0.0, scale) for scale in scales]
        for step, scale in zip(steps, scales, strict=True):
            step.mul_(scale)
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, steps)
        del steps  # as large as the model: free it before the next temporary
        torch._foreach_sub_(weights, torch._foreach_mul(momenta, lr))

    def trust(self, group: dict[str, Any], weights: list[Tensor], steps: list[Tensor]) -> list[Tensor]:
        """The factor of each tensor's step, 0-d."""
        if not group["adapt"]:
            return [torch.ones((), dtype=weight.dtype, device=weight.device) for weight in weights]
        pairs = zip(torch._foreach_norm(weights), torch._foreach_norm(steps), strict=True)
        return [torch.where((w > 0) & (d > 0), group["trust_coeff"] * w / d, 1.0) for w, d in pairs]
