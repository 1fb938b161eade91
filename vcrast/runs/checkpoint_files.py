"""What lies in one checkpoint folder: write it, check it, read it as data only."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from vcrast.runs.flatten import PRIMITIVES, require_plain

FORMAT_VERSION = 1
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.pt", "manifest.json"
FINISHED = re.compile(r"step_(\d{8,})(\.replaced)?")

DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
    torch.bool, torch.complex64,
}  # fmt: skip


class CheckpointError(OSError):
    """A checkpoint could not be written, or what lies on disk is not a whole checkpoint."""


def require_primitives(value: Any, where: str) -> None:
    """Raise TypeError, naming the key, unless `value` is made of plain values, lists, tuples and dicts."""
    if type(value) is dict:
        for key, item in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{where}: key {key!r} is a {type(key).__name__}; a checkpoint's keys are str or int")
            require_primitives(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            require_primitives(item, f"{where}[{index}]")
    elif type(value) not in PRIMITIVES:
        hint = "pass it in `tensors`" if isinstance(value, Tensor) else "turn it into numbers, strings, lists or dicts"
        raise TypeError(f"{where}: a checkpoint's state cannot hold a {type(value).__name__}; {hint}")


def to_save(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory, copied only where they have to be."""
    ready, storages = {}, set()
    for name, tensor in tensors.items():
        if type(name) is not str or name == "__metadata__":
            raise TypeError(f"{name!r} cannot be the name of a tensor in a checkpoint")
        require_plain(tensor, name)
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name}: {tensor.dtype} has no place in the safetensors format; convert it")
        # A conjugated or negated view has the bytes of the tensor it looks at.
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        ready[name] = tensor
    return ready


def state_bytes(state: dict[str, Any]) -> bytes:
    """The content of `state.pt`; TypeError naming the key if it holds more than plain values."""
    require_primitives(state, "state")
    # Through memory: torch.save on a full disk raises RuntimeError and hides the cause, a plain write says it.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def write_files(temp: Path, step: int, tensors: dict[str, Tensor], state: bytes) -> None:
    """Write the three files of a checkpoint into an empty folder and wait until they are on disk."""
    safetensors.torch.save_file(tensors, temp / TENSORS)
    (temp / STATE).write_bytes(state)
    files = {}
    for name in (TENSORS, STATE):
        with open(temp / name, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[name] = {"bytes": file.tell(), "sha256": digest}
    (temp / MANIFEST).write_bytes(_manifest(step, files))
    for path in (temp / TENSORS, temp / STATE, temp / MANIFEST, temp):
        sync(path)


def sync(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read one checkpoint, verified on the way.

    Returns:
        The tensors, on the CPU and independent of the files, and the state.

    Raises:
        CheckpointError: damaged, of another format version, or its state holds more than data.
    """
    path = Path(path)
    files = read_manifest(path)
    contents = {}
    for name, expected in files.items():
        contents[name] = _read(path / name)
        _compare(path, name, expected, len(contents[name]), hashlib.sha256(contents[name]).hexdigest())
    try:
        tensors = safetensors.torch.load(contents[TENSORS])
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: {TENSORS} cannot be read: {error}") from error
    return tensors, _load_state(path, contents[STATE])


def verify(path: Path) -> int:
    """Check every byte of a checkpoint without loading its tensors; returns the step.

    Raises:
        CheckpointError: naming the checkpoint and what is wrong with it.
    """
    path = Path(path)
    for name, expected in read_manifest(path).items():
        try:
            with open(path / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                _compare(path, name, expected, file.tell(), digest)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: {name} is missing") from None
    _load_state(path, _read(path / STATE))
    try:
        with safetensors.safe_open(path / TENSORS, framework="pt"):
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {TENSORS} cannot be read: {error}") from error
    return step_of(path)


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The sizes and hashes of both files; CheckpointError unless the manifest is exactly what `save` writes."""
    raw = _read(path / MANIFEST)
    try:
        manifest = json.loads(raw)
        version, step, files = manifest["format_version"], manifest["step"], manifest["files"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{path}: {MANIFEST} is damaged") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {version!r}, this program reads version {FORMAT_VERSION}")
    well_formed = isinstance(files, dict) and set(files) == {TENSORS, STATE} and all(map(_is_entry, files.values()))
    if not well_formed or raw != _manifest(step, files):
        raise CheckpointError(f"{path}: {MANIFEST} is damaged")
    if step != step_of(path):
        raise CheckpointError(f"{path}: {MANIFEST} belongs to step {step}")
    return files


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("bytes")) is int and type(entry.get("sha256")) is str


def _manifest(step: int, files: dict[str, dict[str, Any]]) -> bytes:
    body = {"format_version": FORMAT_VERSION, "step": step, "files": files}
    # The manifest vouches for itself too: a flipped digit in `step` would otherwise go unseen.
    own = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return (json.dumps({**body, "sha256": own}, indent=2) + "\n").encode()


def _compare(path: Path, name: str, expected: dict[str, Any], num_bytes: int, digest: str) -> None:
    if num_bytes != expected["bytes"]:
        raise CheckpointError(f"{path}: {name} has {num_bytes:,} bytes, {expected['bytes']:,} were written")
    if digest != expected["sha256"]:
        raise CheckpointError(f"{path}: {name} was changed after it was written (SHA-256 differs)")


def _load_state(path: Path, content: bytes) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle can make the loader raise anything
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: {STATE} is refused, it is damaged or holds more than data: {reason}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: {STATE} holds a {type(state).__name__}, not a dict")
    return state


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path.parent}: {path.name} is missing") from None


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    match = FINISHED.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path}: not a checkpoint; their folders are named step_00000123")
    return int(match[1])
