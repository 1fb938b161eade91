import math
from statistics import NormalDist

import pytest
import torch
from parts import make_joint

from vcrast.objectives.joint import Projections
from vcrast.objectives.visreg import normal_quantiles, shape_floor, shape_term


def slow_shape(z, directions):
    """Written out: a std without gradient, a sort of every direction, quantiles of the standard library."""
    num_clips, dims = z.shape
    columns = []
    for dim in range(dims):
        mean = sum(z[:, dim]) / num_clips
        std = (sum((value - mean) ** 2 for value in z[:, dim]) / (num_clips - 1) + 1e-4) ** 0.5
        columns.append((z[:, dim] - mean) / std.detach())
    total = 0.0
    for direction in directions.T:
        along = sorted(sum(columns[dim][clip] * direction[dim] for dim in range(dims)) for clip in range(num_clips))
        for place, value in enumerate(along, start=1):
            total = total + (value - NormalDist().inv_cdf(place / (num_clips + 1))) ** 2
    return total / num_clips / directions.shape[1]


@pytest.mark.parametrize("shape", [(2, 3), (7, 3), (6, 11)])
def test_shape_equals_the_formula_with_gradients(shape):
    z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    directions = torch.randn(shape[1], 5, dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    found, expected = shape_term(z, directions), slow_shape(z, directions)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    own, reference = (torch.autograd.grad(value, z)[0] for value in (found, expected))
    torch.testing.assert_close(own, reference, rtol=1e-8, atol=1e-11)


def test_the_quantiles_themselves_are_the_floor_of_one_dimension():
    for num_clips in (3, 8, 65):
        quantiles = normal_quantiles(num_clips, like=torch.empty(0, dtype=torch.float64))
        z = quantiles.flip(0).unsqueeze(1) * 5 + 2
        found = shape_term(z, torch.ones(1, 1, dtype=torch.float64))
        torch.testing.assert_close(found.item(), shape_floor(num_clips), rtol=1e-3, atol=1e-6)
        other = torch.randn(num_clips, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        assert shape_term(other, torch.ones(1, 1, dtype=torch.float64)) > shape_floor(num_clips)
    assert math.isclose(shape_floor(100000), 0, abs_tol=1e-6)


def test_the_objective_adds_its_terms(make_encoder, plain_views):
    weights = {"centre_weight": 0.5, "scale_weight": 2.0, "shape_weight": 3.0, "regularizer_weight": 0.3}
    objective = make_joint("visreg", make_encoder(), plain_views(), **weights).double()
    views = torch.randn(2, 6, 20, dtype=torch.float64)
    directions = torch.randn(20, 7, dtype=torch.float64)
    objective.directions = directions / directions.norm(dim=0)
    found = objective.compare(Projections(views.unbind(), 2))
    centre = sum(view.mean(dim=0).square().mean() for view in views) / 2
    scale = sum((1 - view.std(dim=0)).square().mean() for view in views) / 2
    shape = sum(slow_shape(view, objective.directions) for view in views) / 2
    invariance = (views[0] - views[1]).square().mean() / 4
    expected = 0.7 * invariance + 0.3 * (0.5 * centre + 2 * scale + 3 * shape)
    torch.testing.assert_close(found["loss"], expected, rtol=1e-4, atol=0)  # 1e-4 under the root of the std
    torch.testing.assert_close(found["floor"].item(), 0.9 * shape_floor(6))


def test_collapse_has_a_gradient_where_sigregs_vanishes(make_encoder, plain_views):
    # The paper's reason for a two-sided scale term: near one point it still pulls apart.
    z = 1e-3 * torch.randn(8, 20, dtype=torch.float64)
    gradients = {}
    for name in ("visreg", "sigreg"):
        objective = make_joint(name, make_encoder(), plain_views(), regularizer_weight=1.0).double()
        directions = torch.randn(20, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        objective.directions = directions / directions.norm(dim=0)
        own = z.clone().requires_grad_()
        loss = objective.compare(Projections((own, own), 2))["loss"]
        gradients[name] = torch.autograd.grad(loss, own)[0].norm()
    assert gradients["visreg"] > 10 * gradients["sigreg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regularizer_weight": -0.1}, r"regularizer_weight=-0\.1"), ({"num_directions": 0}, "num_directions=0"),
        ({"shape_weight": -1.0}, r"shape_weight=-1\.0"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options, message, make_encoder, plain_views):
    with pytest.raises(ValueError, match=message):
        make_joint("visreg", make_encoder(), plain_views(), **options)
