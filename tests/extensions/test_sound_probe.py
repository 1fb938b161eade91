"""Probe encoders that know all parameters, none, or one."""

import math

import numpy as np
import pytest
import torch
from parts import make_doppelgangers

from extensions.sound_probe.audible import audible
from extensions.sound_probe.probe import FEWEST, Probed, enough, generate, kind_of, probe, score, targets
from vcrast.data.synth.control import Grid
from vcrast.data.synth.counter import Dice
from vcrast.data.synth.program import KINDS, Layers

RATE = 16000
GRID = Grid(RATE // 2, RATE, torch.device("cpu"))
SHORT = {"num_samples": RATE // 2, "sample_rate": RATE}


def drawn(num_sounds, num_layers=1, seed=0):
    return Layers.space_of(num_layers).draw(Dice.of(seed, "units", torch.arange(num_sounds)))


def knows_all(units, num_layers=1):
    """(n, D) everything that the probe asks for, mixed up by a random matrix."""
    asked = [target.values for target in targets(units, num_layers, GRID)]
    kinds = torch.nn.functional.one_hot(kind_of(units, num_layers), len(KINDS)).flatten(1)
    everything = torch.cat([*asked, kinds], dim=1).double()
    size = everything.shape[1]
    return everything @ torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def scored():
    units = drawn(3000)
    noise = torch.randn(3000, 40, generator=torch.Generator().manual_seed(2))
    pitch = units[:, Layers.space_of(1).columns["1/f0_hz"]]
    return units, score({"all": knows_all(units), "noise": noise, "pitch": pitch}, units, 1, GRID)


def test_an_encoder_that_returns_the_parameters_is_read_off_exactly(scored):
    _, found = scored
    assert set(found.parameters) == {name.removeprefix("1/") for name in Layers.space_of(1).columns} - {
        "kind",
        "layer_db",
    }
    # A late onset acts in a few sounds only, hardly more than there are dimensions.
    assert min(finding.r2["all"] for finding in found.parameters.values()) > 0.99
    assert min(scores["all"] for scores in found.groups.values()) > 0.99
    assert found.accuracy["all"] == 1


def test_an_encoder_that_returns_noise_explains_nothing(scored):
    _, found = scored
    assert max(finding.r2["noise"] for finding in found.parameters.values()) < 0.05
    assert np.mean([finding.r2["noise"] for finding in found.parameters.values()]) < 0.01
    assert found.accuracy["noise"] < found.chance + 0.05
    assert 1 / 3 < found.chance < 0.4


def test_an_encoder_that_knows_the_pitch_knows_nothing_else(scored):
    _, found = scored
    assert found.parameters["f0_hz"].r2["pitch"] > 0.999
    others = [finding.r2["pitch"] for name, finding in found.parameters.items() if name != "f0_hz"]
    assert max(others) < 0.05


def test_what_is_scored_where(scored):
    units, found = scored
    assert found.unscored == ("layer_db",)
    assert (found.num_train, found.num_held_out) == (2250, 750)
    p = Layers.space_of(1).physical(units[2250:])
    angle = math.pi / 2 * p["1/noise_share"].squeeze(1)
    assert found.parameters["f0_hz"].held_out == int((angle.tan() <= 10).sum())
    assert found.parameters["burst_hz"].held_out == int((p["1/kind"] == 0).sum())
    assert found.parameters["level_db"].held_out == 750
    # A phase is a cosine and a sine; the later one of 12 onsets, the fewer sounds have it.
    assert found.parameters["start"].columns == 2
    several = ((p["1/kind"] == 1) & (p["1/count"] > torch.arange(12))).sum(dim=0)
    assert found.parameters["onset_times"].columns == int((several >= FEWEST).sum()) < 12
    assert found.parameters["partials_db"].columns == 12
    assert found.groups["pitch"]["noise"] == pytest.approx(
        np.mean(
            [found.parameters[n].r2["noise"] for n in ("f0_hz", "glide_octaves", "vibrato_hz", "vibrato_semitones")]
        )
    )


def test_sounds_in_which_a_parameter_does_not_act_change_neither_fit_nor_score(scored):
    units, found = scored
    column = Layers.space_of(1).columns["1/burst_hz"]
    silent = ~audible(units, 1, GRID)[:, column].squeeze(1)
    embeddings = knows_all(units).clone()
    # Nonsense where there are no bursts: a model fitted or scored there would fail.
    embeddings[silent] = 1e3 * torch.randn(int(silent.sum()), embeddings.shape[1], dtype=torch.float64)
    other = score({"all": embeddings}, units, 1, GRID)
    assert other.parameters["burst_hz"] == found.parameters["burst_hz"]._replace(
        r2={"all": found.parameters["burst_hz"].r2["all"]}
    )
    assert other.parameters["level_db"].r2["all"] < 0.9


def test_one_parameter_by_hand():
    """R2 of `sparsity` on a poor embedding: chosen sounds, plain least squares at the penalty's lower end, one sum."""
    units = drawn(400)
    space = Layers.space_of(1)
    columns = {
        name: units[:, space.columns[f"1/{name}"]].squeeze(1).double().numpy() for name in ("sparsity", "noise_share")
    }
    random = np.random.default_rng(0)
    embedding = columns["sparsity"] + 0.01 * random.normal(size=400)
    share = columns["noise_share"] ** 2 * (3 - 2 * columns["noise_share"])
    noisy = np.tan(math.pi / 2 * share) >= 0.1
    train, test = noisy & (np.arange(400) < 300), noisy & (np.arange(400) >= 300)
    slope, offset = np.polyfit(embedding[train], columns["sparsity"][train], 1)
    target = columns["sparsity"][test]
    error = ((slope * embedding[test] + offset - target) ** 2).sum()
    expected = 1 - error / ((target - target.mean()) ** 2).sum()
    found = score({"poor": torch.from_numpy(embedding[:, None])}, units, 1, GRID)
    assert found.parameters["sparsity"].r2["poor"] == pytest.approx(expected, abs=1e-4)
    assert found.parameters["sparsity"].held_out == test.sum()


def test_phases_and_whole_numbers():
    units = drawn(50)
    units[0, Layers.space_of(1).columns["1/start"]] = 0.25
    units[0, Layers.space_of(1).columns["1/count"]] = 0.999
    found = {target.name: target for target in targets(units, 1, GRID)}
    torch.testing.assert_close(found["start"].values[0], torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)
    assert found["count"].values[0] == 1
    assert ((found["count"].values * 11).round() + 1).equal(Layers.space_of(1).physical(units)["1/count"])
    assert "kind" not in found
    assert all(target.values.shape == target.audible.shape == (50, target.values.shape[1]) for target in found.values())


def test_layers_are_columns_of_one_parameter():
    units = drawn(400, 2)
    found = score({"all": knows_all(units, 2)}, units, 2, GRID)
    assert found.parameters["f0_hz"].columns == 2
    assert found.parameters["layer_db"].columns == 2
    assert found.parameters["level_db"].columns == 1
    assert found.accuracy["all"] > 0.95
    assert kind_of(units, 2).shape == (400, 2)


def test_enough_sounds_on_both_sides():
    acts = torch.zeros(200, 3, dtype=torch.bool)
    acts[: FEWEST - 1, 0], acts[150:, 0] = True, True
    acts[:150, 1], acts[150 : 150 + FEWEST - 1, 1] = True, True
    acts[:FEWEST, 2], acts[150 : 150 + FEWEST, 2] = True, True
    assert enough(acts, 150).tolist() == [False, False, True]


def loudness(wavs):
    """(b, S) -> (b, 2): the level of the peak, which is `level_db`, and a thing of no interest."""
    return torch.stack([20 * wavs.abs().amax(dim=1).log10(), wavs[:, 7]], dim=1)


def test_from_sounds_to_scores_and_the_same_for_a_seed():
    seen = []
    found = probe({"loud": loudness}, num_sounds=130, seed=3, heard=seen.append, **SHORT)
    assert found.parameters["level_db"].r2["loud"] > 0.999
    assert found.parameters["noise_share"].r2["loud"] < 0.5
    assert seen == [64, 128, 130]
    assert (found.num_train, found.num_held_out) == (98, 32)
    assert probe({"loud": loudness}, num_sounds=130, seed=3, **SHORT) == found
    other = probe({"loud": loudness}, num_sounds=130, seed=4, **SHORT)
    assert isinstance(other, Probed)
    assert other != found


def test_sounds_are_none_of_pretrainings_and_more_of_them_begin_with_the_fewer():
    few = next(generate(10, GRID, seed=0, num_layers=1))
    many = next(generate(16, GRID, seed=0, num_layers=1))
    assert torch.equal(few.units, many.units[:10])
    torch.testing.assert_close(few.wavs, many.wavs[:10], atol=1e-4, rtol=0)
    pretraining = make_doppelgangers(**SHORT, distance=0.0, num_layers=1).batch(0, 10)
    assert not torch.isin(few.units, pretraining.units).any(dim=1).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_sounds": 119}, "119 sounds: .* at least 120"),
        ({"sample_rate": 8000}, "8000 Hz: .* at least 16000"),
        ({"num_samples": 1600}, "0.1 s: .* at least 0.5"),
        ({"num_layers": 0}, "at least 1 layer"),
        ({"embedders": {"mine": lambda wavs: wavs[0]}}, "mine: must give"),
        ({"embedders": {"mine": lambda wavs: wavs[:3]}}, r"mine: must give \(64, D\)"),
        ({"embedders": {"mine": lambda wavs: wavs * torch.nan}}, "NaN"),
    ],
)
def test_what_cannot_be_probed_is_refused(change, said):
    options = {"embedders": {"loud": loudness}, "num_sounds": 120, **SHORT, **change}
    with pytest.raises(ValueError, match=said):
        probe(options.pop("embedders"), **options)
