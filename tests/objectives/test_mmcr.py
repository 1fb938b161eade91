import math

import pytest
import torch
from parts import make_joint

from vcrast.objectives.joint import Projections
from vcrast.objectives.mmcr import mmcr_floor


def slow(views, weight):
    """The paper's equation, singular values as roots of eigenvalues, one clip at a time."""
    normal = [[row / row.norm() for row in view] for view in views]
    num_clips = len(normal[0])
    centroids = torch.stack([sum(view[clip] for view in normal) / len(views) for clip in range(num_clips)])

    def nuclear(matrix):
        small = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
        return torch.linalg.eigvalsh(small).clamp_min(0).sqrt().sum()

    own = [nuclear(torch.stack([view[clip] for view in normal])) for clip in range(num_clips)]
    return -nuclear(centroids) + weight * sum(own) / num_clips


@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("shape", [(2, 5, 9), (3, 9, 4)])
def test_loss_equals_the_formula_with_gradients(weight, shape, make_encoder, plain_views):
    objective = make_joint("mmcr", make_encoder(), plain_views(), compactness_weight=weight).double()
    views = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    loss, expected = objective.compare(Projections(views.unbind(), 2))["loss"], slow(views, weight)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    found, reference = (torch.autograd.grad(value, views)[0] for value in (loss, expected))
    torch.testing.assert_close(found, reference, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_equal_views_in_all_directions_are_the_floor(shape, make_encoder, plain_views):
    objective = make_joint("mmcr", make_encoder(), plain_views(), compactness_weight=0.5).double()
    rows = torch.eye(shape[1], dtype=torch.float64)[torch.arange(shape[0]) % shape[1]]
    if shape == (9, 4):
        # Nine equally spaced rows of a tight frame: columns of a discrete Fourier transform.
        angle = torch.arange(9, dtype=torch.float64) * 2 * math.pi / 9
        rows = torch.stack([angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()], dim=1) / math.sqrt(2)
    found = objective.compare(Projections((rows, rows), 2))
    torch.testing.assert_close(found["loss"].item(), mmcr_floor(*shape) + 0.5 * math.sqrt(2), rtol=1e-9, atol=0)
    assert abs(found["above_floor"]) < 1e-8
    torch.testing.assert_close(found["length"].item(), 1.0)
    # Collapse: one direction.
    alike = torch.ones(shape, dtype=torch.float64)
    torch.testing.assert_close(
        objective.compare(Projections((alike, alike), 2))["centroids"].item(), math.sqrt(shape[0])
    )


def test_a_negative_weight_is_refused(make_encoder, plain_views):
    with pytest.raises(ValueError, match="compactness_weight=-1"):
        make_joint("mmcr", make_encoder(), plain_views(), compactness_weight=-1.0)
