"""STREAMS: the sounds of pretraining (`source=...`): clips, generated pairs, or both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from vcrast.config.registry import STREAMS, import_part
from vcrast.config.schema import DataConfig
from vcrast.data.dataset import ClipDataset
from vcrast.data.loader import Batch, Patience, evaluation_batches, training_batches
from vcrast.data.synth.pairs import Doppelgangers

# Options of `source=synth` that say nothing about a sound.
OF_THE_BATCH = ("name", "pairs_per_epoch", "real_share")


@dataclass(frozen=True)
class Supply:
    """What a stream is given.

    Attributes:
        data: the dataset's settings.
        clips: the training clips of the fold.
        batch_size: of the loss, over all processes.
        order_seed: of the order of the clips.
        sound_seed: of generated sounds.
        device: where batches are handed over.
        patience: of who waits for a batch, see `vcrast.data.loader`.
    """

    data: DataConfig
    clips: ClipDataset
    batch_size: int
    order_seed: int
    sound_seed: int
    device: torch.device
    patience: Patience | None = None


class Stream(Protocol):
    """What pretraining asks of a source; registered in STREAMS, built with a `Supply` and its own options.

    Attributes:
        clip_shape: of what is handed over for one clip: (S,) one sound that all views are made of, or (2, S) a pair.
        clips_per_epoch: after so many clips an epoch is over.
        same_for_all_folds: no recording is heard, so that every fold of a run would pretrain alike.
        labelled: its clips have labels; otherwise those of a batch are (b, 0).
    """

    clip_shape: tuple[int, ...]
    clips_per_epoch: int
    same_for_all_folds: bool
    labelled: bool

    def batches(self, start_step: int, num_steps: int, *, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """This rank's clips (b, *clip_shape) of the steps start_step, ..., num_steps - 1, on the device."""

    def example(self, num_clips: int) -> Tensor:
        """(n, *clip_shape) to look at."""


def open_stream(source: Mapping[str, Any], supply: Supply) -> Stream:
    """The source that `source=...` names; errors as in `Registry.build`."""
    stream: Stream = STREAMS.build(source, supply=supply)
    return stream


def recordings_per_batch(source: Mapping[str, Any], batch_size: int) -> int:
    """How many training clips a batch takes, as the source itself says."""
    builder: Any = STREAMS.find(source)
    found: int = builder.recordings_per_batch(source, batch_size)
    return found


def clips_per_epoch(source: Mapping[str, Any], num_clips: int) -> int:
    """How many clips an epoch has, as the source itself says; `num_clips` training clips are there."""
    builder: Any = STREAMS.find(source)
    found: int = builder.clips_in_epoch(source, num_clips)
    return found


