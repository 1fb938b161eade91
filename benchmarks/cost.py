"""Compute what a pretraining step costs on many GPUs, by formula.

Nothing is measured: rates of a device or a link are its maker's, and the share of them that is reached is assumed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.flops import projector_flops, step_flops
from benchmarks.memory import CONTEXT_BYTES, MEL_BINS, VIEWS, footprint
from vcrast.config.compose import compose
from vcrast.models.ast import AST
from vcrast.models.backbone import build_backbone
from vcrast.models.projector import Projector
from vcrast.training.plan import GIB, MARGIN, Plan, choose
from vcrast.training.reduce import BUCKET_BYTES

FLOAT_BYTES = 4  # gradients and representations travel as fp32
LINK_SHARE = 0.7  # of a link's nominal rate that large messages reach
FP32_SHARE = 0.6  # of the fp32 rate that the projector's products reach
AGREEMENT_S = 50e-6  # one hop of a few bytes between CPUs over TCP


@dataclass(frozen=True)
class Device:
    """One GPU; rates in operations per second.

    Attributes:
        half: peak of dense half-precision matrix products.
        single: peak of fp32 outside the matrix units; projector and loss are fp32.
        share: of `half` that the encoder's forward and backward are assumed to reach.
        memory: bytes.
        source: of the peaks.
    """

    name: str
    half: float
    single: float
    share: float
    memory: float
    source: str


@dataclass(frozen=True)
class Fabric:
    """What connects GPUs; bytes per second in one direction, nominal.

    Attributes:
        per_node: GPUs of a machine.
        inside: of one GPU to the others of its machine.
        between: of all network cards of a machine together.
        hop_s: time of an empty message between machines, assumed; within one a third of it.
    """

    name: str
    per_node: int
    inside: float
    between: float
    hop_s: float
    source: str


T4 = Device("T4", 65e12, 8.1e12, 0.35, 14.7 * GIB, "NVIDIA T4 datasheet, 2019")
A100 = Device("A100", 312e12, 19.5e12, 0.40, 39.4 * GIB, "NVIDIA A100 datasheet (SXM, 40 GB), 2020")
H100 = Device("H100", 989e12, 67e12, 0.35, 79.1 * GIB, "NVIDIA H100 datasheet (SXM, 80 GB, without sparsity), 2023")
ALONE = Fabric("no link", 1, math.inf, math.inf, 0.0, "")
DGX_A100 = Fabric("NVLink 3, 8 x 200 Gb/s", 8, 300e9, 200e9, 15e-6, "NVIDIA DGX A100 datasheet")
DGX_H100 = Fabric("NVLink 4, 8 x 400 Gb/s", 8, 450e9, 400e9, 15e-6, "NVIDIA DGX H100 datasheet")
ETHERNET = Fabric("NVLink 4, one 100 Gb/s Ethernet", 8, 450e9, 12.5e9, 30e-6, "the port's nominal rate")


@dataclass(frozen=True)
class Job:
    """What is trained: sizes that the cost depends on; `of_recipe` reads them from the settings."""

    encoder: AST
    projector_dims: tuple[int, ...]
    num_parameters: int
    num_frames: int
    num_tokens: int
    patch_drop: float
    model: Mapping[str, Any]

    @classmethod
    def of_recipe(cls, *overrides: str) -> Job:
        """The job of a command line such as `recipe=audioset model=small`."""
        config = compose(list(overrides))
        # Kaldi's windows: those that lie whole in the clip.
        window, shift = config.features["window_ms"], config.features["frame_shift_ms"]
        num_frames = 1 + int((1000 * config.data.clip_duration_s - window) // shift)
        with torch.device("meta"):
            encoder = build_backbone(
                config.model, attention={"name": "softmax"}, linear={"name": "real"}, num_mel_bins=MEL_BINS,
                num_frames=num_frames, num_channels=1, patch_stride=config.pretrain.patch_stride,
            )  # fmt: skip
            assert isinstance(encoder, AST), "the formulas are those of the AST"
            projector = Projector(encoder.embed_dim, config.objective["projector_dims"])
        drops = config.views["patch_drop"]  # one for all views, or one for each
        patch_drop = statistics.fmean(drops) if isinstance(drops, list) else drops
        every = encoder.num_tokens(num_frames)
        parameters = [*encoder.parameters(), *projector.parameters()]
        return cls(
            encoder=encoder, projector_dims=tuple(config.objective["projector_dims"]),
            num_parameters=sum(each.numel() for each in parameters if each.requires_grad), num_frames=num_frames,
            num_tokens=every - round(every * patch_drop), patch_drop=patch_drop,
            model=config.model,
        )  # fmt: skip

    def encoder_flops(self, num_clips: float) -> float:
        """Forward and backward of the encoder for some clips."""
        one = step_flops(
            self.encoder, [], batch_size=1, num_frames=self.num_frames, num_tokens=self.num_tokens, num_views=VIEWS
        )
        return num_clips * one

    def head_flops(self, batch_size: int) -> float:
        """Projector and covariance of the whole batch, forward and backward: every process computes them."""
        dims = self.projector_dims[-1]
        covariance = 2 * batch_size * dims * min(batch_size, dims)
        return 3 * VIEWS * (batch_size * projector_flops(self.encoder.embed_dim, self.projector_dims) + covariance)

    def plan(self, device: Device, num_clips: int, batch_size: int) -> Plan:
        """How `num_clips` on one GPU are cut, with projector and loss of all `batch_size`.

        Raises:
            ValueError: not even one clip fits.
        """
        found = footprint(
            self.model, num_frames=self.num_frames, batch_size=batch_size,
            projector_dims=list(self.projector_dims), patch_drop=self.patch_drop,
        )  # fmt: skip
        available = int((device.memory - CONTEXT_BYTES) * (1 - MARGIN))
        return Plan(num_clips, choose(found, num_clips, available))


def all_reduce_bytes(world_size: int, num_bytes: float) -> float:
    """What each process sends in a ring all-reduce: a sum and a copy, (W - 1) / W of the data each."""
    return 2 * (world_size - 1) / world_size * num_bytes


def all_gather_bytes(world_size: int, num_bytes: float) -> float:
    """What each process sends in a ring all-gather of `num_bytes` in all: everybody's part passes it but one."""
    return (world_size - 1) / world_size * num_bytes


