import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vcrast.data.synth.counter import Dice
from vcrast.data.synth.program import LAYER
from vcrast.data.synth.regions import Region
from vcrast.data.synth.space import Parameter, Space

SPACE = Space(
    [
        Parameter("kind", "structure", "choice", 0, 3),
        Parameter("pitch_hz", "pitch", "log", 40, 4000),
        Parameter("glide", "pitch", "centred", -1.5, 1.5),
        Parameter("level_db", "mix", "linear", -20, -1, size=3),
        Parameter("share", "mix", "ends", 0, 1),
    ]
)


def drawn(spans, num_clips=4000, space=SPACE):
    return space.physical(Region("any", spans, space).draw(Dice.of(0, "any", torch.arange(num_clips))))


def test_values_lie_in_their_spans_and_fill_them():
    values = drawn(
        {"pitch_hz": (100, 400), "glide": (-0.5, 1), "level_db": [(-9, -3), -5, (-20, -1)], "share": (0.2, 1)}
    )
    for name, column, low, high in (
        ("pitch_hz", 0, 100, 400), ("glide", 0, -0.5, 1), ("level_db", 0, -9, -3), ("level_db", 2, -20, -1),
        ("share", 0, 0.2, 1),
    ):  # fmt: skip
        found, slack = values[name][:, column], 1e-5 * (high - low)
        assert low - slack <= found.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < found.max() <= high + slack
    torch.testing.assert_close(values["level_db"][:, 1], torch.full((4000,), -5.0))
    assert set(values["kind"].flatten().tolist()) == {0, 1, 2}


def test_the_law_says_how_often_a_value_comes():
    values = drawn({"pitch_hz": (100, 400), "level_db": (-9, -3)})
    # Half of the pitches lie below the middle octave, half of the levels below the middle level.
    assert values["pitch_hz"].median().item() == pytest.approx(200, rel=0.03)
    assert values["level_db"].median().item() == pytest.approx(-6, abs=0.1)


@pytest.mark.parametrize(("low", "high"), list(itertools.combinations_with_replacement(range(1, 13), 2)))
def test_whole_numbers_are_equally_likely_and_never_another(low, high):
    count = Space([Parameter("count", "structure", "choice", 1, 13)])
    found = drawn({"count": (low, high)}, 6000, count)["count"].flatten()
    often = found.long().bincount(minlength=13)
    assert often.sum() == often[low : high + 1].sum()
    expected = 6000 / (high - low + 1)
    assert (often[low : high + 1] - expected).abs().max() <= 5 * math.sqrt(expected)


@given(st.sampled_from([p for p in LAYER.parameters if p.law != "choice"]), st.floats(0, 1), st.floats(0, 1))
def test_any_span_of_any_parameter_is_kept(parameter, one, other):
    low, high = sorted(parameter.low + (parameter.high - parameter.low) * share for share in (one, other))
    low, high = max(low, parameter.low), min(high, parameter.high)
    found = drawn({parameter.name: (low, high)}, 50, LAYER)[parameter.name]
    # Values are float32.
    slack = 2e-6 * max(abs(parameter.low), abs(parameter.high))
    assert low - slack <= found.min()
    assert found.max() <= high + slack


def test_regions_are_apart_where_no_value_is_in_both():
    low = Region("low", {"pitch_hz": (100, 200), "kind": 0, "level_db": [-9, -8, -7]}, SPACE)
    assert low.apart(Region("b", {"pitch_hz": (201, 300), "kind": (1, 2)}, SPACE)) == ("kind", "pitch_hz")
    assert low.apart(Region("c", {"pitch_hz": (200, 300), "kind": (0, 1)}, SPACE)) == ()
    assert low.apart(Region("d", {"level_db": [-9, -7, -7]}, SPACE)) == ("level_db",)
    assert low.apart(low) == ()


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({"pich_hz": (100, 200)}, r"region 'any': no parameter 'pich_hz'; did you mean pitch_hz\?"),
        ({"pitch_hz": (10, 200)}, r"pitch_hz=\(10, 200\) must go up and lie within 40 to 4000"),
        ({"pitch_hz": (100, 5000)}, r"pitch_hz=\(100, 5000\).*within 40 to 4000"),
        ({"pitch_hz": (200, 100)}, r"pitch_hz=\(200, 100\) must go up"),
        ({"pitch_hz": float("nan")}, r"pitch_hz=\(nan, nan\)"),
        ({"kind": (0, 3)}, r"kind=\(0, 3\).*within 0 to 2"),
        ({"kind": (0, 1.5)}, r"kind=\(0, 1\.5\) must be whole numbers"),
        ({"level_db": [-3, -4]}, "level_db has 3 numbers, 2 spans"),
    ],
)
def test_mistakes_are_named(spans, message):
    with pytest.raises(ValueError, match=message):
        Region("any", spans, SPACE)
