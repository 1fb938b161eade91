"""A nested state dict <-> flat named tensors and a skeleton of plain values, exactly.

Checkpoints hold data only: whatever is neither a tensor nor a plain value is refused here, before it is written, rather
than by the loader months later.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PRIMITIVES = (type(None), bool, int, float, str)


def flatten_state(state: Any, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Split a nested state into its tensors and the rest.

    Args:
        state: dicts (keys str or int), lists and tuples of tensors, numbers, strings, booleans and None, such as the
            state dict of a module, an optimiser or a gradient scaler.
        prefix: in front of every tensor's name.

    Returns:
        The tensors by name (`engine/optimizer/state/0/exp_avg`), not copied; and a skeleton that JSON can hold, from
        which `unflatten_state` rebuilds the state with the types of its containers and keys.

    Raises:
        TypeError: a value or key of another type; the message names where.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _take_apart(state, prefix, tensors)
    return tensors, skeleton


def unflatten_state(tensors: dict[str, Tensor], skeleton: Any) -> Any:
    """Put together what `flatten_state` took apart.

    Raises:
        KeyError: a tensor that the skeleton names is missing.
    """
    if isinstance(skeleton, list):
        return [unflatten_state(tensors, item) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    [(kind, content)] = skeleton.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(unflatten_state(tensors, item) for item in content)
    return {key: unflatten_state(tensors, value) for key, value in content}


def _take_apart(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": _enter(value, path, tensors)}
    # Exact types: np.float64 is a float, yet the weights-only loader refuses it.
    if type(value) in PRIMITIVES:
        return value
    if isinstance(value, dict):
        return {
            "dict": [[_key(key, path), _take_apart(item, _join(path, key), tensors)] for key, item in value.items()]
        }
    if type(value) is list:
        return [_take_apart(item, _join(path, index), tensors) for index, item in enumerate(value)]
    if type(value) is tuple:
        return {"tuple": [_take_apart(item, _join(path, index), tensors) for index, item in enumerate(value)]}
    raise TypeError(
        f"{path or 'state'}: a checkpoint cannot hold a {type(value).__name__}; "
        "turn it into tensors, numbers, strings, lists or dicts"
    )


def _enter(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    require_plain(tensor, path)
    name, number = path or "tensor", 1
    # {"a/b": x, "a": {"b": y}} and {1: x, "1": y} spell one path twice.
    while name in tensors:
        number += 1
        name = f"{path}~{number}"
    tensors[name] = tensor.detach()
    return name


def require_plain(tensor: Any, name: str) -> None:
    """Raise TypeError unless `tensor` is an ordinary dense tensor with data of its own."""
    if type(tensor) not in (Tensor, nn.Parameter):
        raise TypeError(f"{name}: a checkpoint holds plain tensors, this is a {type(tensor).__name__}")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise TypeError(
            f"{name}: a checkpoint holds dense tensors with data, this one is {tensor.layout} on {tensor.device}"
        )


def _key(key: Any, path: str) -> str | int:
    if type(key) not in (str, int):
        raise TypeError(f"{path or 'state'}: key {key!r} is a {type(key).__name__}; a checkpoint's keys are str or int")
    return key


def _join(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)