@dataclass(frozen=True)
class Step:
    """Seconds of one step, part by part, and bytes that each process sends. Nothing is assumed to overlap."""

    batch_size: int
    world_size: int
    plan: Plan
    encoder_s: float
    head_s: float
    gradients_s: float
    gather_s: float
    agreements_s: float
    gradient_bytes: float
    gather_bytes: float

    @property
    def seconds(self) -> float:
        """All parts, one after the other."""
        return self.encoder_s + self.head_s + self.gradients_s + self.gather_s + self.agreements_s

    @property
    def clips_per_s(self) -> float:
        """Of all GPUs together."""
        return self.batch_size / self.seconds


def step_cost(
    job: Job, device: Device, fabric: Fabric, *, world_size: int, batch_size: int, agreements: int = 3
) -> Step:
    """The cost of a step.

    Args:
        job: what is trained.
        device: on which.
        fabric: what connects them.
        world_size: GPUs, W.
        batch_size: of the loss, B; each GPU encodes B / W clips.
        agreements: exchanges of a few bytes between the CPUs that a step makes.

    Raises:
        ValueError: a batch that the GPUs cannot share evenly.
    """
    if batch_size % world_size:
        raise ValueError(f"batch_size={batch_size}: {world_size} processes cannot share it evenly")
    num_clips = batch_size // world_size
    plan = job.plan(device, num_clips, batch_size)
    encoder_s = job.encoder_flops(num_clips) * (1 + plan.extra_compute) / (device.half * device.share)
    across = world_size > fabric.per_node
    rate = LINK_SHARE * (min(fabric.inside, fabric.between) if across else fabric.inside)
    hops = math.ceil(math.log2(world_size))
    hop_s = fabric.hop_s if across else fabric.hop_s / 3
    gradients = FLOAT_BYTES * job.num_parameters
    vectors = FLOAT_BYTES * VIEWS * batch_size * job.encoder.embed_dim
    sent, gathered = all_reduce_bytes(world_size, gradients), all_gather_bytes(world_size, vectors)
    buckets = math.ceil(gradients / BUCKET_BYTES)
    return Step(
        batch_size, world_size, plan, encoder_s,
        head_s=job.head_flops(batch_size) / (device.single * FP32_SHARE),
        gradients_s=sent / rate + 2 * hops * hop_s * buckets,
        gather_s=gathered / rate + hops * hop_s,
        agreements_s=agreements * 2 * hops * AGREEMENT_S,
        gradient_bytes=sent, gather_bytes=gathered,
    )  # fmt: skip
