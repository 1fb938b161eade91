"""Load batches in an order that depends on (seed, epoch) alone.

It is the same for any number of workers and ranks, and after a resume.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vcrast.data.ahead import fetching_ahead
from vcrast.data.audio import AudioFault, Readers, readers
from vcrast.data.dataset import CENTRE, ClipDataset, Example, position_of_window
from vcrast.data.order import Order
from vcrast.data.processes import can_start_workers, fork_server, num_cores, start_loader, workers_killed_at_end
from vcrast.data.remote import StoreError
from vcrast.data.shared_memory import fits_shared_memory
from vcrast.data.windows import window_starts

T = TypeVar("T")
Patience = Callable[[float], None]
"""Called every `POLL_S` while no batch comes, with the seconds waited so far; what it raises ends the waiting."""
POLL_S = 2.0
Key = tuple[int, int]  # (clip index, position)


class NoBatchError(OSError):
    """No batch comes: a worker was killed, reading takes too long, or a store on another machine gives nothing."""


class Batch(NamedTuple):
    """wav (B, S) float32, label (B, C) float32 multi-hot, index (B,) int64 into the dataset's clips."""

    wav: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody calls on a batch


class LoadedBatch(NamedTuple):
    """A batch as a worker sends it, the faults that it met (clip index, reason), and why no batch can follow, or ""."""

    batch: Batch
    faults: list[tuple[int, str]]
    stopped: str = ""


def steps_per_epoch(num_clips: int, batch_size: int) -> int:
    """Count whole batches in an epoch; the incomplete one is dropped: the loss depends on the batch's size.

    Raises:
        ValueError: a batch is larger than the dataset.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    if batch_size > num_clips:
        raise ValueError(
            f"batch_size={batch_size} is more than the {num_clips} clips of the training set; "
            f"set pretrain.batch_size or finetune.batch_size to at most {num_clips}"
        )
    return num_clips // batch_size


def training_batches(
    dataset: ClipDataset,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    num_steps: int,
    num_workers: int | None,
    device: torch.device | str,
    rank: int = 0,
    world_size: int = 1,
    chances: Tensor | None = None,
    patience: Patience | None = None,
) -> Iterator[Batch]:
    """Yield the batches of steps start_step, ..., num_steps - 1.

    Args:
        dataset: the training clips.
        batch_size: of all ranks together.
        seed: of the order.
        start_step: the first step; steps before it are skipped, not read.
        num_steps: one past the last step.
        num_workers: processes that read; None is 0 on the CPU with a cache, else up to 8.
        device: where the batch is handed over; on CUDA the next one is copied while this one is used.
        rank: this process reads its contiguous slice of every batch.
        world_size: number of ranks.
        chances: of each clip, see `Order`; None takes each once an epoch.
        patience: of who waits for workers; None waits for ever.

    Raises:
        ValueError: the batch is larger than the dataset or cannot be shared by the ranks; too many unreadable clips.
        NoBatchError: a worker was killed, or a file on another machine cannot be had.
    """
    steps_per_epoch(len(dataset), batch_size)
    if batch_size % world_size:
        raise ValueError(f"batch_size={batch_size} cannot be shared evenly by {world_size} processes; use a multiple")
    keys = TrainingKeys(dataset.order(seed, chances), batch_size, range(start_step, num_steps), rank, world_size)
    batches = _batches_on_device(dataset, keys, num_workers, torch.device(device), patience)
    ahead = fetching_ahead(dataset.clips, keys)
    return batches if ahead is None else ahead.while_read(batches)


def evaluation_batches(
    dataset: ClipDataset,
    *,
    batch_size: int,
    num_workers: int | None = None,
    device: torch.device | str,
    part: range | None = None,
    windows: str = "centre",
    patience: Patience | None = None,
) -> Iterator[Batch]:
    """Yield every clip, in order; the last batch may be smaller.

    An unreadable clip is left out of its batch: replacing it would count another test clip twice.

    Args:
        dataset: the clips.
        batch_size: rows at once.
        num_workers: as in `training_batches`.
        device: as in `training_batches`.
        part: some of the clips, by their places in the dataset; None is all.
        windows: `centre`, one row a clip, its middle; `all`, one row for each window of `window_starts`: rows of equal
            `index` are one clip's, side by side, and `mean_by_clip` averages what was made of them.
        patience: as in `training_batches`.

    Raises:
        ValueError: too many unreadable clips.
        NoBatchError: a worker was killed.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    chosen = range(len(dataset)) if part is None else part
    every = [(index, CENTRE) for index in chosen] if windows == "centre" else window_keys(dataset, chosen)
    keys = [every[start : start + batch_size] for start in range(0, len(every), batch_size)]
    return _batches_on_device(dataset, keys, num_workers, torch.device(device), patience)


