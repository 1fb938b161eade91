"""Checkpoints that survive a kill, a full disk and a flipped bit; read as data only.

    <folder>/step_00000123-<16 digits of its SHA-256>.pt

`torch.save` of nested dicts, lists, tensors and plain values. Written aside, synced and renamed: what bears the name
was complete once, and the digits tell whether it still is; `torch.load` reads a flipped bit without complaint.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from vcrast.config.atomic import open_aside, publish, remove_abandoned

log = logging.getLogger(__name__)

NAME = re.compile(r"step_(?P<step>\d{8,})-(?P<digest>[0-9a-f]{16})\.pt")
PRIMITIVES = (type(None), bool, int, float, str)


class CheckpointError(OSError):
    """A checkpoint could not be written, or what lies on disk is not a whole checkpoint."""


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`.

    Args:
        folder: holds the checkpoints of one stage; created if missing. One process writes there at a time.
        step: optimiser steps done. A checkpoint of the same step is replaced.
        state: dicts (keys str or int), lists and tuples of dense tensors on any device and of plain values.
        keep: how many stay, 1 or more. Older ones go only after the new one is on disk.

    Returns:
        The path of the new checkpoint.

    Raises:
        TypeError: something that could not be loaded as data; the message names where.
        CheckpointError: the disk is full or refuses; the earlier checkpoints are untouched and no partial one is left.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step={step}, keep={keep}: step must be 0 or more and keep 1 or more")
    data, folder = to_data(state), Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        with open_aside(folder / f"step_{step:08d}") as file:
            digest = _write(data, file).sha256.hexdigest()
            path = folder / f"step_{step:08d}-{digest[:16]}.pt"
            publish(file, path)
    except OSError as error:
        raise _explained(error, folder, step, data) from error
    _prune(folder, path, keep)
    return path


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint, verified before.

    Returns:
        What `save` was given: tensors on the CPU that share no memory, plain dicts.

    Raises:
        CheckpointError: damaged, or it holds more than data.
    """
    verify(path)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle can make the loader raise anything
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: refused, it is damaged or holds more than data: {reason}") from error
    return state


def verify(path: Path) -> int:
    """Compare every byte of a checkpoint with the hash in its name; returns the step.

    Raises:
        CheckpointError: naming the checkpoint and what is wrong with it.
    """
    match = NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path}: not a checkpoint of this version, whose names are step_00000123-<hash>.pt")
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing") from None
    if not digest.startswith(match["digest"]):
        raise CheckpointError(f"{path}: damaged, its content is not what was written (SHA-256 differs)")
    return int(match["step"])


def find_latest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; each damaged one that is passed over is logged as a warning with the reason.

    Returns:
        None when there is none.

    Raises:
        CheckpointError: the folder holds checkpoints of another version of the program only.
    """
    found = _newest_first(Path(folder))
    for path in found:
        try:
            verify(path)
        except OSError as error:
            log.warning("checkpoint passed over: %s", error)
            continue
        return path
    if not found and any(Path(folder).glob("step_*")):
        raise CheckpointError(f"{folder}: written by another version of this program; start anew in another run.dir")
    return None


def latest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint by its name, whole or not; None when there is none."""
    return max(map(_step, _newest_first(Path(folder))), default=None)


def to_data(value: Any, where: str = "state", seen: set[int] | None = None) -> Any:
    """A copy that holds nothing but what `load` accepts; tensors are copied only where they have to be.

    Raises:
        TypeError: a value or key of another type; the message names where.
    """
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        return _to_cpu(value, where, seen)
    # Exact types: np.float64 is a float, yet the weights-only loader refuses it.
    if type(value) in PRIMITIVES:
        return value
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"{where}: key {key!r} is a {type(key).__name__}; a checkpoint's keys are str or int")
        return {key: to_data(item, f"{where}[{key!r}]", seen) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_data(item, f"{where}[{index}]", seen) for index, item in enumerate(value))
    raise TypeError(
        f"{where}: a checkpoint cannot hold a {type(value).__name__}; "
        "turn it into tensors, numbers, strings, lists or dicts"
    )


def _to_cpu(tensor: Tensor, where: str, seen: set[int]) -> Tensor:
    if type(tensor) not in (Tensor, nn.Parameter):
        raise TypeError(f"{where}: a checkpoint holds plain tensors, this is a {type(tensor).__name__}")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise TypeError(f"{where}: a checkpoint holds dense tensors, this is {tensor.layout} on {tensor.device}")
    # A conjugated or negated view has the bytes of the tensor it looks at.
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    storage = tensor.untyped_storage()
    # Of a view, torch.save writes all that it looks at; and what shares memory would come back sharing it.
    if storage.nbytes() != tensor.nbytes or storage.data_ptr() in seen:
        tensor = tensor.clone()
    seen.add(tensor.untyped_storage().data_ptr())
    return tensor


class _Hashed:
    """What `torch.save` writes to: hashes and counts on the way, so that nothing is read again."""

    def __init__(self, file: BinaryIO | None) -> None:
        self.file, self.sha256, self.num_bytes = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        self.num_bytes += len(content)
        try:
            if self.file is not None:
                self.sha256.update(content)
                self.file.write(content)
        except OSError as error:
            self.error = error
            raise
        return len(content)

    def flush(self) -> None:
        """Left to `publish`."""


def _write(data: Any, file: BinaryIO | None) -> _Hashed:
    hashed = _Hashed(file)
    try:
        torch.save(data, hashed)  # type: ignore[arg-type]  # it asks for no more than write and flush
    except RuntimeError:
        if hashed.error is None:
            raise
        raise hashed.error from None  # torch hides what the disk said
    return hashed


def _explained(error: OSError, folder: Path, step: int, data: Any) -> CheckpointError:
    """The error to raise: what the checkpoint needs, what the disk has, what is left."""
    num_bytes = _write(data, None).num_bytes
    try:
        free = f"{shutil.disk_usage(folder).free:,} bytes are free"
    except OSError:
        free = "free space is unknown"
    earlier = [path for path in _newest_first(folder) if zipfile.is_zipfile(path)]
    kept = f"the previous checkpoint, {earlier[0]}, is intact" if earlier else "there is no earlier checkpoint"
    text = f"{folder}/step_{step:08d}: could not be written ({error}); it needs about {num_bytes:,} bytes"
    explained = CheckpointError(f"{text}, {free}; {kept}")
    explained.errno = error.errno
    return explained


def _newest_first(folder: Path) -> list[Path]:
    # Two of one step: a kill came between writing the new one and removing the old one.
    paths = [path for path in folder.glob("step_*.pt") if NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (_step(path), path.stat().st_mtime_ns), reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_").partition("-")[0])


def _prune(folder: Path, newest: Path, keep: int) -> None:
    """Remove what is older than the `keep` newest up to `newest`; what was cut short does not count.

    Only the end of a file is looked at: hashing every kept checkpoint at every save would cost more than writing one.
    """
    kept = 0
    for path in _newest_first(folder):
        replaced = path != newest and _step(path) == _step(newest)
        if _step(path) > _step(newest):
            continue
        if kept >= keep or replaced:
            try:
                path.unlink()
            except OSError as error:
                log.warning("an old checkpoint could not be removed: %s", error)
        elif zipfile.is_zipfile(path):
            kept += 1
