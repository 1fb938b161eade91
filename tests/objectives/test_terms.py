import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vcrast.objectives.terms import (
    covariance_term,
    invariance_term,
    reachable_covariance_weight,
    variance_term,
    vcr_floor,
)

WEIGHTS = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}


def random_views(num_clips, dims, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, num_clips, dims, dtype=torch.float64, generator=generator).requires_grad_()


def slow_covariance(z):
    z = z - z.mean(dim=0)
    total = z.new_zeros(())
    for i in range(z.shape[1]):
        for j in range(z.shape[1]):
            if i != j:
                total = total + ((z[:, i] * z[:, j]).sum() / (len(z) - 1)) ** 2
    return total / z.shape[1]


def test_invariance_by_hand():
    za, zb = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    torch.testing.assert_close(invariance_term(za, zb), torch.tensor((0 + 4 + 9 + 0) / 4))


def test_variance_by_hand():
    z = torch.tensor([[0.0, 3.0, 0.0], [2.0, 3.0, 0.5]])  # stds sqrt(2), 0, 0.354: hinges 0, 0.99, 1 - sqrt(0.1251)
    torch.testing.assert_close(variance_term(z), torch.tensor((0 + 0.99 + 1 - math.sqrt(0.1251)) / 3))


def test_variance_gradient_is_finite_at_collapse():
    z = torch.ones(4, 3, requires_grad=True)
    variance_term(z).backward()
    assert z.grad.isfinite().all()


def test_covariance_by_hand():
    z = torch.tensor([[1.0, 2.0], [-1.0, 0.0], [0.0, -2.0]])  # centred; covariance (2 + 0 + 0) / 2 = 1
    torch.testing.assert_close(covariance_term(z), torch.tensor((1 + 1) / 2.0))


@pytest.mark.parametrize(("num_clips", "dims"), [(2, 5), (5, 11), (7, 8), (7, 7), (8, 7), (23, 6)])
def test_covariance_equals_the_definition_with_gradient(num_clips, dims):
    z = random_views(num_clips, dims)[0].detach().requires_grad_()
    fast, slow = covariance_term(z), slow_covariance(z)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-14)
    a, b = (torch.autograd.grad(term, z)[0] for term in (fast, slow))
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 1000))
def test_small_and_large_form_agree_on_both_sides_of_square(num_clips, dims, seed):
    z = random_views(num_clips, dims, seed)[0].detach()
    torch.testing.assert_close(covariance_term(z), slow_covariance(z), rtol=1e-10, atol=1e-12)


def test_nearly_uncorrelated_dimensions_do_not_cancel_in_fp32():
    rotation = torch.linalg.qr(torch.randn(4000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    z = rotation - rotation.mean(dim=0)
    z = torch.linalg.qr(z).Q * 4000**0.5  # centred and uncorrelated to 1e-15
    z[:, 1] += 1e-4 * z[:, 0]  # one correlation of 1e-4: the term is 2 (1e-4)^2 / 8
    exact = covariance_term(z)
    assert exact.item() == pytest.approx(2.5e-9, rel=1e-2)
    torch.testing.assert_close(covariance_term(z.float()).double(), exact, rtol=1e-2, atol=0)


def test_fewer_clips_than_dimensions_never_build_dims_by_dims():
    dims = 200_000  # the square would take 160 GB
    assert covariance_term(torch.randn(3, dims)).isfinite()


TABLE = [  # clips, dimensions, std at the loss's minimum, the minimum, largest covariance weight that leaves std 1
    (6, 4096, 0.156, 22.07, 0.0038),
    (12, 4096, 0.203, 21.19, 0.0084),
    (12, 1024, 0.324, 18.93, 0.034),
    (48, 4096, 0.331, 18.79, 0.036),
    (96, 4096, 0.420, 17.12, 0.074),
    (96, 8192, 0.332, 18.77, 0.037),
    (2048, 8192, 1.0, 6.0, 1.0),
]


@pytest.mark.parametrize(("num_clips", "dims", "std", "expected", "weight"), TABLE)
def test_floor_values(num_clips, dims, std, expected, weight):
    assert vcr_floor(num_clips, dims, WEIGHTS) == pytest.approx(expected, abs=0.01)
    # The closed form in terms of the std there: 25 (1 - 3/4 s), or 2 k where s reaches 1.
    closed = 25 * (1 - 0.75 * std) if std < 1 else 2 * (dims / (num_clips - 1) - 1)
    assert vcr_floor(num_clips, dims, WEIGHTS) == pytest.approx(closed, abs=0.02)
    assert reachable_covariance_weight(num_clips, dims) == pytest.approx(weight, rel=0.02)


def test_floor_is_zero_with_enough_clips():
    assert vcr_floor(65, 64, WEIGHTS) == 0.0


@pytest.mark.parametrize(("num_clips", "dims", "weight"), [(4, 24, 1.0), (6, 40, 0.3), (9, 20, 1.0)])
def test_free_embeddings_reach_the_floor_and_no_more(num_clips, dims, weight):
    z = random_views(num_clips, dims)[0].detach().requires_grad_()
    weights = {**WEIGHTS, "covariance": weight}
    optimizer = torch.optim.Adam([z], lr=0.05)
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 1500)
        loss = 25 * variance_term(z) + 2 * weight * covariance_term(z)  # both views equal: invariance 0
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    floor = vcr_floor(num_clips, dims, weights)
    assert loss.item() == pytest.approx(floor, rel=2e-3)  # the neglected 1e-4 under the root
    assert loss.item() > floor * 0.998


def test_at_the_reachable_weight_the_floor_has_std_one():
    weight = reachable_covariance_weight(12, 4096)
    k = 4096 / 11 - 1
    assert vcr_floor(12, 4096, {**WEIGHTS, "covariance": weight}) == pytest.approx(2 * k * weight)  # no hinge left
    assert vcr_floor(12, 4096, {**WEIGHTS, "covariance": 1.01 * weight}) > 2 * k * weight
