"""Check the average of weights against a loop in float64."""

import pytest
import torch
from torch import nn

from vcrast.training.average import WeightAverage, copy_weights, lent, put_weights, trained


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()


def change(net, step):
    generator = torch.Generator().manual_seed(step)
    for value in trained(net).values():
        with torch.no_grad():
            value.add_(torch.randn(value.shape, generator=generator, dtype=value.dtype))


NO, YES = torch.tensor(False), torch.tensor(True)


def test_it_is_the_formula(net):
    average = WeightAverage(net, 0.7)
    expected = {name: value.clone() for name, value in net.state_dict().items() if value.is_floating_point()}
    for step in range(1, 40):
        change(net, step)
        skipped = step % 5 == 0
        average.follow(YES if skipped else NO)
        decay = min(0.7, step / (9 + step))
        for name, value in net.state_dict().items():
            if value.is_floating_point() and not skipped:
                expected[name] = decay * expected[name] + (1 - decay) * value
    assert average.weights.keys() == expected.keys()
    assert "1.running_var" in expected
    for name, value in expected.items():
        torch.testing.assert_close(average.weights[name], value, rtol=1e-12, atol=1e-12)


def test_frozen_weights_are_left_out_and_lent_ones_are_taken_back(net):
    net[0].requires_grad_(False)
    average = WeightAverage(net, 0.5)
    assert not [name for name in average.weights if name.startswith("0.")]
    change(net, 1)
    now = {name: value.clone() for name, value in net.state_dict().items()}
    average.follow(NO)
    with lent(net, average.weights):
        for name, value in average.weights.items():
            assert torch.equal(net.state_dict()[name], value)
        assert torch.equal(net.state_dict()["0.weight"], now["0.weight"])
    assert all(torch.equal(net.state_dict()[name], value) for name, value in now.items())


def test_a_resumed_average_goes_on_to_the_bit(net):
    calm, stopped = WeightAverage(net, 0.9), WeightAverage(net, 0.9)
    for step in range(1, 9):
        change(net, step)
        calm.follow(NO)
        if step == 4:
            state = stopped.state_dict()
            stopped = WeightAverage(net, 0.9)
            stopped.load_state_dict(state)
        stopped.follow(NO)
    assert stopped.steps == 8
    assert all(torch.equal(calm.weights[name], value) for name, value in stopped.weights.items())


def test_copies_are_copies(net):
    kept = copy_weights(net)
    change(net, 1)
    assert not torch.equal(kept["0.weight"], net[0].weight)
    put_weights(net, kept)
    assert torch.equal(kept["0.weight"], net[0].weight)


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0, float("nan")])
def test_a_decay_lies_between_0_and_1(net, decay):
    with pytest.raises(ValueError, match=r"ema_decay=.* must lie between 0 and 1"):
        WeightAverage(net, decay)
