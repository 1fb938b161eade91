"""Read a checkpoint's tensors as data: safetensors, or a pickle of nothing else."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vcrast.models.export import DESCRIPTION

INSIDE = ("model", "state_dict", "model_state_dict", "state_dict_ema", "module")
"""Under what checkpoints keep a model beside an optimiser and the like, in this order."""
FILES = ("model.safetensors", "pytorch_model.bin")
"""What Hugging Face calls the weights beside its `config.json`."""
CONFIG = "config.json"


def find_file(path: Path) -> Path:
    """The file of weights that a path means: itself, or that of a Hugging Face folder.

    Raises:
        FileNotFoundError: no such file or folder, or no weights in it.
        ValueError: a model of vcrast, or weights in several files.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if (path / DESCRIPTION).is_file():
        raise ValueError(f"{path}: is a model of vcrast already; every verb and model.checkpoint take it as it is")
    for name in FILES:
        if (path / name).is_file():
            return path / name
        if (path / f"{name}.index.json").is_file():
            raise ValueError(f"{path}: weights in several files are not read; save them as one with transformers")
    raise FileNotFoundError(f"{path}: holds no {' or '.join(FILES)}; name the file of a checkpoint")


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where there is none.

    Raises:
        ValueError: damaged.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error}); fetch it again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a JSON object; fetch it again")
    return found


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The tensors of a checkpoint by name, on the CPU, and what else it holds.

    Raises:
        ValueError: no checkpoint, one of more than data, or one without tensors.
    """
    found = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    around: Mapping[str, Any] = {}
    for name in INSIDE:
        inside = found.get(name)
        if isinstance(inside, Mapping) and any(isinstance(value, Tensor) for value in inside.values()):
            found, around = inside, {key: value for key, value in found.items() if key != name}
            break
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path}: holds no tensors by name; give the state dict of a model")
    return tensors, around


def read_safetensors(path: Path) -> Mapping[str, Any]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: it is none.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None


def read_pickle(path: Path) -> Mapping[str, Any]:
    """What `torch.save` wrote, no code of the file's run.

    `argparse.Namespace`, which many training scripts save along, holds data only and is read, too.

    Raises:
        ValueError: damaged, another file, or a pickle of more than data.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "")
        if foreign:
            raise ValueError(
                f"{path}: a pickle of more than data, which can run code, so not read ({foreign.partition('. ')[0]}); "
                "where you trust it, save its state dict anew: torch.save({'model': STATE_DICT}, FILE)"
            ) from None
        raise ValueError(
            f"{path}: not a checkpoint that torch.save wrote; give a .pth, .pt, .bin or .safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        if isinstance(error, OSError):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{path}: not a readable checkpoint ({reason.partition('. ')[0]})") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: holds a {type(found).__name__}, not tensors by name; give the state dict of a model")
    return found
