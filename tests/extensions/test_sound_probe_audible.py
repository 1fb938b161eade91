"""Check which parameters are audible by changing each and measuring the sound."""

import pytest
import torch

from extensions.sound_probe.audible import CONDITIONS, audible, canonical
from vcrast.data.synth.control import Grid
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.program import KINDS, LAYER, SCENE, Layers

RATE = 16000
GRID = Grid(RATE, RATE, torch.device("cpu"))
ONE = Layers(num_layers=1, grid=GRID)
SPACE = ONE.space
NUM_SOUNDS = 96


def drawn(num_layers=1, num_sounds=NUM_SOUNDS):
    dice = Dice.of(5, "acting", torch.arange(num_sounds))
    program = Layers(num_layers=num_layers, grid=GRID)
    return program.space.draw(dice), program.draw_material(dice)


def pieces():
    """(name, number within the vector) of every column."""
    return [(parameter.name, number) for parameter in SPACE.parameters for number in range(parameter.size)]


def change(units, material, column):
    """(n,) how much of the sound changes with a column: energy of the difference over that of the sound."""
    moved = units.clone()
    moved[:, column] = (moved[:, column] + 0.5) % 1
    before, after = ONE.render(units, material), ONE.render(moved, material)
    # The level is the peak's: a change far away must not count as one of loudness.
    after = after * ((before * after).sum(dim=1, keepdim=True) / after.square().sum(dim=1, keepdim=True))
    return (before - after).square().sum(dim=1) / before.square().sum(dim=1)


# Conditions without a threshold: where one fails the parameter is not read at all.
EXACT = ("count", "burst", "onset", "slow_depth", "layer_db")


@pytest.mark.slow
@pytest.mark.parametrize("name", [parameter.name for parameter in SPACE.parameters])
def test_what_does_not_act_is_not_heard_and_what_acts_is(name):
    units, material = drawn()
    acts = audible(units, 1, GRID)
    columns = SPACE.columns[name]
    # The ends of a long vector tell as much as all of it.
    for column in {columns.start, columns.start + 1, columns.stop - 1} & set(range(columns.start, columns.stop)):
        changed = change(units, material, column)
        silent, heard = changed[~acts[:, column]], changed[acts[:, column]]
        if name.rpartition("/")[2].startswith(EXACT):
            assert (silent < 1e-9).all()
        elif len(silent):
            # 20 dB below is 0.01 of the energy, 0.02 when both versions differ; formants below 2 dB may add up to more.
            assert silent.median() < 0.02
        if name != "level_db" and len(heard):
            assert (heard > 1e-9).double().mean() > 0.95
            assert not len(silent) or heard.median() > silent.median()


def test_conditions_name_parameters_that_exist():
    assert set(CONDITIONS) <= {parameter.name for parameter in (*LAYER.parameters, *SCENE.parameters)}


def one(**changes):
    """The first sound's acting names; every number of a vector under `name.number`."""
    values = {name if name in SPACE.columns else f"1/{name}": value for name, value in changes.items()}
    acts = audible(SPACE.units(**values), 1, GRID)[0]
    return {f"{name}.{number}" for (name, number), named in zip(pieces(), acts.tolist(), strict=True) if named}


def place(kind):
    return (KINDS.index(kind) + 0.5) / len(KINDS)


SLOW = {"kind": place("slow modulation")}
TONE, NOISE = {"noise_share": 0.0}, {"noise_share": 1.0}


