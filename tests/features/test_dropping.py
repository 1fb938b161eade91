import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parts import make_ast
from shipped import shipped

from vcrast.features.draws import Draws
from vcrast.features.dropping import Dropping
from vcrast.features.fbank import Fbank
from vcrast.features.views import build_views


def make(drop="random", patch_drop=0.5, crop_frequency=1.0):
    return Dropping(drop=drop, patch_drop=patch_drop, crop_frequency=crop_frequency)


def kept(dropping, grid, number=0, *, num_clips=5, step=0):
    """(b, t, f) bool: which tokens stay; their places are ascending and inside the grid."""
    keep = dropping.keep(Draws(3, step, num_clips), f"view{number}", grid, number)
    if keep is None:
        return torch.ones(num_clips, *grid, dtype=torch.bool)
    assert (keep.diff(dim=1) > 0).all()
    mask = torch.zeros(num_clips, grid[0] * grid[1], dtype=torch.bool)
    return mask.scatter_(1, keep, True).unflatten(1, grid)


@given(
    st.sampled_from(["time", "frequency"]), st.integers(2, 9), st.integers(2, 9), st.floats(0, 0.99),
    st.sampled_from([1.0, 0.7, 0.3]),
)  # fmt: skip
def test_whole_columns_or_rows_stay(drop, time, frequency, amount, crop_frequency):
    found = kept(make(drop, amount, crop_frequency), (time, frequency))
    columns, rows = found.any(dim=2), found.any(dim=1)
    assert torch.equal(found, columns.unsqueeze(2) & rows.unsqueeze(1))  # a product of columns and rows
    num_rows = max(1, round(frequency * crop_frequency))
    length = time if drop == "time" else num_rows
    left = length - min(round(length * amount), length - 1)
    expected = (left, num_rows) if drop == "time" else (time, left)
    assert set(columns.sum(dim=1).tolist()) == {expected[0]}
    assert set(rows.sum(dim=1).tolist()) == {expected[1]}


def test_columns_and_rows_take_turns_each_with_its_own_share():
    dropping = make("time_frequency", [0.6, 0.4])
    first, second, third = (kept(dropping, (10, 5), number) for number in range(3))
    assert first.any(dim=2).sum(dim=1).tolist() == [4] * 5
    assert first.any(dim=1).all()
    assert second.any(dim=1).sum(dim=1).tolist() == [3] * 5
    assert second.any(dim=2).all()
    assert third.any(dim=2).sum(dim=1).tolist() == [4] * 5
    assert not torch.equal(first, third)


def test_clips_differ_and_every_column_stays_equally_often():
    found = kept(make("time", 0.5), (6, 2), num_clips=4000).any(dim=2).float()
    assert len(found.unique(dim=0)) == 20  # 6 over 3
    np.testing.assert_allclose(found.mean(dim=0), 0.5, atol=5 * 0.5 / 4000**0.5)


def test_neighbouring_rows_stay_each_place_equally_often():
    found = kept(make("random", 0.0, 0.5), (3, 8), num_clips=4000)
    assert found.all(dim=1).any(dim=1).all()  # rows of all columns
    rows = found.any(dim=1)
    first = rows.float().argmax(dim=1)
    assert torch.equal(rows, (torch.arange(8) >= first.unsqueeze(1)) & (torch.arange(8) < first.unsqueeze(1) + 4))
    np.testing.assert_allclose(first.bincount(minlength=5) / 4000, 0.2, atol=5 * 0.4 / 4000**0.5)


def test_random_tokens_are_taken_of_the_rows_that_are_left():
    found = kept(make("random", 0.5, 0.5), (4, 6))
    assert found.sum(dim=(1, 2)).tolist() == [6] * 5  # half of 4 x 3
    rows = found.any(dim=1)
    spread = [row.nonzero().max() - row.nonzero().min() for row in rows]
    assert max(spread) < 3


def test_a_part_of_the_batch_keeps_what_the_whole_does():
    dropping, draws = make("time_frequency", [0.5, 0.5], 0.5), Draws(0, 2, 7)
    for number in range(2):
        whole = dropping.keep(draws, "x", (6, 4), number)
        parts = [dropping.keep(draws.slice(*cut), "x", (6, 4), number) for cut in ((0, 3), (3, 7))]
        assert torch.equal(whole, torch.cat(parts))