@STREAMS.register("clips")
class Recordings:
    """The fold's training clips, each of which gives both views.

    Args:
        supply: the clips.
    """

    same_for_all_folds: ClassVar[bool] = False
    labelled: ClassVar[bool] = True

    def __init__(self, *, supply: Supply) -> None:
        self.supply = supply
        self.clip_shape, self.clips_per_epoch = (supply.clips.num_samples,), len(supply.clips)

    @staticmethod
    def recordings_per_batch(source: Mapping[str, Any], batch_size: int) -> int:  # noqa: ARG004 - see the function
        """All of a batch."""
        return batch_size

    @staticmethod
    def clips_in_epoch(source: Mapping[str, Any], num_clips: int) -> int:  # noqa: ARG004 - see the function
        """All training clips."""
        return num_clips

    def batches(self, start_step: int, num_steps: int, *, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """See `Stream`."""
        size = self.supply.batch_size
        return recordings(self.supply, size, start_step, num_steps, rank=rank, world_size=world_size)

    def example(self, num_clips: int) -> Tensor:
        """See `Stream`."""
        supply, clips = self.supply, self.supply.clips.first(num_clips)
        workers = supply.data.num_workers
        return next(evaluation_batches(clips, batch_size=num_clips, num_workers=workers, device=supply.device)).wav


def recordings(
    supply: Supply, batch_size: int, start_step: int, num_steps: int, *, rank: int, world_size: int
) -> Iterator[Batch]:
    """This rank's clips (b, S) of batches of training clips; errors as in `training_batches`."""
    return training_batches(
        supply.clips, batch_size=batch_size, seed=supply.order_seed, start_step=start_step, num_steps=num_steps,
        num_workers=supply.data.num_workers, device=supply.device, rank=rank, world_size=world_size,
        patience=supply.patience,
    )  # fmt: skip


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
        supply: its clips are heard only if `real_share` is above 0.
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

    labelled: ClassVar[bool] = False

    def __init__(
        self,
        *,
        supply: Supply,
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
        self.supply, self.batch_size = supply, supply.batch_size
        if not 0 <= real_share < 1:
            raise ValueError(
                f"source.real_share={real_share}: must be at least 0 and below 1; source=clips is all real"
            )
        if pairs_per_epoch < self.batch_size:
            raise ValueError(
                f"source.pairs_per_epoch={pairs_per_epoch}: less than one batch; set "
                f"{self.batch_size} or more, or a smaller pretrain.batch_size"
            )
        self.num_real = round(self.batch_size * real_share)
        self.sounds = doppelgangers(
            supply.data, duration_s=duration_s, seed=supply.sound_seed, device=supply.device, distance=distance,
            distances=distances, final_distance=final_distance, distance_steps=distance_steps, program=program,
            num_layers=num_layers,
        )  # fmt: skip
        num_samples = self.sounds.grid.num_samples
        if self.num_real and num_samples != supply.clips.num_samples:
            raise ValueError(
                f"source.duration_s={duration_s}: clips of a batch have one length, and recordings of "
                f"data.clip_duration_s={supply.data.clip_duration_s} are mixed in; set it to null"
            )
        self.clip_shape, self.clips_per_epoch = (2, num_samples), pairs_per_epoch
        self.same_for_all_folds = self.num_real == 0 and supply.data.mean is not None

    @staticmethod
    def recordings_per_batch(source: Mapping[str, Any], batch_size: int) -> int:
        """The share `real_share` of a batch."""
        return round(batch_size * source["real_share"])

    @staticmethod
    def clips_in_epoch(source: Mapping[str, Any], num_clips: int) -> int:  # noqa: ARG004 - see the function
        """What `pairs_per_epoch` calls an epoch: the stream has no end."""
        return int(source["pairs_per_epoch"])

    def batches(self, start_step: int, num_steps: int, *, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
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
            real = recordings(self.supply, self.num_real, start_step, num_steps, rank=rank, world_size=world_size)
        place = real_places(self.num_real, self.batch_size)[start:stop].nonzero().squeeze(1).to(self.supply.device)
        return self._batches(range(start_step, num_steps), start, stop, real, place)

    def _batches(
        self, steps: range, start: int, stop: int, real: Iterator[Batch] | None, place: Tensor
    ) -> Iterator[Batch]:
        for step in steps:
            wavs = self.sounds.batch(step, self.batch_size, start=start, stop=stop).wavs
            if real is not None:
                wavs = wavs.index_copy(0, place, next(real).wav.unsqueeze(1).expand(-1, 2, -1))
            number = torch.arange(start, stop, device=wavs.device) + step * self.batch_size
            yield Batch(wavs, wavs.new_empty(stop - start, 0), number)

    def example(self, num_clips: int) -> Tensor:
        """See `Stream`; the first pairs of step 0."""
        return self.sounds.batch(0, max(num_clips, self.batch_size), stop=num_clips).wavs


def real_places(num_real: int, batch_size: int) -> Tensor:
    """(B,) bool, true at `num_real` evenly spread positions: equal shares of a batch get equal shares of recordings."""
    passed = torch.arange(batch_size + 1) * num_real // batch_size
    return passed[1:] > passed[:-1]
