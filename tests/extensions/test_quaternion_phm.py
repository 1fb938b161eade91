"""Compare hypercomplex multiplication with the sum written with torch.kron."""

import copy
import math

import pytest
import torch
from shipped import shipped
from torch.nn.functional import linear

from extensions.quaternion.hamilton import multiplication
from extensions.quaternion.linear import QuaternionLinear
from extensions.quaternion.phm import PHMLinear


def layer(n, ins=16, outs=24, **options):
    torch.manual_seed(n)
    made = PHMLinear(**shipped("linear/phm", in_features=ins, out_features=outs, n=n, **options)).double()
    for weight in made.parameters():
        torch.nn.init.normal_(weight)
    return made


@pytest.mark.parametrize("n", [1, 2, 4, 8])
@pytest.mark.parametrize("batch", [1, 5])
def test_equals_the_kronecker_sum_with_gradients(n, batch):
    made = layer(n)
    values = torch.randn(batch, 16, dtype=torch.float64, requires_grad=True)
    whole = sum(torch.kron(factor, rule) for rule, factor in zip(made.rules, made.factors, strict=True))
    fast, reference = made(values), linear(values, whole, made.bias)
    torch.testing.assert_close(fast, reference)
    inputs = [values, *made.parameters()]
    for a, b in zip(*(torch.autograd.grad(y.pow(3).sum(), inputs) for y in (fast, reference)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_papers_order_is_ours_with_channels_regrouped(n):
    made = layer(n, 24, 48)
    paper = sum(torch.kron(rule, factor) for rule, factor in zip(made.rules, made.factors, strict=True))
    rows, columns = (torch.arange(size).unflatten(0, (n, -1)).T.flatten() for size in (48, 24))
    torch.testing.assert_close(made.weight(), paper[rows][:, columns])


@pytest.mark.parametrize("learn_rules", [True, False])
def test_hamiltons_table_gives_the_quaternion_layer_to_the_last_bit(learn_rules):
    quaternion = QuaternionLinear(**shipped("linear/quaternion", in_features=32, out_features=64))
    made = PHMLinear(**shipped("linear/phm", in_features=32, out_features=64, n=4, learn_rules=learn_rules))
    with torch.no_grad():
        for factor, part in zip(made.factors, quaternion.parts, strict=True):
            factor.copy_(part)
    values = torch.randn(7, 32)
    assert torch.equal(made.weight(), quaternion.weight())
    assert torch.equal(made(values), quaternion(values))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made(values), quaternion(values))


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_number_of_weights(n):
    made = PHMLinear(**shipped("linear/phm", in_features=192, out_features=768, n=n))
    assert sum(weight.numel() for weight in made.parameters()) == n**3 + 192 * 768 // n + 768
    assert all(weight.ndim == 2 for name, weight in made.named_parameters() if name != "bias")
    fixed = PHMLinear(**shipped("linear/phm", in_features=192, out_features=768, n=n, learn_rules=False))
    assert sum(weight.numel() for weight in fixed.parameters()) == 192 * 768 // n + 768
    assert not [name for name in fixed.state_dict() if "table" in name]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("init", ["glorot", "he"])
def test_first_weights_have_the_wanted_variance(n, init):
    ins, outs = 384, 768
    wanted = math.sqrt(2 / (ins + outs) if init == "glorot" else 2 / ins)
    made = PHMLinear(**shipped("linear/phm", in_features=ins, out_features=outs, n=n, init=init))
    assert made.weight().std().item() == pytest.approx(wanted, rel=5 / math.sqrt(2 * ins * outs / n))
    assert made(torch.randn(512, ins)).std().item() == pytest.approx(wanted * math.sqrt(ins), rel=0.02)
    for rule, start in zip(made.rules, multiplication(n), strict=True):
        assert torch.equal(rule, start)


def test_pytorchs_xavier_on_stacked_matrices_is_ten_times_smaller():
    # What public layers do: of an (n, O, I) array PyTorch takes n for the outputs and O for a window of the filter.
    rules = torch.nn.init.xavier_uniform_(torch.empty(4, 4, 4))
    factors = torch.nn.init.xavier_uniform_(torch.empty(4, 192, 192))
    stacked = sum(torch.kron(factor, rule) for rule, factor in zip(rules, factors, strict=True))
    ours = PHMLinear(**shipped("linear/phm", in_features=768, out_features=768)).weight()
    assert 7 < (ours.std() / stacked.std()).item() < 15


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [2, 8])
def test_autocast_stays_close_and_reaches_every_weight(n, dtype):
    made = PHMLinear(**shipped("linear/phm", in_features=64, out_features=128, n=n))
    values = torch.randn(33, 64)
    exact = made(values)
    exact.square().mean().backward()
    wanted = {name: weight.grad.clone() for name, weight in made.named_parameters()}
    made.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        found = made(values)
    assert found.dtype == dtype
    found.float().square().mean().backward()
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(found.float(), exact, atol=8 * rounding, rtol=4 * rounding)
    for name, weight in made.named_parameters():
        assert (weight.grad - wanted[name]).norm() < 8 * rounding * wanted[name].norm(), name
        assert weight.grad.norm() > 0


@pytest.mark.parametrize("learn_rules", [True, False])
def test_copies_and_saved_weights(learn_rules):
    made = layer(4, learn_rules=learn_rules)
    values = torch.randn(3, 16, dtype=torch.float64)
    expected = made(values)  # before the copy: nothing computed may stay behind in the layer
    twin = copy.deepcopy(made)
    fresh = PHMLinear(**shipped("linear/phm", in_features=16, out_features=24, n=4, learn_rules=learn_rules)).double()
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(twin(values), expected)
    assert torch.equal(fresh(values), expected)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"phm linear\.n=8: a layer of 12 -> 48 .* multiples of 8, 12 is not"):
        PHMLinear(**shipped("linear/phm", in_features=12, out_features=48, n=8))
    with pytest.raises(ValueError, match=r"linear\.n=0"):
        PHMLinear(**shipped("linear/phm", in_features=12, out_features=48, n=0))
    with pytest.raises(ValueError, match="choose from glorot, he"):
        PHMLinear(**shipped("linear/phm", in_features=8, out_features=8, init="normal"))


def test_print_names_the_sizes():
    assert "in_features=16, out_features=24, n=2, init=glorot, learn_rules=False" in repr(layer(2, learn_rules=False))
