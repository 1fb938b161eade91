import itertools
import math

import numpy as np
import pytest
import torch

from vcrast.features.draws import PARTNER_BLOCK, Draws


def read_all(draws: Draws) -> dict[str, torch.Tensor]:
    return {
        "uniform": draws.uniform("u", 3, low=-2.0, high=5.0),
        "normal": draws.normal("n", 2, 2),
        "beta": draws.beta("b", 2.0, 3.0),
        "integers": draws.integers("i", 7),
        "permutation": draws.permutation("p"),
    }


def test_shapes_types_and_ranges():
    drawn = read_all(Draws(1, 2, 11))
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {
        "uniform": (11, 3),
        "normal": (11, 2, 2),
        "beta": (11,),
        "integers": (11,),
        "permutation": (11,),
    }
    assert all(drawn[name].dtype == torch.float32 for name in ("uniform", "normal", "beta"))
    assert all(drawn[name].dtype == torch.int64 for name in ("integers", "permutation"))
    assert drawn["uniform"].min() >= -2
    assert drawn["uniform"].max() < 5


@pytest.mark.parametrize("cuts", [(0, 11), (0, 4, 11), (0, 1, 2, 3, 11)])
def test_slices_equal_the_whole(cuts):
    whole = read_all(Draws(1, 2, 11))
    draws = Draws(1, 2, 11)
    parts = [read_all(draws.slice(a, b)) for a, b in itertools.pairwise(cuts)]
    for name, value in whole.items():
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), value, rtol=0, atol=0)


def test_a_slice_of_a_slice_and_a_rank_count_from_the_global_batch():
    whole = Draws(5, 0, 12).uniform("x")
    torch.testing.assert_close(Draws(5, 0, 12).slice(4, 10).slice(1, 3).uniform("x"), whole[5:7], rtol=0, atol=0)
    torch.testing.assert_close(Draws(5, 0, 12, start=4, stop=8).slice(2, 4).uniform("x"), whole[6:8], rtol=0, atol=0)


def test_order_and_other_names_do_not_matter():
    first, second = Draws(0, 0, 5), Draws(0, 0, 5)
    x = first.uniform("x")
    second.normal("y", 4)
    second.permutation("z")
    torch.testing.assert_close(second.uniform("x"), x, rtol=0, atol=0)
    torch.testing.assert_close(second.uniform("x"), x, rtol=0, atol=0)


def test_names_steps_and_seeds_are_independent_streams():
    num_clips = 20_000
    reference = Draws(0, 0, num_clips).uniform("x").numpy()
    for other in (
        Draws(0, 0, num_clips).uniform("y"),
        Draws(0, 1, num_clips).uniform("x"),
        Draws(1, 0, num_clips).uniform("x"),
    ):
        assert abs(np.corrcoef(reference, other.numpy())[0, 1]) < 5 / math.sqrt(num_clips)


def test_seed_step_and_name_are_not_run_together():
    assert Draws(1, 12, 2).torch_seed() != Draws(11, 2, 2).torch_seed()
    assert Draws(0, 0, 4).torch_seed() == Draws(0, 0, 4).torch_seed()
    assert Draws(0, 0, 4).slice(2, 4).torch_seed() != Draws(0, 0, 4).torch_seed()
    assert 0 <= Draws(0, 0, 4).torch_seed() < 2**63


def test_moments():
    n = 40_000
    draws = Draws(3, 4, n)
    tolerance = 5 / math.sqrt(n)  # five standard errors of a unit-variance mean
    uniform, normal = draws.uniform("u", low=2.0, high=6.0), draws.normal("n")
    assert abs(uniform.mean() - 4) < tolerance * 4 / math.sqrt(12)
    assert abs(uniform.var() - 16 / 12) < tolerance * 16 / math.sqrt(180)  # var of (x - mean)^2 is 16^2 / 180
    assert abs(normal.mean()) < tolerance
    assert abs(normal.var() - 1) < tolerance * math.sqrt(2)
    a, b = 2.0, 5.0
    beta = draws.beta("b", a, b)
    variance = a * b / ((a + b) ** 2 * (a + b + 1))
    assert abs(beta.mean() - a / (a + b)) < tolerance * math.sqrt(variance)
    assert abs(beta.var() / variance - 1) < 0.05
    counts = draws.integers("i", 8).bincount(minlength=8)
    assert ((counts - n / 8) ** 2 / (n / 8)).sum() < 30  # chi-squared of 7 degrees: 24.3 at p = 0.001


