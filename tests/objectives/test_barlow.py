import pytest
import torch
from parts import make_joint

from vcrast.objectives.barlow import barlow_floor, correlation_terms


def slow(za, zb, weight):
    """Equations 1 and 2 of the paper, one number at a time; BatchNorm's epsilon in the variances."""
    za, zb = za - za.mean(dim=0), zb - zb.mean(dim=0)
    loss = 0.0
    for i in range(za.shape[1]):
        for j in range(za.shape[1]):
            spread = ((za[:, i].square().mean() + 1e-5) * (zb[:, j].square().mean() + 1e-5)).sqrt()
            correlation = (za[:, i] * zb[:, j]).mean() / spread
            loss = loss + ((1 - correlation) ** 2 if i == j else weight * correlation**2)
    return loss


@pytest.mark.parametrize("shape", [(3, 7), (7, 7), (11, 5)])  # fewer clips than dimensions, as many, more
def test_terms_equal_the_formula_with_gradients(shape):
    za, zb = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    on, off = correlation_terms(za, zb)
    loss, expected = on + 0.3 * off, slow(za, zb, 0.3)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    found = torch.autograd.grad(loss, (za, zb))
    for own, reference in zip(found, torch.autograd.grad(expected, (za, zb)), strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-8, atol=1e-11)


def test_equal_uncorrelated_dimensions_have_no_loss_and_equal_ones_the_most():
    rows = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    on, off = correlation_terms(rows, rows)
    assert on < 1e-8
    assert off < 1e-8
    alike = rows[:, :1].expand(-1, 3)
    torch.testing.assert_close(correlation_terms(alike, alike)[1].item(), 6.0, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("num_clips", "dims"), [(5, 12), (12, 5), (4, 40)])
def test_no_batch_is_below_the_bound(num_clips, dims):
    # Descends from random views, each by itself: nothing ties them to one another but the loss.
    views = torch.randn(2, num_clips, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    views.requires_grad_()
    optimizer = torch.optim.LBFGS([views], max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        on, off = correlation_terms(*views)
        loss = on + 0.1 * off
        loss.backward()
        return loss

    optimizer.step(closure)
    bound, reached = barlow_floor(num_clips, dims, 0.1), closure().item()
    assert bound - 1e-3 < reached
    assert reached < 1.5 * bound + 1e-3  # it says something


def test_the_objective_adds_the_terms(make_encoder, plain_views):
    objective = make_joint("barlow", make_encoder(), plain_views(), redundancy_weight=0.5).double()
    vectors = torch.randn(2, 9, 16, dtype=torch.float64)
    losses = objective.batch_losses(dict(zip("ab", vectors, strict=True)))
    expected = slow(*(objective.projector(view) for view in vectors), 0.5)
    torch.testing.assert_close(losses["loss"], expected, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="redundancy_weight=-1"):
        make_joint("barlow", make_encoder(), plain_views(), redundancy_weight=-1.0)
