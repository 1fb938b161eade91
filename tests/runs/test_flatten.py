"""State that goes into a checkpoint comes back bit for bit, or is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vcrast.runs.checkpoint import flatten_state, load, save, unflatten_state


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.flatten().view(torch.uint8).numpy().tobytes()


def equal_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def assert_same(a, b) -> None:
    """Equal to the last bit, types of containers and keys included."""
    if isinstance(a, torch.Tensor):
        assert equal_bits(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert type(a) is type(b)
        assert a == b or (a != a and b != b)


def through_disk(folder: Path, state):
    tensors, skeleton = flatten_state(state)
    skeleton = json.loads(json.dumps(skeleton))
    path = save(folder, 1, tensors, {"skeleton": skeleton}, keep=1)
    tensors, state = load(path)
    return unflatten_state(tensors, state["skeleton"])


def trained(make_optimizer):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    optimizer = make_optimizer(module.parameters())
    for _ in range(3):
        module(torch.randn(4, 7)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        lambda parameters: torch.optim.SGD(parameters, lr=1e-2),  # its momentum buffers are None
        lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    ],
    ids=["adamw", "sgd", "momentum"],
)
def test_training_goes_on_bit_for_bit_from_disk(tmp_path, make_optimizer):
    module, optimizer = trained(make_optimizer)
    snapshot = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "generator": torch.get_rng_state()}
    restored = through_disk(tmp_path, snapshot)
    assert_same(dict(snapshot["module"]), restored["module"])
    assert_same(snapshot["optimizer"], restored["optimizer"])
    assert_same(snapshot["generator"], restored["generator"])

    other, other_optimizer = trained(make_optimizer)
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(restored["module"])
    other_optimizer.load_state_dict(restored["optimizer"])
    for one, its_optimizer in ((module, optimizer), (other, other_optimizer)):
        one(torch.linspace(-1, 1, 28).reshape(4, 7)).square().mean().backward()
        its_optimizer.step()
    assert_same(dict(module.state_dict()), dict(other.state_dict()))


def test_every_kind_of_tensor_and_value_comes_back(tmp_path):
    tied = torch.randn(4, 4)
    base = torch.randn(6, 8)
    state = {
        "half": torch.randn(3).half(),
        "bfloat16": torch.randn(3).bfloat16(),
        "zero_d": torch.tensor(2.5),
        "zero_d_int": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "bool": torch.tensor([True, False]),
        "complex": torch.randn(2, dtype=torch.complex64).conj(),
        "negated": torch._neg_view(torch.ones(3)),
        "tied": [tied, tied],
        "overlapping": (base[:4], base[2:], base.flatten()),
        "transposed": base.t(),
        "strided": base[::2, 1::3],
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "parameter": nn.Parameter(torch.randn(2)),
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
        3: {"int key": 1, 4: None},
        "1": torch.ones(1),
        1: torch.zeros(1),
        "a/b": torch.ones(2),
        "a": {"b": torch.zeros(2)},
        "values": [True, 1, 1.5, float("nan"), float("-inf"), 1e-320, "text", None, (), [], {}, (0.9, 0.999), 2**70],
    }
    restored = through_disk(tmp_path, state)
    assert_same(state, restored)
    # An optimiser updates in place: tensors that came back sharing memory would both change.
    restored["tied"][0].zero_()
    assert equal_bits(restored["tied"][1], tied)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.builds(
    lambda size, dtype: torch.arange(size).to(dtype),
    st.integers(0, 4),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8]),
)  # fmt: skip
nested = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(-3, 3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(state=nested)
def test_flatten_round_trips_anything_nested(state):
    tensors, skeleton = flatten_state(state, "prefix")
    assert all(isinstance(value, torch.Tensor) and name.startswith("prefix") for name, value in tensors.items())
    assert_same(state, unflatten_state(tensors, json.loads(json.dumps(skeleton))))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(1.0), "float64"),
        (np.zeros(2), "ndarray"),
        (Path("x"), "Path"),
        (torch.float32, "dtype"),
        ({1, 2}, "set"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.empty(2, device="meta"), "meta"),
    ],
)
def test_flatten_refuses_other_types_and_names_the_key(value, kind):
    with pytest.raises(TypeError, match=rf"optimizer/state/0/odd.*{kind}"):
        flatten_state({"optimizer": {"state": {0: {"odd": value}}}})
    with pytest.raises(TypeError, match="tuple"):
        flatten_state({"optimizer": {(1, 2): 3}})


def test_save_refuses_what_could_not_be_loaded_and_names_it(tmp_path):
    for state, match in (
        ({"a": {"b": np.float32(1)}}, r"\['a'\]\['b'\].*float32"),
        ({"a": [torch.ones(1)]}, "tensors"),
    ):
        with pytest.raises(TypeError, match=match):
            save(tmp_path, 1, {}, state, keep=1)
    with pytest.raises(TypeError, match=r"wide.*complex128"):
        save(tmp_path, 1, {"wide": torch.zeros(1, dtype=torch.complex128)}, {}, keep=1)
    with pytest.raises(TypeError, match="list"):
        save(tmp_path, 1, {"list": [1.0]}, {}, keep=1)
    for step, keep in ((-1, 1), (1, 0)):
        with pytest.raises(ValueError, match="keep"):
            save(tmp_path, step, {}, {}, keep=keep)
    assert list(tmp_path.iterdir()) == []
