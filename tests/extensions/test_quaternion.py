"""Compare the quaternion layer with the product written out and another package."""

import copy
import math

import pytest
import torch
from shipped import shipped

from extensions.quaternion.hamilton import hamilton_block, multiplication
from extensions.quaternion.init import polar_
from extensions.quaternion.linear import QuaternionLinear


def layer(in_features=12, out_features=20, **options):
    torch.manual_seed(0)
    made = QuaternionLinear(
        **shipped("linear/quaternion", in_features=in_features, out_features=out_features, **options)
    ).double()
    torch.nn.init.normal_(made.bias)
    return made


def product(p, q):
    """Hamilton's rules, i i = j j = k k = i j k = -1, multiplied out by hand."""
    a, b, c, d = p
    e, f, g, h = q
    return (
        a * e - b * f - c * g - d * h,
        a * f + b * e + c * h - d * g,
        a * g - b * h + c * e + d * f,
        a * h + b * g - c * f + d * e,
    )


def slow(made, values):
    """One quaternion after another, one component after another."""
    rows = []
    for value in values:
        numbers = []
        for o in range(made.out_features // 4):
            total = [0.0, 0.0, 0.0, 0.0]
            for i in range(made.in_features // 4):
                weight = [part[o, i] for part in made.parts]
                terms = product(weight, value[4 * i : 4 * i + 4])
                total = [sum_ + term for sum_, term in zip(total, terms, strict=True)]
            numbers += [component + made.bias[4 * o + c] for c, component in enumerate(total)]
        rows.append(torch.stack(numbers))
    return torch.stack(rows)


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_equals_the_hamilton_product_by_hand_with_gradients(batch):
    made = layer()
    values = torch.randn(batch, 12, dtype=torch.float64, requires_grad=True)
    fast, reference = made(values), slow(made, values)
    torch.testing.assert_close(fast, reference)
    inputs = [values, *made.parameters()]
    for a, b in zip(*(torch.autograd.grad(y.pow(3).sum(), inputs) for y in (fast, reference)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12), (0, 12), (2, 1, 3, 12)])
def test_any_number_of_leading_axes(shape):
    made, values = layer(), torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(made(values), values @ made.weight().T + made.bias)


@pytest.mark.parametrize(("n", "name"), [(2, "Complex"), (4, "Quaternion"), (8, "Octonion"), (16, "Sedenion")])
def test_multiplication_tables_equal_an_independent_package(n, name):
    package = pytest.importorskip("hypercomplex", reason="needs the package hypercomplex (extra `dev`)")
    number = getattr(package, name)
    a, b = torch.randn(2, n, dtype=torch.float64)
    ours = torch.einsum("mst,m,t->s", multiplication(n).double(), a, b)
    theirs = number(*a.tolist()) * number(*b.tolist())
    components = (theirs.real, theirs.imag) if n == 2 else tuple(theirs)
    torch.testing.assert_close(ours, torch.tensor([float(c) for c in components], dtype=torch.float64))


def test_layer_equals_an_independent_package():
    quaternion = pytest.importorskip("hypercomplex", reason="needs the package hypercomplex (extra `dev`)").Quaternion
    made, value = layer(), torch.randn(12, dtype=torch.float64)
    found = made(value).unflatten(0, (-1, 4)).tolist()
    inputs = [quaternion(*each) for each in value.unflatten(0, (-1, 4)).tolist()]
    weights = torch.stack(made.parts, dim=2).tolist()
    bias = [quaternion(*each) for each in made.bias.unflatten(0, (-1, 4)).tolist()]
    for row, start, numbers in zip(weights, bias, found, strict=True):
        total = start
        for weight, each in zip(row, inputs, strict=True):
            total = total + quaternion(*weight) * each
        assert [float(c) for c in total] == pytest.approx(numbers, abs=1e-12)


def test_cyclic_table_of_a_size_without_algebra():
    # (1 + 2 x + 3 x²) (4 + 5 x + 6 x²) modulo x³ - 1
    found = torch.einsum("mst,m,t->s", multiplication(3), torch.tensor([1.0, 2, 3]), torch.tensor([4.0, 5, 6]))
    assert found.tolist() == [4 + 2 * 6 + 3 * 5, 5 + 2 * 4 + 3 * 6, 6 + 2 * 5 + 3 * 4]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 16])
def test_every_place_of_a_table_has_one_entry(n):
    table = multiplication(n)
    assert torch.equal(table.abs().sum(dim=0), torch.ones(n, n))
    assert torch.equal(table[0], torch.eye(n))  # multiplication by 1


def times_from_the_right(values, number):
    """(..., 4 n) quaternions times one quaternion from the right."""
    parts = product(values.unflatten(-1, (-1, 4)).unbind(-1), number)
    return torch.stack(parts, dim=-1).flatten(-2)


def test_multiplication_from_the_left_commutes_with_that_from_the_right():
    made = layer()
    torch.nn.init.zeros_(made.bias)
    values, number = torch.randn(3, 12, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    torch.testing.assert_close(made(times_from_the_right(values, number)), times_from_the_right(made(values), number))
    real = torch.nn.Linear(12, 20, bias=False).double()
    assert not torch.allclose(real(times_from_the_right(values, number)), times_from_the_right(real(values), number))


def test_one_quaternion_scales_lengths_by_its_own():
    made = layer(4, 4)
    torch.nn.init.zeros_(made.bias)
    values = torch.randn(7, 4, dtype=torch.float64)
    length = torch.cat([part.flatten() for part in made.parts]).norm()
    torch.testing.assert_close(made(values).norm(dim=1), length * values.norm(dim=1))


def test_rows_and_columns_are_grouped_by_adjacent_channels():
    r, i, j, k = (torch.zeros(2, 3) for _ in range(4))
    i[1, 2] = 1.0
    block = hamilton_block(r, i, j, k)
    expected = torch.zeros(8, 12)
    expected[4:8, 8:12] = torch.tensor([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]])  # left times i
    assert torch.equal(block, expected)


