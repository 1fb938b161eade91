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


@pytest.mark.parametrize("known", ["at once", "one step later"])
def test_a_bad_loss_is_told_once_with_the_weights_that_its_step_began_with(known):
    """On CUDA a bad step is known in the next one, whose forward has written the running statistics already."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    engine, told, states = make_engine(model), [], {}
    engine.device = torch.device("cpu" if known == "at once" else "cuda")  # which decides when counters are read
    engine.on_bad_loss = lambda number: told.append((number, len(states), copy.deepcopy(engine.weights_before())))
    for number in range(1, 6):
        states[number] = copy.deepcopy(model.state_dict())
        engine.remember_buffers()
        loss = model(torch.randn(4, 3)).square().sum()
        engine.backward(loss * (float("nan") if number in (2, 4) else 1.0), last=True)
        engine.step(1e-1)
    ((bad, at, found),) = told
    assert (bad, at) == (2, 2 if known == "at once" else 3)
    assert found.keys() == states[2].keys()
    for name, value in states[2].items():
        assert torch.equal(found[name], value), name
    assert not torch.equal(states[2]["1.running_mean"], states[4]["1.running_mean"])
