import itertools
import math

import numpy as np
import pytest
import torch
from parts import make_joint
from scipy import integrate

from vcrast.objectives.joint import Projections
from vcrast.objectives.sigreg import epps_pulley, normal_statistic


def by_integral(samples, last):
    """n times the weighted distance of the characteristic functions, by adaptive quadrature over the whole line."""

    def integrand(t):
        own = np.exp(1j * t * samples).mean()
        return abs(own - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2)

    return len(samples) * integrate.quad(integrand, -last, last)[0]


@pytest.mark.parametrize("num_clips", [1, 7, 30])
def test_many_knots_are_the_integral(num_clips):
    samples = torch.randn(num_clips, 3, dtype=torch.float64) * torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    found = epps_pulley(samples, num_knots=4001, last_knot=4.0)
    for value, column in zip(found, samples.T, strict=True):
        assert math.isclose(value, by_integral(column.numpy(), 4.0), rel_tol=1e-5)


def slow(samples, knots):
    total = 0.0
    for left, right in itertools.pairwise(knots):
        for t in (left, right):
            real = sum(math.cos(t * x) for x in samples) / len(samples) - math.exp(-t * t / 2)
            imaginary = sum(math.sin(t * x) for x in samples) / len(samples)
            total += (right - left) / 2 * (real**2 + imaginary**2) * math.exp(-t * t / 2)
    return 2 * len(samples) * total


def test_the_published_knots_by_hand():
    samples = [0.3, -1.2, 2.0, 0.1, 0.4]
    found = epps_pulley(torch.tensor(samples, dtype=torch.float64).unsqueeze(1), num_knots=17, last_knot=3.0)
    assert math.isclose(found.item(), slow(samples, np.linspace(0, 3, 17).tolist()), rel_tol=1e-12)


def test_gradients():
    samples = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: epps_pulley(x, num_knots=5, last_knot=3.0), (samples,))


@pytest.mark.parametrize("num_clips", [4, 50])
def test_normal_samples_have_the_stated_mean_and_equal_ones_far_more(num_clips):
    given = {"num_knots": 17, "last_knot": 3.0}
    samples = torch.randn(num_clips, 20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert math.isclose(epps_pulley(samples, **given).mean(), normal_statistic(**given), rel_tol=0.03)
    assert math.isclose(normal_statistic(**given), math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3)), rel_tol=0.01)
    collapsed = epps_pulley(torch.zeros(num_clips, 1, dtype=torch.float64), **given).item()
    whole_line = math.sqrt(2 * math.pi) - 2 * math.sqrt(math.pi) + math.sqrt(2 * math.pi / 3)
    assert math.isclose(collapsed, num_clips * whole_line, rel_tol=0.03)


def test_the_objective_weighs_invariance_and_statistic(make_encoder, plain_views):
    objective = make_joint("sigreg", make_encoder(), plain_views(num=3), regularizer_weight=0.3).double()
    views = torch.randn(3, 6, 20, dtype=torch.float64)
    directions = torch.randn(20, 7, dtype=torch.float64)
    objective.directions = directions / directions.norm(dim=0)
    found = objective.compare(Projections(views.unbind(), 3))
    statistics = [
        slow((view @ objective.directions)[:, k].tolist(), np.linspace(0, 3, 17).tolist())
        for view in views for k in range(7)
    ]  # fmt: skip
    centre = views.mean(dim=0)
    invariance = sum((view - centre).square().mean() for view in views) / 3
    expected = 0.7 * invariance + 0.3 * sum(statistics) / len(statistics)
    torch.testing.assert_close(found["loss"], expected, rtol=1e-10, atol=0)


def test_what_is_computed_again_is_the_same(make_encoder, plain_views, monkeypatch):
    objective = make_joint("sigreg", make_encoder(), plain_views()).double()
    samples = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    found = []
    for kept in (2**24, 0):
        monkeypatch.setattr("vcrast.objectives.sigreg.KEPT_NUMBERS", kept)
        value = objective.statistic(samples).sum()
        found.append((value, *torch.autograd.grad(value, samples)))
    assert all(torch.equal(*both) for both in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regularizer_weight": 1.5}, r"regularizer_weight=1\.5"), ({"num_directions": 0}, "num_directions=0"),
        ({"num_knots": 1}, "num_knots=1"), ({"last_knot": 0.0}, r"last_knot=0\.0"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options, message, make_encoder, plain_views):
    with pytest.raises(ValueError, match=message):
        make_joint("sigreg", make_encoder(), plain_views(), **options)
