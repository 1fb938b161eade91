import math

import numpy as np
import pytest
import torch

from vcrast.data.synth.counter import Dice, splitmix64


def test_splitmix64_known_outputs():
    # First outputs of Vigna's splitmix64.c for the state 1234567, as published with its test vectors.
    step = 0x9E3779B97F4A7C15
    states = [(1234567 + i * step) % 2**64 for i in range(5)]
    signed = torch.tensor([state - 2**64 if state >= 2**63 else state for state in states])
    assert [int(value) % 2**64 for value in splitmix64(signed)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def splitmix64_by_hand(state: int) -> int:
    """The same in Python's unbounded integers."""
    bits = (state + 0x9E3779B97F4A7C15) % 2**64
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
    return bits ^ bits >> 31


def test_splitmix64_equals_unbounded_integers():
    states = [0, 1, -1, 2**63 - 1, -(2**63), 123456789123456789]
    ours = [int(value) % 2**64 for value in splitmix64(torch.tensor(states))]
    assert ours == [splitmix64_by_hand(state % 2**64) for state in states]


def dice(num_clips: int = 3, seed: int = 0) -> Dice:
    return Dice.of(seed, "class", torch.arange(num_clips))


def test_a_clip_does_not_depend_on_its_batch_and_a_draw_not_on_its_length():
    whole = dice(5).uniform("x", 9)
    alone = Dice.of(0, "class", torch.tensor([3])).uniform("x", 4)
    torch.testing.assert_close(alone[0], whole[3, :4], rtol=0, atol=0)


@pytest.mark.parametrize("other", ["name", "seed", "class"])
def test_streams_are_uncorrelated(other):
    n = 50_000
    x = dice(1).uniform("x", n)[0].numpy()
    y = {
        "name": dice(1).uniform("y", n),
        "seed": dice(1, seed=1).uniform("x", n),
        "class": Dice.of(0, "other", torch.arange(1)).uniform("x", n),
    }[other][0].numpy()
    assert abs(np.corrcoef(x, y)[0, 1]) < 5 / math.sqrt(n)


def test_neighbouring_clips_and_samples_are_uncorrelated():
    x = dice(200).normal("x", 500)
    n = x.numel()
    for a, b in ((x[:-1], x[1:]), (x[:, :-1], x[:, 1:])):
        assert abs(float((a * b).mean())) < 5 / math.sqrt(n)


def test_distributions():
    n = 100_000
    uniform, normal = dice(1).uniform("u", n, -1.0, 3.0)[0], dice(1).normal("n", n)[0]
    assert uniform.min() >= -1
    assert uniform.max() < 3
    counts = ((uniform + 1) * 4).long().bincount(minlength=16)
    assert ((counts - n / 16) ** 2 / (n / 16)).sum() < 45  # chi-squared of 15 degrees: 37.7 at p = 0.001
    assert abs(normal.mean()) < 5 / math.sqrt(n)
    assert abs(normal.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((normal**4).mean() - 3) < 5 * math.sqrt(96 / n)


def test_white_noise_has_a_flat_spectrum():
    power = torch.fft.rfft(dice(64).normal("n", 1024)).abs().square().mean(dim=0)[1:512] / 1024
    octaves = [power[2**k : 2 ** (k + 1)].mean() for k in range(3, 9)]
    torch.testing.assert_close(torch.stack(octaves), torch.ones(6), rtol=0.2, atol=0)
