"""Build the training steps that benchmarks time, and run one on waveforms.

The one place in which benchmarks name the parts of a pretraining step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.flops import step_flops
from vcrast.config.registry import OBJECTIVES, OPTIMS
from vcrast.config.schema import Config
from vcrast.data.loader import Batch
from vcrast.features.draws import Draws
from vcrast.features.fbank import build_fbank
from vcrast.features.views import build_views
from vcrast.models.backbone import build_backbone
from vcrast.objectives.base import Task
from vcrast.objectives.vcr import VCR
from vcrast.training.dist import rank, world_size
from vcrast.training.engine import TorchEngine
from vcrast.training.exact import Outcome, Split, exact_backward
from vcrast.training.plan import CudaMemory, plan_step

LR = 1e-4
CHOOSING = ("name", "module")
SMALL = ("model.embed_dim=48", "model.depth=2", "model.num_heads=3", "objective.projector_dims=[64,64,64]")
"""Overrides that make any model a toy."""


@dataclass
class Training:
    """A pretraining job without data: what is trained, by which engine."""

    objective: Any
    engine: TorchEngine
    device: torch.device
    num_frames: int
    projector_dims: list[int]

    def step(self, wavs: Tensor, number: int, split: Split | None = None) -> Outcome:
        """Run step `number` on this process's (b, S) clips or (b, 2, S) pairs; without a split all at once."""
        first = rank() * len(wavs)
        draws = Draws(0, number, len(wavs) * world_size(), start=first, stop=first + len(wavs), device=self.device)
        batch = labelled(wavs, self.objective.task.num_classes)
        outcome = exact_backward(self.engine, self.objective, batch, draws, split or Split())
        self.engine.step(lr=LR)
        return outcome

    def loss_alone(self, batch_size: int) -> None:
        """Projector and loss of B encoded clips, forward and backward."""
        vectors = torch.randn(2, batch_size, self.objective.encoder.embed_dim, device=self.device, requires_grad=True)
        self.objective.batch_losses(dict(zip("ab", vectors, strict=True)))["loss"].backward()

    def plan(self, wavs: Tensor) -> Split:
        """The split that this GPU's memory allows."""
        draws, memory = Draws(0, 0, len(wavs), device=self.device), CudaMemory(self.device)
        batch = labelled(wavs)
        return plan_step(self.engine, self.objective, batch, draws, micro_batch_size=None, memory=memory).split

    def flops(self, batch_size: int) -> int:
        """Operations that a step needs, after tokens were dropped."""
        encoder = self.objective.encoder
        keep = self.objective.views.keep(Draws(0, 0, 1), "a", encoder.grid(self.num_frames))
        return step_flops(
            encoder, self.projector_dims, batch_size=batch_size, num_frames=self.num_frames,
            num_tokens=None if keep is None else keep.shape[1],
        )  # fmt: skip

    def noise(self, batch_size: int) -> Tensor:
        """(B, S) waveforms of `num_frames` frames: what a step is timed on, whose cost does not depend on the sound."""
        fbank = self.objective.views.fbank
        num_samples = fbank.window_samples + (self.num_frames - 1) * fbank.shift_samples
        drawn = torch.randn(batch_size, num_samples, generator=torch.Generator().manual_seed(1))
        return drawn.mul(0.1).to(self.device)


def build_training(
    config: Config, *, num_frames: int, precision: str, device: torch.device, kind: type[VCR] | None = None,
    compile: bool = False, num_classes: int = 0,
) -> Training:  # fmt: skip
    """Build model, views, objective, AdamW and engine from settings.

    Args:
        config: of which model, attention, linear, views, objective, features and the data's statistics are read.
        num_frames: T of the clips.
        precision: of the engine.
        device: where it runs.
        kind: one of `benchmarks.variants`; None takes the objective that the settings name.
        compile: torch.compile the encoder.
        num_classes: of the clips' labels.
    """
    fbank = build_fbank(
        config.features, sample_rate=config.data.sample_rate, mean=config.data.mean, std=config.data.std
    )
    torch.manual_seed(0)
    encoder = build_backbone(
        config.model, attention=config.attention, linear=config.linear, num_mel_bins=config.features["num_mel_bins"],
        num_frames=num_frames, num_channels=fbank.num_channels, patch_stride=None,
    )  # fmt: skip
    task = Task(num_classes, multilabel=False, num_frames=num_frames, num_mel_bins=config.features["num_mel_bins"])
    parts: dict[str, Any] = {"encoder": encoder, "views": build_views(config.views, fbank=fbank), "task": task}
    if kind is None:
        objective = OBJECTIVES.build(config.objective, **parts)
    else:
        objective = kind(**parts, **{key: config.objective[key] for key in config.objective if key not in CHOOSING})
    objective = objective.to(device).train()
    own = {key: value for key, value in config.optim.items() if key != "lr_per_batch"}
    engine = TorchEngine(
        objective, OPTIMS.build(own, module=objective, lr=LR), precision=precision, device=device, clip_grad_norm=3.0,
        compile=compile, checkpoint_blocks=False,
    )  # fmt: skip
    return Training(objective, engine, device, num_frames, list(config.objective.get("projector_dims", [])))


def labelled(wavs: Tensor, num_classes: int = 0) -> Batch:
    """A batch of clips of the classes in turn, or without labels."""
    number = torch.arange(len(wavs), device=wavs.device)
    label = torch.eye(num_classes, device=wavs.device)[number % max(1, num_classes)] if num_classes else None
    return Batch(wavs, wavs.new_empty(len(wavs), 0) if label is None else label, number)