@pytest.mark.parametrize("num_clips", [2, 3, 7, 8, 9, 15, 16, 31, 64])
def test_permutation_is_a_derangement_of_neighbours(num_clips):
    for step in range(20):
        partner = Draws(0, step, num_clips).permutation("p")
        position = torch.arange(num_clips)
        assert torch.equal(partner.sort().values, position)
        assert (partner != position).all()
        assert ((partner - position).abs() < 2 * PARTNER_BLOCK).all()


def test_one_clip_is_its_own_partner():
    assert Draws(0, 0, 1).permutation("p").tolist() == [0] == Draws(0, 0, 1).partners("p").tolist()


def test_every_neighbour_becomes_the_partner_equally_often():
    num_clips = 2 * PARTNER_BLOCK - 1  # one run
    counts = torch.zeros(num_clips)
    for step in range(2000):
        counts[Draws(0, step, num_clips).permutation("p")[1]] += 1
    assert counts[1] == 0
    others = counts[torch.arange(num_clips) != 1]
    expected = 2000 / (num_clips - 1)
    assert ((others - expected) ** 2 / expected).sum() < 11  # chi-squared of 1 degree: 10.8 at p = 0.001


def test_partners_do_not_depend_on_ranks_that_hold_whole_blocks():
    whole = Draws(0, 0, 32).partners("p")
    for start in range(0, 32, PARTNER_BLOCK):
        part = Draws(0, 0, 32, start=start, stop=start + PARTNER_BLOCK).partners("p")
        torch.testing.assert_close(part + start, whole[start : start + PARTNER_BLOCK], rtol=0, atol=0)


def test_partners_stay_inside_a_part_that_cuts_a_block():
    for start, stop in ((0, 3), (5, 11), (6, 8), (3, 20)):
        partner = Draws(0, 0, 20, start=start, stop=stop).partners("p")
        assert ((partner >= 0) & (partner < stop - start)).all()
        assert (partner != torch.arange(stop - start)).all()


def test_device_argument():
    assert Draws(0, 0, 2, device=torch.device("cpu")).uniform("x").device.type == "cpu"
    assert Draws(0, 0, 2, device="meta").uniform("x").device.type == "meta"


@pytest.mark.gpu
def test_gpu_numbers_are_those_of_the_cpu():
    for name, value in read_all(Draws(1, 2, 11)).items():
        torch.testing.assert_close(read_all(Draws(1, 2, 11, device="cuda").slice(3, 9))[name].cpu(), value[3:9])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"\[0, 9\).*batch of 8"):
        Draws(0, 0, 8, stop=9)
    with pytest.raises(ValueError, match=r"\[2, 5\).*4 clips"):
        Draws(0, 0, 8, start=4).slice(2, 5)
    draws = Draws(0, 0, 8)
    draws.uniform("x")
    with pytest.raises(ValueError, match="its own name"):
        draws.normal("x")


def test_first_is_the_first_clip_of_the_batch_whatever_the_part():
    whole = read_all(Draws(1, 2, 11))
    for draws in (Draws(1, 2, 11), Draws(1, 2, 11, start=5, stop=9), Draws(1, 2, 11).slice(3, 10).slice(1, 2)):
        for name, value in read_all(draws.first()).items():
            torch.testing.assert_close(value, whole[name][:1], rtol=0, atol=0)
        assert draws.size == len(draws.uniform("u", 3, low=-2.0, high=5.0))


def test_shared_numbers_depend_on_seed_step_and_name_alone():
    shared = Draws(1, 2, 11).shared_normal("directions", 300, 7)
    assert shared.shape == (300, 7)
    assert shared.dtype == torch.float32
    for draws in (Draws(1, 2, 11).slice(3, 5), Draws(1, 2, 11, start=10), Draws(1, 2, 64), Draws(1, 2, 1)):
        assert torch.equal(draws.shared_normal("directions", 300, 7), shared)
    others = (
        Draws(0, 2, 11).shared_normal("directions", 300, 7),
        Draws(1, 3, 11).shared_normal("directions", 300, 7),
        Draws(1, 2, 11).shared_normal("x", 300, 7),
    )
    for other in others:
        assert abs(np.corrcoef(shared.flatten(), other.flatten())[0, 1]) < 5 / math.sqrt(2100)
    assert abs(shared.mean()) < 5 / math.sqrt(2100)
    assert abs(shared.var() - 1) < 5 * math.sqrt(2 / 2100)


def test_shared_numbers_have_a_name_of_their_own():
    draws = Draws(0, 0, 8)
    draws.normal("x", 4)
    with pytest.raises(ValueError, match="its own name"):
        draws.shared_normal("x", 4)
