"""Random Feature Attention: softmax's kernel estimated by random features."""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor, nn

from vcrast.config.registry import ATTENTIONS

from . import fused
from .features import centre_of, fourier, key_weights, positive, unit
from .gate import causal, gate_of, two_sided
from .redraw import Directions

log = logging.getLogger(__name__)

# The denominator, over the total weight, is kept at least this far from 0. Fourier features estimate a number around
# exp(-1 / sigma^2) and may miss it on either side; what is smaller is noise. Positive ones may rightly be small.
SMALLEST = {"fourier": fused.SMALLEST, "positive": 1e-20}


@ATTENTIONS.register("rfa")
class RandomFeatureAttention(nn.Module):
    """phi(q) S / phi(q) z with S = mean of phi(k) v and z = mean of phi(k): two products each way, nothing N x N.

    Args:
        num_heads: H.
        head_dim: K.
        num_features: R random directions a head; 2R features (sin and cos) if `fourier`, R if `positive`.
        features: `fourier` (Peng et al. 2021) or `positive` (FAVOR+).
        orthogonal: directions at right angles in blocks of K.
        sigma: width of the kernel; its square is the temperature on the cosine of q and k. 1 bounds the ratio of two
            weights by e^2.
        learn_scale: learn a factor per head and channel of q and k, 1 at first, as the paper learns sigma.
        normalize: bring q and k to unit norm. Without, `sigma = K ** 0.25` is the temperature of `softmax`.
        centre_keys: subtract from a clip's keys their mean, which softmax attention does not notice and the estimate
            gains much from. Of Fourier features only; not with `gate=causal`, whose tokens must not know later ones.
        redraw: `fixed`, or the number of optimiser steps between new directions.
        gate: `none`; `causal`, the paper's; `two_sided`, see `extensions.rfa.gate.two_sided`.
        gate_bias: the gate's first value before the sigmoid; 4 keeps 0.982 a token, a memory of about 55.
        seed: of the directions, beside the model's own.
        implementation: `plain` is PyTorch operations; `triton` is one kernel each way over keys and queries, or an
            error; `auto` is that on GPUs of capability 8 and newer where it covers the options, else plain.

    Raises:
        ValueError: an option that does not exist or cannot work.

    Source: Peng et al. 2021, arXiv:2103.02143; Choromanski et al. 2021, arXiv:2009.14794. README.md says where we
    leave them.
    """

    num_clamped: Tensor

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        num_features: int,
        features: str,
        orthogonal: bool,
        sigma: float,
        learn_scale: bool,
        normalize: bool,
        centre_keys: bool,
        redraw: str | int,
        gate: str,
        gate_bias: float,
        seed: int,
        implementation: str,
    ) -> None:
        super().__init__()
        check(num_features, features, sigma, redraw, gate, implementation)
        self.features, self.sigma, self.normalize = features, sigma, normalize
        self.gate, self.implementation = gate, implementation
        self.centre_keys = centre_keys and gate != "causal" and features == "fourier"
        self.directions = Directions(
            num_heads=num_heads,
            head_dim=head_dim,
            num_features=num_features,
            orthogonal=orthogonal,
            seed=seed,
            every=0 if redraw == "fixed" else int(redraw),
        )
        # One dimension, for the optimisers' sake: neither decayed to 0 nor adapted by LARS, like a norm's weight.
        self.scale = nn.Parameter(torch.ones(num_heads * head_dim)) if learn_scale else None
        if gate != "none":
            self.gate_weight = nn.Parameter(torch.zeros(num_heads * head_dim))
            self.gate_bias = nn.Parameter(torch.full((num_heads,), float(gate_bias)))
        self.register_buffer("num_clamped", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, H, N, K) each -> (B, H, N, K) of v's dtype; features, sums and denominator are at least fp32.

        Raises:
            ValueError: `implementation=triton` where the kernel cannot run.
        """
        with torch.autocast(q.device.type, enabled=False):
            wide = torch.promote_types(v.dtype, torch.float32)
            directions = self.directions().to(wide)
            if self.use_triton(q):
                mixed, denominator = fused.attend(
                    q, k, v, directions, self.widths(wide), self.normalize, self.centre_keys
                )
                self.count(denominator.abs() < SMALLEST["fourier"])
                return mixed
            return self.plain(q.to(wide), k.to(wide), v.to(wide), directions).to(v.dtype)

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, H, N, K) each -> (B, H, N, N), at least fp32: the estimate of the weights, whose rows add up to 1.

        What a token's value gets is what comes out for unit vectors as values; gates and clamped denominators, which
        make a row's sum less than 1, are in it. Of Fourier features some are negative.
        """
        with torch.autocast(q.device.type, enabled=False):
            wide = torch.promote_types(q.dtype, torch.float32)
            units = torch.eye(k.shape[2], dtype=wide, device=k.device).expand(*k.shape[:3], -1)
            return self.plain(q.to(wide), k.to(wide), units, self.directions().to(wide))

    def plain(self, q: Tensor, k: Tensor, v: Tensor, directions: Tensor) -> Tensor:
        """`forward` in PyTorch operations; everything of one dtype."""
        gate = None if self.gate == "none" else self.gate_of(k)
        phi_q, phi_k = self.phi(q, k, directions)
        # A column of ones beside the values: the denominator is the sum that it gets.
        values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        if gate is None:
            sums = phi_q @ (phi_k.transpose(-2, -1) @ values / values.shape[2])
            return self.divide(sums, torch.ones_like(sums[..., :1]))
        decayed = causal if self.gate == "causal" else two_sided
        return self.divide(*decayed(phi_q, phi_k, values, *gate))

    def phi(self, q: Tensor, k: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, H, N, R or 2R) of queries and keys."""
        if self.normalize:
            q, k = unit(q), unit(k)
        widths = self.widths(q.dtype)
        if self.centre_keys:
            centre, level = centre_of(k, widths)
            k = k - centre
        q, k = q * widths, k * widths
        if self.features == "fourier":
            phi_k = fourier(k, directions)
            return fourier(q, directions), phi_k * key_weights(k, level) if self.centre_keys else phi_k
        return positive(q, directions, over=(-1,)), positive(k, directions, over=(-2, -1))

    def widths(self, dtype: torch.dtype) -> Tensor:
        """(H, 1, K), or (1, 1, 1) if not learned: the factor on q and k."""
        if self.scale is None:
            return torch.full((1, 1, 1), 1 / self.sigma, dtype=dtype, device=self.num_clamped.device)
        return self.scale.to(dtype).view(self.directions.shape[0], 1, -1) / self.sigma

    def gate_of(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of g, and 1 - g; (B, H, N) each."""
        weight, bias = self.gate_weight.to(k.dtype), self.gate_bias.to(k.dtype)
        return gate_of(k, weight.view(self.directions.shape[0], -1), bias)

    def divide(self, sums: Tensor, total: Tensor) -> Tensor:
        """(B, H, N, K + 1) sums, the last column being the denominator, and (B, H, N, 1) weights -> (B, H, N, K)."""
        numerator, denominator = sums[..., :-1], sums[..., -1:]
        smallest = SMALLEST[self.features] * total
        small = denominator.abs() < smallest
        self.count(small)
        return numerator / torch.where(small, torch.where(denominator < 0, -smallest, smallest), denominator)

    def count(self, small: Tensor) -> None:
        """Note clamped denominators; recomputed micro-batches count again."""
        if self.training:
            self.num_clamped += small.sum()

    def kernel_name(self, q: Tensor) -> str:
        """What `vcrast doctor` shows for tensors like these; errors as in `use_triton`."""
        return "Triton (fused)" if self.use_triton(q) else "PyTorch operations"

    def use_triton(self, q: Tensor) -> bool:
        """Whether this call goes to the fused kernel; said once in the log.

        Raises:
            ValueError: it was asked for and cannot run.
        """
        if self.implementation == "plain" or (self.implementation == "auto" and not q.is_cuda):
            return False
        why_not = "" if self.gate == "none" else f"attention.gate={self.gate} is not fused"
        if self.features != "fourier":
            why_not = f"attention.features={self.features} is not fused"
        why_not = why_not or fused.why_not(q, self.directions.shape[1])
        if why_not and self.implementation == "triton":
            raise ValueError(
                f"attention.implementation=triton: {why_not}; set attention.implementation=plain (or auto, which takes "
                "the kernel where it runs), or attention=memory_efficient"
            )
        say_once(q.device.type, q.dtype, why_not)
        return not why_not


def check(num_features: int, features: str, sigma: float, redraw: str | int, gate: str, implementation: str) -> None:
    """Refuse options that do not exist or cannot work."""
    choices = {
        "features": (features, ("fourier", "positive")),
        "gate": (gate, ("none", "causal", "two_sided")),
        "implementation": (implementation, ("auto", "plain", "triton")),
    }
    for name, (value, valid) in choices.items():
        if value not in valid:
            raise ValueError(f"attention.{name}={value}: choose from {', '.join(valid)}")
    if num_features < 1:
        raise ValueError(f"attention.num_features={num_features}: must be 1 or more")
    if not sigma > 0:
        raise ValueError(f"attention.sigma={sigma}: must be above 0")
    if redraw != "fixed" and (isinstance(redraw, str | bool) or redraw < 1):
        raise ValueError(f"attention.redraw={redraw}: must be fixed, or a number of optimiser steps of 1 or more")


@functools.cache
def say_once(device: str, dtype: torch.dtype, why_not: str) -> None:
    """Log once what runs, and why not the kernel."""
    what = f"PyTorch operations, because {why_not}" if why_not else "the fused Triton kernel"
    log.info("attention=rfa on %s in %s: %s", device, str(dtype).removeprefix("torch."), what)
