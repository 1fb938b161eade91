"""One fold of a run: its settings, clips, device, log, and parts of every stage."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vcrast.config.schema import Config
from vcrast.data.backgrounds import recordings
from vcrast.data.dataset import ClipDataset
from vcrast.data.loader import Batch, NoBatchError, evaluation_batches
from vcrast.data.padding import padding_in_use
from vcrast.data.sampling import class_clips
from vcrast.data.streams import Supply
from vcrast.evaluation.embedding import Embedder, Known
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views, build_views
from vcrast.models.backbone import Backbone, build_backbone
from vcrast.models.pretrained import load_encoder
from vcrast.models.transfer import transfer_of
from vcrast.objectives.base import Task
from vcrast.runs.interrupt import Interrupt, Interrupted
from vcrast.runs.log import MetricLog
from vcrast.runs.summary import Summary
from vcrast.training.dist import rank_slice

logger = logging.getLogger(__name__)

GRACE_S = 5.0  # for the batch to come after a signal


def seed_for(run_seed: int, purpose: str) -> int:
    """A seed of its own for each purpose, the same in every run with this `run.seed`."""
    return int.from_bytes(hashlib.blake2b(f"{run_seed}/{purpose}".encode(), digest_size=7).digest())


def samples_of(config: Config) -> int:
    """S: samples per clip at the data's rate."""
    return round(config.data.clip_duration_s * config.data.sample_rate)


def task_of(config: Config, fbank: Fbank, *, num_classes: int, multilabel: bool, **known: Any) -> Task:
    """What the data asks of an objective; `known`: what else `Task` holds."""
    num_frames = fbank.num_frames(samples_of(config))
    return Task(num_classes, multilabel, num_frames, config.features["num_mel_bins"], **known)


def build_encoder(
    config: Config, fbank: Fbank, *, patch_stride: list[int] | None, drop_path: float | None = None
) -> Backbone:
    """An encoder of the clips' size, initialised by torch's generator; `drop_path` of None is the model's own."""
    return build_backbone(
        config.model,
        attention=config.attention,
        linear=config.linear,
        num_mel_bins=config.features["num_mel_bins"],
        num_frames=fbank.num_frames(samples_of(config)),
        num_channels=fbank.num_channels,
        patch_stride=patch_stride,
        **({} if drop_path is None else {"drop_path": drop_path}),
    )


