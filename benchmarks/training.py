"""Build the training steps that benchmarks time, and run one on waveforms.

The one place in which benchmarks name the parts of a pretraining step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.flops import step_flops
from vcrast.config.schema import Config
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.models.build import build_encoder
from vcrast.objectives.vcr import VCR
from vcrast.training.dist import rank, world_size
from vcrast.training.engine import TorchEngine
from vcrast.training.exact import Outcome, exact_backward
from vcrast.training.optim import adamw
from vcrast.training.plan import CudaMemory, plan_step

LR = 1e-4
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

    def step(self, wavs: Tensor, number: int, *, micro: int | None = None, kept: int = 0) -> Outcome:
        """Run step `number` on this process's (b, S) clips or (b, 2, S) pairs; `micro` None takes all at once."""
        first = rank() * len(wavs)
        draws = Draws(0, number, len(wavs) * world_size(), start=first, stop=first + len(wavs), device=self.device)
        outcome = exact_backward(self.engine, self.objective, wavs, None, draws, micro_batch_size=micro, kept=kept)
        self.engine.step(lr=LR)
        return outcome

    def loss_alone(self, batch_size: int) -> None:
        """Projector and loss of B encoded clips, forward and backward."""
        vectors = torch.randn(2, batch_size, self.objective.encoder.embed_dim, device=self.device, requires_grad=True)
        self.objective.loss(vectors)[0].backward()

    def plan(self, wavs: Tensor) -> tuple[int, int]:
        """Micro-batch size and kept graphs that this GPU's memory allows."""
        draws = Draws(0, 0, len(wavs), device=self.device)
        memory = CudaMemory(self.device)
        plan = plan_step(self.engine, self.objective, wavs, None, draws, micro_batch_size=None, memory=memory)
        return plan.micro_batch_size, plan.kept

    def flops(self, batch_size: int) -> int:
        """Operations that a step needs, after tokens were dropped."""
        encoder = self.objective.encoder
        keep = self.objective.views.keep(Draws(0, 0, 1), "a", encoder.num_tokens(self.num_frames))
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
    config: Config, *, num_frames: int, precision: str, device: torch.device, kind: type[VCR] = VCR,
    compile: bool = False,
) -> Training:  # fmt: skip
    """Build model, views, objective, AdamW and engine from settings.

    Args:
        config: of which model, attention, linear, views, objective, features and the data's statistics are read.
        num_frames: T of the clips.
        precision: of the engine.
        device: where it runs.
        kind: VCR, or one of `benchmarks.variants`.
        compile: torch.compile the encoder.
    """
    fbank = Fbank(sample_rate=config.data.sample_rate, mean=config.data.mean, std=config.data.std)
    torch.manual_seed(0)
    encoder = build_encoder(
        config.model, attention=config.attention, linear=config.linear, num_mel_bins=config.features.num_mel_bins,
        num_frames=num_frames, patch_stride=None, drop_path=0.0,
    )  # fmt: skip
    dims = list(config.objective["projector_dims"])
    views = Views(fbank, **vars(config.views))
    objective = kind(encoder=encoder, views=views, projector_dims=dims).to(device).train()
    engine = TorchEngine(
        objective, adamw(objective, lr=LR), precision=precision, device=device, clip_grad_norm=3.0, compile=compile
    )
    return Training(objective, engine, device, num_frames, dims)