def window_keys(dataset: ClipDataset, clips: Iterable[int]) -> list[Key]:
    """List a key for each window of each clip, in order."""
    clips = list(clips)
    # Without a cache lengths come from the files' headers: opening one waits for the disk, not for the processor.
    with ThreadPoolExecutor(max_workers=16) as pool:
        lengths = list(pool.map(dataset.length, clips) if dataset.store is None else map(dataset.length, clips))
    return [
        (index, position_of_window(number))
        for index, length in zip(clips, lengths, strict=True)
        for number in range(len(window_starts(length, dataset.num_samples)))
    ]


def mean_by_clip(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Average the rows of each clip's windows.

    Args:
        rows: (W, ...) of all windows.
        index: (W,) of the clip of each, ascending.

    Returns:
        (n, ...) means, the rows themselves where each clip has one, and (n,) the clips.
    """
    clips, counts = torch.unique_consecutive(index, return_counts=True)
    if len(clips) == len(index):
        return rows, index
    return torch.stack([part.mean(dim=0) for part in rows.split(counts.tolist())]), clips


class TrainingKeys(Sampler[list[Key]]):
    """Lists of keys, one a step, that one rank reads."""

    def __init__(self, order: Order, batch_size: int, steps: range, rank: int = 0, world_size: int = 1) -> None:
        self.order, self.batch_size, self.steps = order, batch_size, steps
        share = batch_size // world_size
        self.mine = range(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch = steps_per_epoch(self.order.num_clips, self.batch_size)
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        for step in self.steps:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = self.order.epoch(epoch)
            first = step % per_epoch * self.batch_size
            yield [(int(order[first + place]), step * self.batch_size + place) for place in self.mine]


class LoadBatch(Dataset[LoadedBatch]):
    """Dataset of whole batches, addressed by lists of keys; workers run it.

    Args:
        dataset: of the clips.
        as_arrays: hand out numpy arrays in place of tensors.
    """

    def __init__(self, dataset: ClipDataset, *, as_arrays: bool = False) -> None:
        self.dataset, self.as_arrays = dataset, as_arrays

    def __getitem__(self, keys: Sequence[Key]) -> LoadedBatch:
        examples: list[Example] = []
        faults: list[tuple[int, str]] = []
        stopped = ""
        for key in keys:
            try:
                examples.append(self.dataset[key])
            except AudioFault as fault:  # evaluation only: in training the dataset replaces the clip
                faults.append((key[0], fault.reason))
            except StoreError as error:
                stopped = str(error)
                break
        # All that this process ever met: a fault found for one batch would otherwise be unknown to the main process
        # when the batch that carried it was thrown away.
        batch = _stack(examples, self.dataset)
        if self.as_arrays:  # by value through a pipe; a tensor's values go through shared memory
            batch = Batch(*(part.numpy() for part in batch))  # type: ignore[arg-type]  # made tensors again on arrival
        return LoadedBatch(batch, faults + list(self.dataset.faults.items()), stopped)


def _stack(examples: Sequence[Example], dataset: ClipDataset) -> Batch:
    if not examples:
        empty = torch.empty(0, dataset.num_samples), torch.empty(0, dataset.num_classes)
        return Batch(*empty, torch.empty(0, dtype=torch.int64))
    return Batch(
        torch.stack([example.wav for example in examples]),
        torch.stack([example.label for example in examples]),
        torch.tensor([example.index for example in examples]),
    )


def _identity(value: T) -> T:
    """Replace DataLoader's conversion: the batch is ready."""
    return value


def _start_worker(given: Readers, _worker: int) -> None:
    start_loader(given)


def resolve_workers(num_workers: int | None, device: torch.device, *, cached: bool) -> int:
    """Choose the number of reading processes.

    With a cache a batch is a copy from memory, cheaper than a transfer between processes; on a GPU it still pays to
    have another process do it.
    """
    if num_workers is not None:
        return num_workers
    if (cached and device.type == "cpu") or not can_start_workers():
        return 0
    return min(8, num_cores() - 1)


def _batches_on_device(
    dataset: ClipDataset,
    keys: Sequence[list[Key]] | TrainingKeys,
    num_workers: int | None,
    device: torch.device,
    patience: Patience | None,
) -> Iterator[Batch]:
    workers = resolve_workers(num_workers, device, cached=dataset.store is not None)
    rows = len(keys.mine) if isinstance(keys, TrainingKeys) else max(map(len, keys), default=0)
    in_shared_memory = not workers or fits_shared_memory(workers, rows * dataset.example_bytes)
    loader: DataLoader[LoadedBatch] = DataLoader(
        LoadBatch(dataset, as_arrays=not in_shared_memory),
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=_identity,
        pin_memory=device.type == "cuda",
        timeout=POLL_S if workers else 0,
        multiprocessing_context=fork_server() if workers else None,
        worker_init_fn=partial(_start_worker, readers()) if workers else None,
        # DataLoader seeds its workers from the global generator, which a run's own numbers must not depend on.
        generator=torch.Generator(),
    )
    return _prefetch(_from_workers(dataset, loader, patience), device)


def _from_workers(dataset: ClipDataset, loader: DataLoader[LoadedBatch], patience: Patience | None) -> Iterator[Batch]:
    """Yield the loader's batches; explain a dead worker, count faults."""
    with workers_killed_at_end(partial(iter, loader)) as loaded:
        while (found := _next(loaded, patience)) is not None:
            dataset.note_faults(found.faults)
            if found.stopped:
                raise NoBatchError(found.stopped)
            if len(found.batch.index):
                yield Batch(*map(torch.as_tensor, found.batch))


def _next(loaded: Iterator[LoadedBatch], patience: Patience | None) -> LoadedBatch | None:
    """Wait for a batch; None behind the last one."""
    since = time.monotonic()
    while True:
        try:
            return next(loaded, None)
        except (ConnectionError, EOFError) as error:
            raise _worker_died(error) from error
        except RuntimeError as error:
            if "exited unexpectedly" in str(error) or "killed by signal" in str(error):
                raise _worker_died(error) from error
            if not str(error).startswith("DataLoader timed out"):  # after POLL_S; the next call waits on
                raise
        if patience is not None:
            patience(time.monotonic() - since)


def _worker_died(error: Exception) -> NoBatchError:
    return NoBatchError(
        "a data worker was killed, most often for lack of memory or of room in /dev/shm; "
        f"set data.num_workers to fewer processes, or 0 to read in the main one ({error})"
    )


def _prefetch(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Move batches to the device; on CUDA the next one is being copied while one is used."""
    if device.type == "cpu":
        yield from batches
        return
    waiting: Batch | None = None
    for batch in batches:
        moved = Batch(*(part.to(device, non_blocking=True) for part in batch))
        if waiting is not None:
            yield waiting
        waiting = moved
    if waiting is not None:
        yield waiting
