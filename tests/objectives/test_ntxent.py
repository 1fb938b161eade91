import math

import pytest
import torch
from parts import make_joint
from torch.nn import functional as F

from vcrast.objectives.ntxent import ntxent_floor


def slow(za, zb, temperature):
    """Equation 1 of the paper for every row, one number at a time."""
    rows = [row / row.norm() for row in (*za, *zb)]
    num_clips, total = len(za), 0.0
    for i, row in enumerate(rows):
        j = (i + num_clips) % len(rows)
        others = [torch.exp(row @ rows[k] / temperature) for k in range(len(rows)) if k != i]
        total = total - torch.log(torch.exp(row @ rows[j] / temperature) / sum(others))
    return total / len(rows)


def make(make_encoder, plain_views, **options):
    return make_joint("ntxent", make_encoder(), plain_views(), **options).double()


@pytest.mark.parametrize("shape", [(2, 5), (5, 3), (7, 20)])
def test_loss_equals_the_formula_with_gradients(shape, make_encoder, plain_views):
    objective = make(make_encoder, plain_views, temperature=0.3)
    za, zb = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss, expected = objective.of_pair(za, zb)["loss"], slow(za, zb, 0.3)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for own, reference in zip(*(torch.autograd.grad(value, (za, zb)) for value in (loss, expected)), strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-9, atol=1e-12)


def test_a_teachers_rows_are_the_only_negatives(make_encoder, plain_views):
    objective = make(make_encoder, plain_views, temperature=0.3)
    own, target = torch.randn(2, 6, 4, dtype=torch.float64)
    expected = 0.0
    for i in range(6):
        cosines = F.cosine_similarity(own[i].unsqueeze(0), target, dim=1) / 0.3
        expected = expected - torch.log(cosines[i].exp() / cosines.exp().sum()) / 6
    torch.testing.assert_close(objective.against_teacher(own, target)["loss"], expected, rtol=1e-12, atol=0)


def test_what_is_shown_by_hand(make_encoder, plain_views):
    objective = make(make_encoder, plain_views)
    za = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    shown = objective.of_pair(za, za.flip(0))  # each clip's other view is the other clip's vector
    assert shown["found"] == 0
    assert shown["positive"] == 0
    torch.testing.assert_close(shown["negative"].item(), 0.5)  # one of each row's two is equal to it


@pytest.mark.parametrize("num_clips", [2, 3, 6])
def test_a_simplex_is_the_floor(num_clips, make_encoder, plain_views):
    objective = make(make_encoder, plain_views, temperature=0.5)
    corners = torch.eye(num_clips, dtype=torch.float64) - 1 / num_clips
    least = objective.of_pair(corners, 3 * corners)["loss"].item()
    assert math.isclose(least, ntxent_floor(num_clips, 2 * (num_clips - 1), 0.5), rel_tol=1e-12)
    taught = objective.against_teacher(corners, corners)["loss"].item()
    assert math.isclose(taught, ntxent_floor(num_clips, num_clips - 1, 0.5), rel_tol=1e-12)
    for seed in range(20):
        views = torch.randn(2, num_clips, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert objective.of_pair(*views)["loss"] > least
        assert objective.against_teacher(*views)["loss"] > taught
    alike = torch.ones(num_clips, 3, dtype=torch.float64)
    assert math.isclose(objective.of_pair(alike, alike)["loss"].item(), math.log(2 * num_clips - 1), rel_tol=1e-12)


def test_a_temperature_of_zero_is_refused(make_encoder, plain_views):
    with pytest.raises(ValueError, match="temperature=0"):
        make(make_encoder, plain_views, temperature=0.0)
