import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vcrast.data.synth.counter import Dice
from vcrast.data.synth.space import INVERSES, LAWS, Parameter, Space, decibels, reflected, wrapped

SPACE = Space(
    [
        Parameter("kind", "structure", "choice", 0, 3),
        Parameter("pitch_hz", "pitch", "log", 40, 4000, size=2),
        Parameter("phase", "time", "linear", 0, 1, wraps=True),
        Parameter("level_db", "mix", "linear", -20, -1),
    ]
)


def dice(num_clips=2000, seed=0):
    return Dice.of(seed, "space", torch.arange(num_clips))


@pytest.mark.parametrize(
    ("law", "low", "high", "expected"),  # at u = 0, 1/4, 1/2, 1
    [
        ("linear", -20, 20, [-20, -10, 0, 20]),
        ("log", 40, 4000, [40, 40 * 100**0.25, 400, 4000]),
        ("rare", 0, 64, [0, 1, 8, 64]),
        ("centred", -1.5, 1.5, [-1.5, -1.5 / 8, 0, 1.5]),
        ("ends", 0, 1, [0, 0.15625, 0.5, 1]),
        ("choice", 0, 3, [0, 0, 1, 2]),
        ("choice", 1, 13, [1, 4, 7, 12]),
    ],
)
def test_laws_by_hand(law, low, high, expected):
    values = LAWS[law](torch.tensor([0, 0.25, 0.5, 1]), low, high)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("law", sorted(set(LAWS) - {"choice"}))
@given(place=st.floats(0, 1), low=st.floats(0.01, 100), width=st.floats(0.01, 1000))
def test_inverses_undo_the_laws(law, place, low, width):
    high = low + width
    value = LAWS[law](torch.tensor(place, dtype=torch.float64), low, high).item()
    # Rounding may step over an end of the range by one unit in the last place.
    found = INVERSES[law](min(max(value, low), high), low, high)
    again = LAWS[law](torch.tensor(found, dtype=torch.float64), low, high).item()
    assert -1e-12 <= found <= 1 + 1e-12
    assert again == pytest.approx(value, abs=1e-10 * high)
    # The cubes are flat at their middle, as is `ends` at its ends: there a place is known to a cube or square root.
    assert found == pytest.approx(place, abs=1e-3)


@given(st.integers(-5, 5), st.integers(1, 20), st.data())
def test_the_lowest_place_of_a_whole_number(low, count, data):
    number = data.draw(st.integers(low, low + count - 1))
    place = INVERSES["choice"](number, low, low + count)
    places = torch.tensor([place - 1e-9, place + 1e-9, place + 1 / count - 1e-9], dtype=torch.float64)
    before, first, last = LAWS["choice"](places, low, low + count).tolist()
    assert (before, first, last) == (number - 1, number, number)


def test_columns_and_values():
    assert (SPACE.size, SPACE.groups) == (5, ("mix", "pitch", "time"))
    units = SPACE.units(0.0, pitch_hz=[0.5, 1.0], level_db=1.0)
    values = SPACE.physical(units)
    assert {name: value.shape for name, value in values.items()} == {
        "kind": (1, 1), "pitch_hz": (1, 2), "phase": (1, 1), "level_db": (1, 1)
    }  # fmt: skip
    torch.testing.assert_close(values["pitch_hz"], torch.tensor([[400.0, 4000.0]]))
    assert values["level_db"].item() == -1
    with pytest.raises(KeyError, match=r"no parameter 'pich_hz'; did you mean pitch_hz\?"):
        SPACE.units(pich_hz=0.5)


def test_draws_fill_the_space_evenly():
    units = SPACE.draw(dice())
    assert units.shape == (2000, 5)
    # A uniform number has mean 1/2 and standard deviation 1 / sqrt(12); 4 standard errors of 2,000 draws.
    assert (units.mean(dim=0) - 0.5).abs().max() < 4 / math.sqrt(12 * 2000)
    assert (units.std(dim=0) - 12**-0.5).abs().max() < 0.02
    assert torch.corrcoef(units.T).fill_diagonal_(0).abs().max() < 4 / math.sqrt(2000)


def test_a_shift_has_its_groups_distance_and_structure_stays():
    units = torch.full((2000, 5), 0.5)
    moved = SPACE.shift(units, dice(), {"pitch": 0.1, "time": 0.02, "mix": 0.0})
    assert torch.equal(moved[:, 0], units[:, 0])
    assert torch.equal(moved[:, 4], units[:, 4])
    std = (moved - units).std(dim=0)
    assert std[1:3].tolist() == pytest.approx([0.1, 0.1], rel=0.06)
    assert std[3].item() == pytest.approx(0.02, rel=0.06)
    assert torch.corrcoef(moved[:, 1:4].T).fill_diagonal_(0).abs().max() < 0.1


@given(st.floats(-50, 50, width=32), st.integers(0, 2**40))
def test_nothing_leaves_the_space(value, number):
    moved = torch.tensor([value])
    for change in (reflected, wrapped):
        inside = change(moved).item()
        assert 0 <= inside <= 1
        if 0 <= value <= 1:
            assert inside == moved.item()
    units = SPACE.draw(Dice.of(1, "any", torch.tensor([number])))
    far = SPACE.shift(units, Dice.of(1, "any", torch.tensor([number])), dict.fromkeys(SPACE.groups, abs(value)))
    assert far.min() >= 0
    assert far.max() <= 1


def test_folding_and_rolling_by_hand():
    moved = torch.tensor([-0.25, 1.25, 2.25, -1.5, 0.0, 1.0])
    assert reflected(moved).tolist() == [0.25, 0.75, 0.25, 0.5, 0.0, 1.0]
    assert wrapped(moved).tolist() == [0.75, 0.25, 0.25, 0.5, 0.0, 1.0]


def test_decibels_by_hand():
    assert decibels(torch.tensor([0.0, -20.0, -6.0])).tolist() == pytest.approx([1, 0.1, 0.501187], rel=1e-5)


def test_a_space_refuses_what_it_could_not_keep_apart():
    with pytest.raises(ValueError, match="'a' is given twice"):
        Space([Parameter("a", "x", "linear", 0, 1), Parameter("a", "y", "linear", 0, 1)])
    for law, low in (("log", 0.0), ("cubic", 1.0)):
        with pytest.raises(ValueError, match=f"law '{law}'"):
            Space([Parameter("a", "x", law, low, 2)])
    names = [parameter.name for parameter in SPACE.repeated(["1", "2"])]
    assert names == ["1/kind", "1/pitch_hz", "1/phase", "1/level_db", "2/kind", "2/pitch_hz", "2/phase", "2/level_db"]