@dataclass
class Job:
    """One fold of a run.

    Attributes:
        known: embeddings that the folds of a run share, see `Embedder`; None if there is only one fold.
        learnt: the clips that finetuning learns from; None is all of `train`.
        held_out: clips for validation, neither learnt from nor tested on; None if there are none.
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
    known: Known | None = None
    learnt: ClipDataset | None = None
    held_out: ClipDataset | None = None

    def seed(self, purpose: str) -> int:
        """See `seed_for`."""
        return seed_for(self.config.run.seed, purpose)

    @property
    def num_samples(self) -> int:
        """S: samples per clip at the data's rate."""
        return samples_of(self.config)

    def fbank_options(self) -> dict[str, Any]:
        """Keywords of `Fbank`, normalisation included."""
        config = self.config
        return {**config.features, "sample_rate": config.data.sample_rate, "mean": self.mean, "std": self.std}

    def fbank(self) -> Fbank:
        """The front end, on the device."""
        return Fbank(**self.fbank_options()).to(self.device)

    def views(self, options: Mapping[str, Any]) -> Views:
        """The random views of a stage, on the device."""
        data = self.config.data
        sounds = recordings(options, root=data.root, sample_rate=data.sample_rate)
        return build_views(options, fbank=self.fbank(), recordings=sounds).to(self.device)

    def task(self) -> Task:
        """What the data asks of an objective."""
        return task_of(
            self.config, self.fbank(), num_classes=len(self.classes), multilabel=self.multilabel, classes=self.classes,
            class_clips=class_clips(self.train.clips, len(self.classes)), num_clips=len(self.train),
        )  # fmt: skip

    def backbone(self, *, patch_stride: list[int] | None, drop_path: float | None = None) -> Backbone:
        """A freshly initialised encoder, equal in every stage of a run; the caller loads weights over it.

        `drop_path` of None is the model's own.
        """
        torch.manual_seed(self.seed("encoder"))
        encoder = build_encoder(self.config, self.fbank(), patch_stride=patch_stride, drop_path=drop_path)
        return encoder.to(self.device)

    def load_pretrained(self, encoder: Backbone) -> str:
        """Fill an encoder: from this run's pretraining, else from `model.checkpoint`, else leave it; says which."""
        if self.summary.done(self.fold, "pretrain"):
            load_encoder(encoder, self.exported("pretrained") / "weights.safetensors")
            return "this run's pretraining"
        return self.load_checkpoint(encoder)

    def load_checkpoint(self, encoder: Backbone) -> str:
        """Fill an encoder from `model.checkpoint`, if one is named; says which, and keeps warnings for the report."""
        source = self.config.model.get("checkpoint")  # a model file of a user's own may not have the key
        if source is None:
            return "scratch"
        warnings = load_encoder(
            encoder,
            source,
            features=self.fbank_options(),
            fold=self.fold,
            data=vars(self.config.data),
            transfer=transfer_of(self.config.model),
        )
        for text in warnings:
            if text not in self.summary.content["warnings"]:  # each stage of a fold loads them again
                logger.warning(text)
                self.summary.warn(text)
        return str(source)

    def embedder(self, windows: str | None = None) -> Embedder:
        """What embeds clips of this fold with a frozen encoder; `windows` as in `batches`."""
        windows = windows or self.config.evaluate.windows
        settings = repr([windows, *sorted(self.fbank_options().items())])
        return Embedder(self.fbank(), partial(self.batches, windows=windows), settings=settings, known=self.known)

    def export_options(self) -> dict[str, Any]:
        """What `vcrast.load` needs to rebuild a model, besides the weights."""
        config = self.config
        return {
            "features": self.fbank_options(),
            "labels": self.classes,
            "multilabel": self.multilabel,
            "sample_rate": config.data.sample_rate,
            "clip_duration_s": config.data.clip_duration_s,
            "pad": padding_in_use(self.train),
            "meta": {
                "recipe": config.recipe,
                "fold": self.fold,
                "seed": config.run.seed,
                "keep_silent": config.data.keep_silent,
                "time_expansion": config.data.time_expansion,
            },
        }

    def batches(self, clips: ClipDataset, part: range | None = None, *, windows: str | None = None) -> Iterator[Batch]:
        """The clips, or a part of them, in order, on the device; `windows` as `evaluate.windows` if left out."""
        return evaluation_batches(
            clips,
            batch_size=self.config.evaluate.batch_size,
            num_workers=self.config.data.num_workers,
            device=self.device,
            part=part,
            windows=windows or self.config.evaluate.windows,
            patience=self.patience,
        )

    def supply(self) -> Supply:
        """What a source of pretraining sounds is given."""
        return Supply(
            data=self.config.data,
            clips=self.train,
            batch_size=self.config.pretrain.batch_size,
            order_seed=self.seed("pretrain"),
            sound_seed=self.seed("synth"),
            device=self.device,
            patience=self.patience,
        )

    def patience(self, waited_s: float) -> None:
        """Called while no batch comes: end the waiting on a signal, or when it takes too long.

        Raises:
            Interrupted: a signal came, and no batch for `GRACE_S`.
            NoBatchError: no batch for `data.timeout_s`.
        """
        asked, timeout_s = self.interrupt.requested, self.config.data.timeout_s
        if asked and waited_s > GRACE_S:
            raise Interrupted(asked, f"while it waited for data, for {waited_s:.0f} s")
        if timeout_s and waited_s > timeout_s:
            raise NoBatchError(
                f"no batch came for {waited_s:.0f} s (data.timeout_s={timeout_s:g}): a disk does not answer, or the "
                "workers wait for room in /dev/shm; data.num_workers=0 shows which file it is"
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