def test_the_setting_is_told_as_it_was_written():
    assert make(patch_drop=0).setting == ""
    assert make(patch_drop=0.5).setting == "views.patch_drop=0.5"
    assert make(patch_drop=[0.6, 0]).setting == "views.patch_drop=[0.6,0]"
    assert make(patch_drop=0, crop_frequency=0.25).setting == "views.crop_frequency=0.25"


@pytest.mark.parametrize(
    ("options", "grid", "message"),
    [
        ({"drop": "rows"}, (4, 4), "views.drop=rows: choose from random, time, frequency, time_frequency"),
        ({"patch_drop": []}, (4, 4), r"views\.patch_drop=\[\]"),
        ({"patch_drop": [0.5, -1]}, (4, 4), r"patch_drop=-1: must not be negative"),
        ({"crop_frequency": 0.0}, (4, 4), r"crop_frequency=0\.0"),
        ({"drop": "time", "patch_drop": 4}, (4, 4), "only 4 columns of tokens in time and one must stay"),
        ({"drop": "frequency", "patch_drop": 3}, (9, 3), "only 3 rows of tokens in frequency"),
        ({"drop": "frequency"}, (9, 1), r"views\.drop=frequency: there is one row of tokens"),
        ({"crop_frequency": 0.5}, (9, 1), r"views\.crop_frequency=0\.5: there is one row of tokens"),
    ],
)
def test_mistakes_are_named(options, grid, message):
    with pytest.raises(ValueError, match=message):
        make(**options).keep(Draws(0, 0, 2), "a", grid, 0)


def made_views(**options):
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=16, mean=-4.0, std=4.0))
    return build_views(shipped("views/none", **options), fbank=fbank)


def test_local_views_have_settings_of_their_own():
    local = {"num": 2, "crop": 0.5, "patch_drop": 0, "gain_db": 40.0}
    views = made_views(num=3, patch_drop=0.5, local=local)
    assert views.names == ("a", "b", "c", "local1", "local2")
    wavs, draws = torch.randn(4, 3000) * 0.1, Draws(0, 0, 4)
    shapes = [tuple(views.make(wavs, draws, name).shape) for name in views.names]
    assert shapes == [(4, 17, 16)] * 3 + [(4, 8, 16)] * 2
    assert [views.num_frames(name, 17) for name in views.names] == [17, 17, 17, 8, 8]
    assert torch.equal(views.make(wavs, draws, "a"), views.make(wavs, draws, "b"))  # nothing changes the whole views
    assert not torch.equal(views.make(wavs, draws, "local1"), views.make(wavs, draws, "local2"))
    assert views.keep(draws, "a", (4, 2)).shape == (4, 4)
    assert views.keep(draws, "local1", (2, 2)) is None
    assert made_views(local={"num": 2, "patch_drop": 0.5}).drops_by == "views.local.patch_drop=0.5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, r"views\.num=0: give 1 to 26 views"),
        ({"local": {"croop": 0.5}}, r"views\.local\.croop: views\.local has no such option; did you mean crop\?"),
        ({"local": {"crop": "half"}}, r"views\.local\.crop='half': views\.local expects float"),
        ({"local": {"patch_drop_mode": "mask"}}, r"views\.local\.patch_drop_mode: is that of the other views"),
        ({"local": {"background_folder": "x"}}, r"views\.local\.background_folder: one folder serves all views"),
    ],
)
def test_mistakes_in_several_views_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        made_views(**options)


@pytest.mark.parametrize("drop", ["time", "frequency"])
def test_the_encoder_sees_the_tokens_that_stay_at_their_own_places(drop):
    encoder = make_ast().double().eval()
    fbank = torch.randn(3, 18, 16, dtype=torch.float64)
    keep = make(drop, 0.5).keep(Draws(0, 0, 3), "a", encoder.grid(18), 0)
    found = encoder(fbank, keep=keep)
    assert found.values.shape == (3, 4, 16)
    # What is not kept has no say.
    with torch.no_grad():
        hidden = torch.ones(3, 8, dtype=torch.bool).scatter_(1, keep, False).unflatten(1, (4, 2))
        pixels = hidden.repeat_interleave(4, dim=1).repeat_interleave(8, dim=2)
        other = fbank.clone()
        other[:, :16][pixels] = 100.0
    torch.testing.assert_close(encoder(other, keep=keep).values, found.values)
