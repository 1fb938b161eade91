"""Check the stream of pairs: the same on any ranks, never silent, never clipped."""

import itertools
import math
import os
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measure import NUM_DRAWS, RATE, assert_sounds
from parts import assert_a_gpu_makes_the_same, make_doppelgangers

from vcrast.data.synth.control import Grid
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.program import Layers

HALF_SECOND = RATE // 2


def stream(num_samples=HALF_SECOND, **options):
    return make_doppelgangers(**{"num_samples": num_samples, "sample_rate": RATE, **options})


def test_a_batch():
    pairs = stream().batch(0, 5)
    assert pairs.wavs.shape == (5, 2, HALF_SECOND)
    assert pairs.wavs.dtype == torch.float32
    assert pairs.units.shape == (5, 2, Layers.space_of(2).size)
    assert_sounds(pairs.wavs.flatten(0, 1))


@given(st.data(), st.integers(2, 21), st.integers(0, 10**9))
@settings(max_examples=25)
def test_any_slice_is_that_part_of_the_batch_bit_for_bit(data, batch_size, step):
    sounds = stream(num_layers=1)
    whole = sounds.batch(step, batch_size)
    cuts = sorted(data.draw(st.sets(st.integers(1, batch_size - 1), max_size=3)))
    edges = [0, *cuts, batch_size]
    parts = [sounds.batch(step, batch_size, start=a, stop=b) for a, b in itertools.pairwise(edges)]
    assert torch.equal(torch.cat([part.wavs for part in parts]), whole.wavs)
    assert torch.equal(torch.cat([part.units for part in parts]), whole.units)


def test_a_pair_depends_on_seed_step_and_position_alone():
    first = stream().batch(3, 4)
    assert torch.equal(stream().batch(3, 4).wavs, first.wavs)
    # Number 12 of the stream is the first of batch 3 of 4, and of batch 1 of 12.
    torch.testing.assert_close(stream().batch(1, 12, stop=4).wavs, first.wavs, rtol=0, atol=2e-5)
    for other in (stream(seed=1).batch(3, 4), stream().batch(4, 4)):
        assert (other.units - first.units).abs().mean() > 0.2
        assert not torch.isclose(other.wavs, first.wavs).all(dim=2).any()


def test_layers_are_the_default_and_sound_as_they_always_did():
    """Samples of the stream as it was before there were other programs: old runs can be made again."""
    pairs = stream(program="layers").batch(0, 4)
    assert torch.equal(stream().batch(0, 4).wavs, pairs.wavs)
    heard = [[-5.352086e-03, -6.286512e-02, 2.058191e-01, 3.997003e-02],
             [-8.076217e-04, -3.601356e-02, 5.350510e-02, 5.944831e-04]]  # fmt: skip
    torch.testing.assert_close(pairs.wavs[0, :, 1777::1777], torch.tensor(heard), rtol=0, atol=2e-4)
    loudness = [[0.081322, 0.131086], [0.043601, 0.032877], [0.015694, 0.012682], [0.063487, 0.021921]]
    torch.testing.assert_close(pairs.wavs.square().mean(dim=2).sqrt(), torch.tensor(loudness), rtol=0, atol=1e-4)


def test_a_program_is_asked_and_nothing_else():
    numbers = torch.arange(3)
    sounds = stream(distance=0.2, distances={"noise": 0.4})
    found = sounds.render(numbers, sounds.distances(0))
    first, other = Dice.of(0, "doppelganger", numbers), Dice.of(0, "doppelganger/second", numbers)
    program = Layers(num_layers=2, grid=sounds.grid)
    material, noise = program.draw_material(first), program.draw_noise(other)
    turn = 0.4 * math.pi / 2
    second = material._replace(noise=material.noise * math.cos(turn) + noise * math.sin(turn))
    for place, part in enumerate((material, second)):
        wavs = program.render(found.units[:, place], part)
        torch.testing.assert_close(found.wavs[:, place], wavs, rtol=0, atol=2e-5)


def test_nothing_of_torchs_own_generator_is_used():
    torch.manual_seed(1)
    first = stream().batch(0, 2).wavs
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(stream().batch(0, 2).wavs, first)
    assert torch.equal(torch.get_rng_state(), before)


def test_late_in_the_stream_sounds_differ_still():
    late = stream(num_layers=1).batch(10**12, 2).wavs
    assert_sounds(late.flatten(0, 1))
    assert not torch.allclose(late[0, 0], late[1, 0], atol=0.01)


def test_distance_0_gives_equal_views_bit_for_bit():
    pairs = stream(distance=0.0).batch(0, 6)
    assert torch.equal(pairs.wavs[:, 0], pairs.wavs[:, 1])
    assert torch.equal(pairs.units[:, 0], pairs.units[:, 1])