@pytest.mark.parametrize(("ins", "outs"), [(192, 192), (192, 768), (768, 192)])
def test_a_quarter_of_the_weights_and_a_whole_bias(ins, outs):
    made = QuaternionLinear(**shipped("linear/quaternion", in_features=ins, out_features=outs))
    counts = {name: weight.numel() for name, weight in made.named_parameters()}
    assert counts == {**dict.fromkeys("rijk", ins * outs // 16), "bias": outs}
    assert all(weight.ndim == 2 for weight in made.parts)
    assert made.weight().shape == (outs, ins)


@pytest.mark.parametrize(("ins", "outs"), [(768, 768), (384, 1536)])
@pytest.mark.parametrize("init", ["glorot", "he"])
def test_first_weights_have_the_wanted_variance(ins, outs, init):
    made = QuaternionLinear(**shipped("linear/quaternion", in_features=ins, out_features=outs, init=init))
    wanted = math.sqrt(2 / (ins + outs)) if init == "glorot" else math.sqrt(2 / ins)
    # A quarter of in * out numbers are independent; the relative error of a std is about 1 / sqrt(their number).
    assert made.weight().std().item() == pytest.approx(wanted, rel=5 / math.sqrt(ins * outs / 4))
    assert not made.bias.any()
    values = torch.randn(512, ins)
    assert made(values).std().item() == pytest.approx(wanted * math.sqrt(ins), rel=0.02)


def test_polar_weights_favour_no_imaginary_axis():
    parts = [torch.empty(400, 500, dtype=torch.float64) for _ in range(4)]
    polar_(parts, 1.0)
    real, *imaginary = parts
    assert real.var().item() == pytest.approx(2.0, rel=0.03)
    for part in imaginary:
        assert part.var().item() == pytest.approx(2 / 3, rel=0.03)
        assert part.mean().item() == pytest.approx(0.0, abs=0.01)
    squares = torch.stack([part.square() for part in parts]).sum(dim=0)
    assert squares.mean().item() == pytest.approx(4.0, rel=0.01)  # of χ(4): mean square 4
    assert squares.var().item() == pytest.approx(8.0, rel=0.03)
    axis = torch.stack(imaginary) / torch.stack(imaginary).norm(dim=0)
    moments = axis.flatten(1) @ axis.flatten(1).T / axis[0].numel()
    torch.testing.assert_close(moments, torch.eye(3, dtype=torch.float64) / 3, atol=0.005, rtol=0)
    # On the sphere the mean of x⁴ is 1/5 whatever the direction; from a cube it is 0.18 along an axis.
    for direction in ([1.0, 0, 0], [3**-0.5] * 3):
        fourth = torch.einsum("c,cij->ij", torch.tensor(direction, dtype=torch.float64), axis).pow(4).mean()
        assert fourth.item() == pytest.approx(0.2, abs=0.003)


def test_the_seed_decides_the_first_weights():
    one, other = (layer().state_dict() for _ in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close_and_reaches_all_four_parts(dtype):
    made = layer(64, 128).float()
    values = torch.randn(33, 64)
    exact = made(values)
    exact.square().mean().backward()
    wanted = {name: weight.grad.clone() for name, weight in made.named_parameters()}
    made.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        found = made(values)
        assert made.weight().dtype == dtype
    assert found.dtype == dtype
    found.float().square().mean().backward()
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(found.float(), exact, atol=8 * rounding, rtol=4 * rounding)
    for name, weight in made.named_parameters():
        assert weight.grad.dtype == torch.float32
        assert (weight.grad - wanted[name]).norm() < 4 * rounding * wanted[name].norm(), name
        assert weight.grad.norm() > 0


def test_copies_and_saved_weights():
    made, values = layer(), torch.randn(3, 12, dtype=torch.float64)
    expected = made(values)
    twin, fresh = (
        copy.deepcopy(made),
        QuaternionLinear(**shipped("linear/quaternion", in_features=12, out_features=20)).double(),
    )
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(twin(values), expected)
    assert torch.equal(fresh(values), expected)
    with torch.no_grad():
        twin.r.add_(1.0)
    assert torch.equal(made(values), expected)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"30 -> 120 channels needs both to be multiples of 4, 30 is not; set model"):
        QuaternionLinear(**shipped("linear/quaternion", in_features=30, out_features=120))
    with pytest.raises(ValueError, match=r"32 -> 6 channels .* 6 is not"):
        QuaternionLinear(**shipped("linear/quaternion", in_features=32, out_features=6))
    with pytest.raises(ValueError, match=r"linear\.init=xavier: choose from glorot, he"):
        QuaternionLinear(**shipped("linear/quaternion", in_features=8, out_features=8, init="xavier"))
    with pytest.raises(ValueError, match="n=0"):
        multiplication(0)


def test_print_names_the_sizes():
    assert repr(layer()) == "QuaternionLinear(in_features=12, out_features=20, init=glorot)"
