"""What pretraining hears: the training clips, generated pairs without end, or both in one batch (`source=...`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from vcrast.config.registry import STREAMS, import_part
from vcrast.config.schema import DataConfig
from vcrast.data.loader import training_batches
from vcrast.data.synth.pairs import Doppelgangers
from vcrast.runs.job import Job

# Options of `source=synth` that say nothing about a sound.
OF_THE_BATCH = ("name", "pairs_per_epoch", "real_share")


class Stream(Protocol):
    """What the loop asks of a source.

    Attributes:
        clip_shape: of what is handed over for one clip: (S,) one sound that both views are made of, or (2, S) a pair.
        clips_per_epoch: after so many clips an epoch is over.
        same_for_all_folds: no recording is heard, so that every fold of a run would pretrain alike.
    """

    clip_shape: tuple[int, ...]
    clips_per_epoch: int
    same_for_all_folds: bool

    def batches(self, start_step: int, num_steps: int, *, rank: int = 0, world_size: int = 1) -> Iterator[Tensor]:
        """This rank's (b, *clip_shape) of the steps start_step, ..., num_steps - 1, on the device."""

    def example(self, num_clips: int) -> Tensor:
        """(n, *clip_shape) to look at."""


def open_stream(job: Job) -> Stream:
    """The source that `source=...` names; errors as in `Registry.build`."""
    stream: Stream = STREAMS.build(job.config.source, job=job)
    return stream


def recordings_per_batch(source: Mapping[str, Any], batch_size: int) -> int:
    """How many training clips a batch takes; a source that generates says which share with `real_share`."""
    return round(batch_size * source["real_share"]) if "real_share" in source else batch_size


def clips_per_epoch(source: Mapping[str, Any], num_clips: int) -> int:
    """How many clips an epoch has: the training clips, or what an endless source calls an epoch."""
    return int(source["pairs_per_epoch"]) if "pairs_per_epoch" in source else num_clips


@STREAMS.register("clips")
class Recordings:
    """The fold's training clips, each of which gives both views.

    Args:
        job: the fold.
    """

    same_for_all_folds = False

    def __init__(self, *, job: Job) -> None:
        self.job = job
        self.clip_shape, self.clips_per_epoch = (job.num_samples,), len(job.train)

    def batches(self, start_step: int, num_steps: int, *, rank: int = 0, world_size: int = 1) -> Iterator[Tensor]:
        """See `Stream`."""
        size = self.job.config.pretrain.batch_size
        return recordings(self.job, size, start_step, num_steps, rank=rank, world_size=world_size)

    def example(self, num_clips: int) -> Tensor:
        """See `Stream`."""
        return next(self.job.batches(self.job.train.first(num_clips))).wav


def recordings(
    job: Job, batch_size: int, start_step: int, num_steps: int, *, rank: int, world_size: int
) -> Iterator[Tensor]:
    """This rank's waveforms (b, S) of batches of training clips; errors as in `training_batches`."""
    batches = training_batches(
        job.train, batch_size=batch_size, seed=job.seed("pretrain"), start_step=start_step, num_steps=num_steps,
        num_workers=job.config.data.num_workers, device=job.device, rank=rank, world_size=world_size,
    )  # fmt: skip
    return (batch.wav for batch in batches)


def doppelgangers(
    data: DataConfig,
    *,
    duration_s: float | None,
    seed: int,
    device: torch.device | str = "cpu",
    module: str | None = None,
    **options: Any,
) -> Doppelgangers:
    """Pairs at the rate of the data, and of its length unless `duration_s` is set; `options` are `Doppelgangers`'.

    `module` is imported first: it may hold the program. Errors as in `import_part` and `Doppelgangers`.
    """
    if module:
        import_part("source.module", module)
    num_samples = round((data.clip_duration_s if duration_s is None else duration_s) * data.sample_rate)
    return Doppelgangers(num_samples=num_samples, sample_rate=data.sample_rate, seed=seed, device=device, **options)