@pytest.mark.parametrize(
    ("changes", "named", "silent"),
    [
        ({"kind": place("bursts")}, "burst_hz burst_decay floor_db start", "onset_decay_s slow_hz count"),
        ({"kind": place("onsets")}, "onset_decay_s count floor_db", "burst_hz start slow_depth"),
        (SLOW | {"slow_depth": 0.5}, "slow_hz slow_depth start", "floor_db burst_hz"),
        (SLOW | {"slow_depth": 0.1}, "slow_depth", "slow_hz start"),
        (NOISE, "equaliser_db noise_share", "f0_hz slope vibrato_hz partials_db"),
        (TONE, "f0_hz glide_octaves slope", "equaliser_db grain_hz sparsity"),
        (TONE | {"vibrato_semitones": 0.9}, "vibrato_hz", "grain_hz"),
        (TONE | {"vibrato_semitones": 0.1}, "vibrato_semitones", "vibrato_hz"),
        # 4 kHz: the second harmonic lies above 7.2 kHz, and one alone has neither slope nor formants.
        (TONE | {"f0_hz": 1.0, "formant_share": 1.0}, "f0_hz", "slope even_db formant_1_hz partials_db"),
        ({"formant_share": 1.0}, "formant_1_hz formant_width_hz", ""),
        ({"formant_share": 0.1}, "formant_share", "formant_1_hz formant_width_hz"),
        (NOISE | {"sparsity": 0.9}, "grain_hz", ""),
        (NOISE | {"sparsity": 0.1}, "sparsity", "grain_hz"),
        ({"body_share": 0.9, "reverb_share": 0.9}, "modes_hz mode_decay_s reverb_s", "layer_db"),
        ({"body_share": 0.1, "reverb_share": 0.1}, "body_share reverb_share", "modes_hz mode_decay_s reverb_s"),
    ],
)
def test_conditions_by_hand(changes, named, silent):
    found = {name.removeprefix("1/").rpartition(".")[0] for name in one(**changes)}
    assert set(named.split()) <= found
    assert not set(silent.split()) & found


def test_harmonics_above_the_highest_do_not_act():
    # 1 kHz, no glide: seven harmonics up to 7.2 kHz.
    steady = {"glide_octaves": 0.5, "vibrato_semitones": 0.0, "noise_share": 0.2}
    found = one(f0_hz=torch.log(torch.tensor(25.0)).item() / torch.log(torch.tensor(100.0)).item(), **steady)
    assert [f"1/partials_db.{number}" in found for number in range(12)] == [True] * 7 + [False] * 5


def test_onsets_beyond_the_count_do_not_act_and_the_level_of_a_single_one_neither():
    for count in (1, 2, 5, 12):
        found = one(kind=place("onsets"), count=(count - 0.5) / 12)
        assert [f"1/onset_times.{i}" in found for i in range(12)] == [i < count for i in range(12)]
        assert [f"1/onset_levels_db.{i}" in found for i in range(12)] == [1 < count > i for i in range(12)]


def test_the_level_of_a_layer_acts_when_there_are_several():
    acts = audible(drawn(3, 4)[0], 3, GRID)
    for number in (1, 2, 3):
        assert acts[:, Layers.space_of(3).columns[f"{number}/layer_db"]].all()
    assert acts.shape == (4, Layers.space_of(3).size)


def test_the_canonical_order_is_sorted_and_sounds_the_same():
    units, material = drawn(2, 24)
    ordered, space = canonical(units, 2), Layers.space_of(2)
    assert not torch.equal(units, ordered)
    before, after = (Layers(num_layers=2, grid=GRID).render(each, material) for each in (units, ordered))
    torch.testing.assert_close(after, before, atol=2e-4, rtol=0)
    modes = ordered[:, space.columns["modes_hz"]]
    assert (modes.diff(dim=1) >= 0).all()
    for number in "12":
        times, levels = space.columns[f"{number}/onset_times"], space.columns[f"{number}/onset_levels_db"]
        counts = space.physical(units)[f"{number}/count"].long().squeeze(1).tolist()
        for before, after, count in zip(units.tolist(), ordered.tolist(), counts, strict=True):
            heard = sorted(zip(before[times][:count], before[levels][:count], strict=True))
            assert list(zip(after[times][:count], after[levels][:count], strict=True)) == heard
            assert after[times][count:] == before[times][count:]