def test_parameters_are_as_far_apart_as_asked_group_by_group():
    sounds = stream(distance=0.02, distances={"pitch": 0.0, "space": 0.06}, num_layers=1)
    units = sounds.batch(0, 300).units
    apart = units[:, 1] - units[:, 0]
    # Where the first lies far from both ends nothing is reflected.
    inside = ((units[:, 0] > 0.25) & (units[:, 0] < 0.75)).float()
    std = ((apart.square() * inside).sum(dim=0) / inside.sum(dim=0)).sqrt()
    wanted = {"pitch": 0.0, "space": 0.06, "structure": 0.0}
    for parameter in sounds.space.parameters:
        for found in std[sounds.space.columns[parameter.name]].tolist():
            assert found == pytest.approx(wanted.get(parameter.group, 0.02), rel=0.25), parameter.name


def test_noise_is_the_same_or_another_as_asked():
    same, other = (stream(distance=0.0, distances={"noise": noise}, num_layers=1) for noise in (0.0, 1.0))
    hissing = torch.full((1, same.space.size), 0.5)
    hissing[:, same.space.columns["1/noise_share"]] = 1.0
    for sounds, low, high in ((same, 0.999, 1.001), (other, -0.1, 0.1)):
        numbers = torch.arange(4)
        material = sounds._material(numbers, Dice.of(0, "doppelganger", numbers), sounds.distances(0)["noise"])
        wavs = sounds.program.render(hissing.expand(8, -1), material).unflatten(0, (4, 2))
        for first, second in wavs:
            assert low < torch.corrcoef(torch.stack([first, second]))[0, 1] < high


def test_the_schedule_is_a_straight_line_that_ends():
    sounds = stream(distance=0.05, final_distance=0.25, distance_steps=100, distances={"noise": 1.0, "time": 0.3})
    for step, common in ((0, 0.05), (25, 0.1), (100, 0.25), (5000, 0.25)):
        distances = sounds.distances(step)
        assert distances["pitch"] == pytest.approx(common)
        assert (distances["noise"], distances["time"]) == (1.0, 0.3)
    assert set(sounds.distances(0)) == {*sounds.space.groups, "noise"}
    pitch = sounds.space.columns["1/f0_hz"]
    near, far = (sounds.batch(step, 64).units[:, :, pitch].diff(dim=1).abs().mean() for step in (0, 100))
    assert far > 3 * near


@given(st.integers(0, 2**32 - 1), st.sampled_from([8000, 8001, 9973, 16000]), st.integers(1, 3))
@settings(max_examples=60)
def test_corners_of_the_space_sound(seed, num_samples, num_layers):
    """Every parameter at 0, at 1 or in between."""
    chance = random.Random(seed)
    program = Layers(num_layers=num_layers, grid=Grid(num_samples, RATE, torch.device("cpu")))
    corners = [chance.choice((0.0, 1.0, chance.random())) for _ in range(4 * program.space.size)]
    units = torch.tensor(corners).view(4, program.space.size)
    assert_sounds(program.render(units, program.draw_material(Dice.of(seed, "corner", torch.arange(4)))))


def test_all_at_one_end_sounds():
    program = Layers(num_layers=2, grid=Grid(HALF_SECOND, RATE, torch.device("cpu")))
    units = torch.tensor([[0.0], [1.0], [0.5], [2**-24], [1 - 2**-24]]).expand(-1, program.space.size)
    assert_sounds(program.render(units, program.draw_material(Dice.of(0, "ends", torch.arange(5)))))


@pytest.mark.slow
def test_a_great_many_draws_sound():
    sounds, size = stream(), 50
    wanted = int(os.environ.get("VCRAST_SYNTH_DRAWS", NUM_DRAWS))
    for step in range(math.ceil(wanted / (2 * size))):
        pairs = sounds.batch(step, size)
        assert_sounds(pairs.wavs.flatten(0, 1))
        levels = sounds.space.physical(pairs.units.flatten(0, 1))["level_db"]
        peaks = 20 * pairs.wavs.abs().flatten(0, 1).amax(dim=1, keepdim=True).log10()
        torch.testing.assert_close(peaks, levels, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distances": {"pich": 0.1}}, r"source\.distances\.pich: no such group.*did you mean pitch\?"),
        ({"distance": -0.1}, r"distance=-0\.1 must be a number from 0"),
        ({"distance": float("nan")}, "distance=nan must be a number from 0"),
        ({"distances": {"noise": -1.0}}, r"noise=-1\.0 must be a number from 0"),
        ({"final_distance": 0.3}, r"source\.final_distance=0\.3, source\.distance_steps=0: set both"),
        ({"distance_steps": 5}, r"source\.final_distance=None, source\.distance_steps=5: set both"),
        ({"num_samples": 7999}, r"at least 0\.5"),
        ({"num_layers": 0}, r"source\.num_layers=0"),
    ],
)
def test_mistakes_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        stream(**options)


def test_a_low_rate_and_a_wrong_slice_are_named():
    with pytest.raises(ValueError, match=r"data\.sample_rate=8000: generated sounds reach 7 kHz"):
        stream(sample_rate=8000)
    with pytest.raises(ValueError, match=r"positions \[2, 2\) do not lie in a batch of 4 pairs"):
        stream().batch(0, 4, start=2, stop=2)


@pytest.mark.gpu
def test_a_gpu_makes_the_same_sounds_and_waits_for_nothing():
    assert_a_gpu_makes_the_same(num_samples=RATE)