@STREAMS.register("synth")
class Generated:
    """Doppelganger pairs from `vcrast.data.synth`, some of them replaced by training clips if asked.

    Args:
        job: the fold; its clips are heard only if `real_share` is above 0.
        pairs_per_epoch: the stream has no end; after so many pairs the schedule and the checkpoints count an epoch.
        real_share: of each batch, in [0, 1): that many of its clips are recordings, both views of one waveform.
        duration_s: of a generated clip; None is that of the data.
        distance: between the two sounds of a pair, see `Doppelgangers`, as all that follow.
        distances: of single groups of parameters.
        final_distance: of the end of a schedule.
        distance_steps: its length.
        program: what kind of sounds.
        num_layers: sounds on top of each other.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        *,
        job: Job,
        pairs_per_epoch: int,
        real_share: float,
        duration_s: float | None,
        distance: float,
        distances: dict[str, float],
        final_distance: float | None,
        distance_steps: int,
        program: str,
        num_layers: int,
    ) -> None:
        config = job.config
        self.job, self.batch_size = job, config.pretrain.batch_size
        if not 0 <= real_share < 1:
            raise ValueError(
                f"source.real_share={real_share}: must be at least 0 and below 1; source=clips is all real"
            )
        if pairs_per_epoch < self.batch_size:
            raise ValueError(
                f"source.pairs_per_epoch={pairs_per_epoch}: less than one batch; set "
                f"{self.batch_size} or more, or a smaller pretrain.batch_size"
            )
        self.num_real = recordings_per_batch(config.source, self.batch_size)
        self.sounds = doppelgangers(
            config.data, duration_s=duration_s, seed=job.seed("synth"), device=job.device, distance=distance,
            distances=distances, final_distance=final_distance, distance_steps=distance_steps, program=program,
            num_layers=num_layers,
        )  # fmt: skip
        num_samples = self.sounds.grid.num_samples
        if self.num_real and num_samples != job.num_samples:
            raise ValueError(
                f"source.duration_s={duration_s}: clips of a batch have one length, and recordings of "
                f"data.clip_duration_s={config.data.clip_duration_s} are mixed in; set it to null"
            )
        self.clip_shape, self.clips_per_epoch = (2, num_samples), pairs_per_epoch
        self.same_for_all_folds = self.num_real == 0 and config.data.mean is not None

    def batches(self, start_step: int, num_steps: int, *, rank: int = 0, world_size: int = 1) -> Iterator[Tensor]:
        """See `Stream`; the same clips of the global batch are recordings in every step and on any number of ranks.

        Raises:
            ValueError: the batch, or the recordings in it, cannot be shared evenly by the ranks.
        """
        if self.batch_size % world_size:
            raise ValueError(f"pretrain.batch_size={self.batch_size}: no multiple of {world_size} processes")
        share = self.batch_size // world_size
        start, stop = rank * share, (rank + 1) * share
        real = None
        if self.num_real:
            real = recordings(self.job, self.num_real, start_step, num_steps, rank=rank, world_size=world_size)
        place = real_places(self.num_real, self.batch_size)[start:stop].nonzero().squeeze(1).to(self.job.device)
        return self._batches(range(start_step, num_steps), start, stop, real, place)

    def _batches(
        self, steps: range, start: int, stop: int, real: Iterator[Tensor] | None, place: Tensor
    ) -> Iterator[Tensor]:
        for step in steps:
            wavs = self.sounds.batch(step, self.batch_size, start=start, stop=stop).wavs
            if real is not None:
                wavs = wavs.index_copy(0, place, next(real).unsqueeze(1).expand(-1, 2, -1))
            yield wavs

    def example(self, num_clips: int) -> Tensor:
        """See `Stream`; the first pairs of step 0."""
        return self.sounds.batch(0, max(num_clips, self.batch_size), stop=num_clips).wavs


def real_places(num_real: int, batch_size: int) -> Tensor:
    """(B,) bool, true at `num_real` evenly spread positions: equal shares of a batch get equal shares of recordings."""
    passed = torch.arange(batch_size + 1) * num_real // batch_size
    return passed[1:] > passed[:-1]
