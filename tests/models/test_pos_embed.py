import math

import pytest
import torch

from vcrast.models.pos_embed import (
    LearnedPositions,
    SinCosPositions,
    bilinear_weights,
    patch_coordinates,
    sincos_1d,
    sincos_2d,
)

PATCH = (16, 16)


def positions(module, grid, stride=PATCH):
    return module(grid, PATCH, stride, like=torch.zeros(1)).unflatten(0, grid)


def test_sincos_by_hand():
    vectors = sincos_1d(torch.tensor([0.0, 2.0]), 4)  # frequencies 1 and 1/100
    expected = [[0, 0, 1, 1], [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]]
    torch.testing.assert_close(vectors, torch.tensor(expected, dtype=torch.float64))


def test_first_half_tells_time_second_half_frequency():
    table = positions(SinCosPositions(embed_dim=32), (5, 3))
    assert torch.equal(table[:, 0, :16], table[:, 2, :16])
    assert torch.equal(table[0, :, 16:], table[4, :, 16:])
    assert not torch.allclose(table[0, 0, :16], table[1, 0, :16])


@pytest.mark.parametrize("make", ["sincos", "learned"])
def test_same_time_same_vector_under_length_and_stride(make):
    module = SinCosPositions(embed_dim=16) if make == "sincos" else LearnedPositions(embed_dim=16, grid=(12, 8))
    reference = positions(module, (12, 8))
    torch.testing.assert_close(positions(module, (7, 8)), reference[:7])  # a shorter clip
    halved = positions(module, (23, 15), (8, 8))  # patches that overlap by half
    torch.testing.assert_close(halved[::2, ::2], reference)
    by_ten = positions(module, (18, 12), (10, 10))  # starts 0, 10, ..., 80 = 5 patches
    torch.testing.assert_close(by_ten[8, 8], reference[5, 5])


def test_longer_clip_keeps_sincos_and_stretches_learned():
    fixed = SinCosPositions(embed_dim=16)
    torch.testing.assert_close(positions(fixed, (20, 8))[:12], positions(fixed, (12, 8)))
    learned = LearnedPositions(embed_dim=16, grid=(12, 8))
    longer = positions(learned, (23, 8))
    torch.testing.assert_close(longer[0], learned.table[0])
    torch.testing.assert_close(longer[-1], learned.table[-1])
    torch.testing.assert_close(longer[11], (learned.table[5] + learned.table[6]) / 2)  # the middle of either


def test_bilinear_weights_by_hand():
    weights = bilinear_weights(torch.tensor([0.0, 0.25, 2.0, 2.5], dtype=torch.float64), 3)
    expected = [[1, 0, 0], [0.75, 0.25, 0], [0, 0, 1], [0, 0, 1]]  # 2.5 overhangs by less than a cell
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))


def test_learned_positions_are_exact_on_their_own_grid():
    module = LearnedPositions(embed_dim=8, grid=(5, 3))
    assert torch.equal(positions(module, (5, 3)), module.table)


def test_sincos_needs_a_multiple_of_four():
    with pytest.raises(ValueError, match="embed_dim=30"):
        SinCosPositions(embed_dim=30)


def test_sincos_is_no_state():
    assert not SinCosPositions(embed_dim=8).state_dict()
    assert sincos_2d(patch_coordinates((2, 3), PATCH, PATCH), 8).shape == (6, 8)
