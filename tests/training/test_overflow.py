"""Where values first leave the finite numbers, on layers whose numbers are known."""

import copy

import pytest
import torch
from parts import make_engine
from torch import nn

from vcrast.training.overflow import bad_tensors, traced


class Pair(nn.Module):
    """Two layers whose product overflows in fp16 only, behind a layer that returns a tuple."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2, bias=False)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, values):
        return self.inner(values), {"name": "text", "scaled": self.norm(values[:, :2])}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_first_layer_that_overflows_is_named_with_its_numbers(dtype):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), Pair()).to(dtype)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3) * 300)
        model[2].inner.weight.copy_(torch.tensor([[6e4, 6e4, 0.0], [1.0, 0.0, 0.0]]))
    with traced(model) as trace:
        model(torch.full((4, 3), 2.0, dtype=dtype))
    assert [seen.name for seen in trace.outputs] == ["0", "1", "2.inner", "2.norm", "2", "2"]
    assert trace.outputs[0].largest == 600
    assert trace.outputs[0].largest_input == 2
    found = trace.first_bad()
    if dtype == torch.float32:
        assert found is None
        assert trace.largest().name == "2.inner"
    else:
        assert (found.name, found.num_bad, found.num_nan, found.size, found.largest) == ("2.inner", 4, 0, 8, 1)
        assert str(found) == (
            "2.inner (Linear), float16: 4 of 8 values infinite, largest |value| 1, of what it was given 1"
        )
    assert not model[0]._forward_hooks


def test_a_gradient_that_overflows_is_named_from_the_loss_back():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[1].weight.copy_(torch.eye(2) * 1e20)
    with traced(model) as trace:
        (model(torch.full((1, 2), 1e-20)).sum() * 1e30).backward()
    assert trace.first_bad() is None
    assert trace.first_bad_gradient().name == "0"
    assert [seen.name for seen in trace.gradients if not seen.num_bad] == ["1"]


def test_bad_weights_are_named():
    assert bad_tensors({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "c": torch.tensor(3)}) == ["b"]


def test_a_bad_loss_is_told_once_with_the_weights_that_its_step_began_with():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    engine, told = make_engine(model), []

    def keep(number):
        told.append((number, copy.deepcopy(engine.weights_before())))

    engine.on_bad_loss = keep
    for number in range(1, 5):
        before = copy.deepcopy(model.state_dict())
        engine.remember_buffers()
        loss = model(torch.randn(4, 3)).sum()
        engine.backward(loss * (float("nan") if number in (2, 3) else 1.0), last=True)
        if number == 2:
            at_bad = before
        engine.step(1e-3)
    assert [number for number, _ in told] == [2]
    for name, value in at_bad.items():
        assert torch.equal(told[0][1][name], value), name


def test_known_one_step_later_the_running_statistics_are_those_before():
    """On CUDA a bad step is known in the next one, whose forward has written the statistics already."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    engine = make_engine(model)
    before = copy.deepcopy(model.state_dict())
    engine.remember_buffers()
    model(torch.randn(4, 3))
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    found = engine.weights_before()
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], value) for name, value in before.items())
