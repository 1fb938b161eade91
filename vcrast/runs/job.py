"""What a stage of one fold is given: settings, clips, device, log; and the parts that every stage builds alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vcrast.config.schema import Config
from vcrast.data.dataset import ClipDataset
from vcrast.data.loader import Batch, evaluation_batches
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views, build_views
from vcrast.models.build import build_encoder
from vcrast.models.ast import Encoder
from vcrast.runs.summary import Summary
from vcrast.training.dist import rank_slice
from vcrast.runs.interrupt import Interrupt
from vcrast.runs.log import MetricLog


def seed_for(run_seed: int, purpose: str) -> int:
    """A seed of its own for each purpose, the same in every run with this `run.seed`."""
    return int.from_bytes(hashlib.blake2b(f"{run_seed}/{purpose}".encode(), digest_size=7).digest())


@dataclass
class Job:
    """One fold of a run.

    Attributes:
        embedded: what `embed_for_all_folds` has computed, shared by the folds of a run; None if there is only one.
    """

    config: Config
    run_dir: Path
    fold: str
    device: torch.device
    precision: str
    classes: tuple[str, ...]
    multilabel: bool
    train: ClipDataset
    test: ClipDataset
    mean: float
    std: float
    log: MetricLog
    summary: Summary
    interrupt: Interrupt
    embedded: dict[str, dict[Any, tuple[Tensor, Tensor]]] | None = None

    def seed(self, purpose: str) -> int:
        """See `seed_for`."""
        return seed_for(self.config.run.seed, purpose)

    @property
    def num_samples(self) -> int:
        """S: samples per clip at the data's rate."""
        return round(self.config.data.clip_duration_s * self.config.data.sample_rate)

    def fbank_options(self) -> dict[str, Any]:
        """Keywords of `Fbank`, normalisation included."""
        config = self.config
        return {**config.features, "sample_rate": config.data.sample_rate, "mean": self.mean, "std": self.std}

    def fbank(self) -> Fbank:
        """The front end, on the device."""
        return Fbank(**self.fbank_options()).to(self.device)

    def views(self, options: Mapping[str, Any]) -> Views:
        """The random views of a stage, on the device."""
        return build_views(options, fbank=self.fbank()).to(self.device)

    def encoder(self, *, patch_stride: list[int] | None, drop_path: float = 0.0) -> Encoder:
        """A freshly initialised encoder, equal in every stage of a run; the caller loads weights over it."""
        config = self.config
        torch.manual_seed(self.seed("encoder"))
        fbank = self.fbank()
        return build_encoder(
            config.model,
            attention=config.attention,
            linear=config.linear,
            num_mel_bins=config.features["num_mel_bins"],
            num_frames=fbank.num_frames(self.num_samples),
            patch_stride=patch_stride,
            drop_path=drop_path,
            num_channels=fbank.num_channels,
        ).to(self.device)

    def batches(self, clips: ClipDataset, part: range | None = None) -> Iterator[Batch]:
        """The clips, or a part of them, in order, deterministic crops, on the device."""
        return evaluation_batches(
            clips,
            batch_size=self.config.evaluate.batch_size,
            num_workers=self.config.data.num_workers,
            device=self.device,
            part=part,
        )

    def draws(self, stage: str, step: int, batch_size: int) -> Draws:
        """The random numbers of a step for this process's part of the batch."""
        mine = rank_slice(batch_size)
        return Draws(self.seed(stage), step, batch_size, device=self.device, start=mine.start, stop=mine.stop)

    def checkpoints(self, stage: str) -> Path:
        """The folder of a stage's checkpoints."""
        return self.run_dir / "checkpoints" / f"fold_{self.fold}" / stage

    def exported(self, stage: str) -> Path:
        """The folder of a stage's exported weights, `pretrained` or `finetuned`."""
        return self.run_dir / "exported" / f"fold_{self.fold}" / stage
