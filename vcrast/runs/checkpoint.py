"""Checkpoints that survive a kill at any moment, a full disk and a flipped bit, and that are read as data only.

    <folder>/step_00000123/tensors.safetensors    weights, optimiser moments, buffers, generator states, by name
                           state.pt               plain values, loaded with weights_only=True
                           manifest.json          format version, step, size and SHA-256 of both files

A checkpoint is written into a hidden folder beside its place, synced to disk, and moved there by one rename: what bears
the name `step_...` was complete once. The hashes tell whether it still is; both formats load a flipped bit silently.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from vcrast.runs.checkpoint_files import (
    FINISHED,
    CheckpointError,
    load,
    read_manifest,
    state_bytes,
    step_of,
    sync,
    to_save,
    verify,
    write_files,
)
from vcrast.runs.flatten import flatten_state, unflatten_state
from vcrast.runs.process import Writer, this_process

__all__ = [
    "CheckpointError", "discard_after", "find_latest", "flatten_state", "load", "save", "unflatten_state", "verify",
]  # fmt: skip

log = logging.getLogger(__name__)

HIDDEN = re.compile(r"\.(?:new|old)-\d+-(?P<pid>\d+)-(?P<started>\d+)-(?P<host>.+)")
# Another machine's processes cannot be asked; no checkpoint takes an hour to write.
FOREIGN_LEFTOVER_S = 3600.0


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], *, keep: int) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`.

    Args:
        folder: holds the checkpoints of one stage; created if missing. One process writes there at a time.
        step: optimiser steps done. A checkpoint of the same step is replaced.
        tensors: dense tensors by name, on any device; they may share memory and need not be contiguous.
        state: plain values, nested; `flatten_state` splits an optimiser's or module's state dict into the two.
        keep: how many stay, 1 or more. Older ones go only after the new one is on disk.

    Returns:
        The folder of the new checkpoint.

    Raises:
        TypeError: something that is neither a dense tensor nor a plain value.
        CheckpointError: the disk is full or refuses; the earlier checkpoints are untouched and no partial one is left.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step={step}, keep={keep}: step must be 0 or more and keep 1 or more")
    on_cpu = to_save(tensors)
    folder = Path(folder)
    target = folder / f"step_{step:08d}"
    temp = folder / _hidden_name("new", step)
    content = state_bytes(state)
    num_bytes = sum(tensor.nbytes for tensor in on_cpu.values()) + len(content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        shutil.rmtree(temp, ignore_errors=True)
        temp.mkdir()
        write_files(temp, step, on_cpu, content)
        _move_into_place(temp, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temp, ignore_errors=True)
        raise _explain(error, target, num_bytes) from error
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    _prune(folder, step, keep)
    return target


def find_latest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; each damaged one that is passed over is logged as a warning with the reason.

    Returns:
        None when there is none.
    """
    for path in _finished(Path(folder)):
        try:
            verify(path)
        except OSError as error:
            log.warning("checkpoint passed over: %s", error)
            continue
        return path
    return None


def discard_after(folder: Path, step: int) -> None:
    """Remove the checkpoints later than `step`, when a run goes back on purpose and they lie on the abandoned path."""
    for path in _finished(Path(folder)):
        if step_of(path) > step:
            log.warning("removing %s: the run goes back to step %d", path, step)
            _remove(path)


def _move_into_place(temp: Path, target: Path) -> None:
    if target.exists():
        # It may be the only whole one: it stays findable under its second name until the new one has its place.
        replaced = target.with_name(f"{target.name}.replaced")
        if replaced.exists():
            _remove(replaced)
        target.rename(replaced)
    temp.rename(target)
    sync(target.parent)


def _explain(error: Exception, target: Path, num_bytes: int) -> CheckpointError:
    try:
        free = f"{shutil.disk_usage(target.parent).free:,} bytes are free"
    except OSError:
        free = "free space is unknown"
    earlier = [path for path in _finished(target.parent) if _looks_whole(path)]
    kept = f"the previous checkpoint, {earlier[0]}, is intact" if earlier else "there is no earlier checkpoint"
    message = f"{target}: could not be written ({error}); it needs about {num_bytes:,} bytes, {free}; {kept}"
    explained = CheckpointError(message)
    explained.errno = getattr(error, "errno", None)
    return explained


def _finished(folder: Path) -> list[Path]:
    """Everything that bears a checkpoint's name, newest first; a replaced one after its successor."""
    paths = [path for path in folder.glob("step_*") if FINISHED.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (step_of(path), not path.suffix), reverse=True)


def _looks_whole(path: Path) -> bool:
    """Manifest and sizes only: hashing every kept checkpoint at every save would cost more than writing one."""
    try:
        return all((path / name).stat().st_size == entry["bytes"] for name, entry in read_manifest(path).items())
    except OSError:
        return False


def _prune(folder: Path, step: int, keep: int) -> None:
    """Remove what is older than the `keep` newest whole ones up to `step`; damaged ones do not count."""
    whole = 0
    for path in _finished(folder):
        if step_of(path) > step:
            continue
        # `step_00000012.replaced` is superfluous once `step_00000012` has taken its place.
        if whole >= keep or (path.suffix and path.with_suffix("").exists()):
            _remove(path)
        elif _looks_whole(path):
            whole += 1


def _remove(path: Path) -> None:
    """Delete a checkpoint; hidden first, so that a kill halfway leaves none that looks damaged."""
    hidden = path.with_name(_hidden_name("old", step_of(path)))
    try:
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
    except OSError as error:
        log.warning("an old checkpoint could not be removed: %s", error)
        return
    shutil.rmtree(hidden, ignore_errors=True)


def _hidden_name(kind: str, step: int) -> str:
    """Of a folder being written (`new`) or removed (`old`); says by whom, so that another can clear up after a kill."""
    me = this_process()
    return f".{kind}-{step}-{me.pid}-{me.started}-{me.host}"


def _remove_leftovers(folder: Path) -> None:
    """Delete what writers that were killed left half written or half removed."""
    for path in folder.glob(".*"):
        match = HIDDEN.fullmatch(path.name)
        if match and _is_abandoned(path, Writer(match["host"], int(match["pid"]), int(match["started"]))):
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: Path, writer: Writer) -> bool:
    if writer.is_here():
        return not writer.is_alive()
    try:
        return time.time() - path.stat().st_mtime > FOREIGN_LEFTOVER_S
    except FileNotFoundError:  # its writer has just moved it into place
        return False
