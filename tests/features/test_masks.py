import random
import re

import numpy as np
import pytest
import torch

from vcrast.features import masks as masks_module
from vcrast.features.draws import Draws
from vcrast.features.masks import Masks, build_masks, first_hits, paper_mask

GRIDS = [(6, 4), (7, 3), (2, 5), (5, 1)]


def make(sampler="paper", count=0.5, cluster=(3, 5), by="clip"):
    return Masks(sampler=sampler, count=count, cluster=list(cluster), by=by)


def paper_loop(starts, side, grid, count):
    """SSAST's routine, one clip at a time: its hidden patches, numbered along time first."""
    times, bins = grid
    found = set()
    for start in starts:
        for up in range(side):
            for along in range(side):
                place = start + times * up + along
                if 0 < place < times * bins:
                    found.add(place)
        if len(found) > count:
            return sorted(found)[:count]
    return None


def drawn(masks, grid, count, num_clips, name="m"):
    """(clips, t, f) bool over many steps."""
    steps = [masks.mask(Draws(0, step, 100), name, grid, count) for step in range(num_clips // 100)]
    return np.concatenate(steps).reshape(-1, *grid)


@pytest.mark.parametrize("grid", [(6, 4), (7, 3), (2, 5), (16, 8)])
def test_the_papers_mask_is_its_loops_for_the_same_squares(grid):
    generator, num_tokens = np.random.default_rng(0), grid[0] * grid[1]
    for count in {1, num_tokens // 3, num_tokens * 3 // 4, num_tokens - 2}:
        starts = generator.integers(num_tokens, size=(9, 40 * num_tokens))
        sides = generator.integers(3, 6, size=9)
        found = paper_mask(first_hits(starts, sides, grid, wraps=False), count)
        for row, start, side in zip(found, starts, sides, strict=True):
            assert row.nonzero()[0].tolist() == paper_loop(start, side, grid, count)


def test_the_papers_mask_has_the_loops_distribution():
    grid, count, chance = (6, 4), 13, random.Random(0)
    ours = drawn(make(), grid, count, 6000).transpose(0, 2, 1).reshape(-1, 24)
    theirs = np.zeros_like(ours)
    for row in theirs:
        starts = (chance.randrange(24) for _ in iter(int, 1))
        row[paper_loop(starts, chance.randint(3, 5), grid, count)] = True
    # Each patch, and each pair of patches: 5 standard errors of the difference of two shares.
    for one, other in ((ours.mean(axis=0), theirs.mean(axis=0)), (pairs(ours), pairs(theirs))):
        error = np.sqrt((one * (1 - one) + other * (1 - other)) / len(ours)) + 1 / len(ours)
        assert (np.abs(one - other) < 5 * error).all()
    # Which masks: the 20 commonest of theirs are as common with us.
    known, numbers = np.unique(theirs, axis=0, return_counts=True)
    for number in numbers.argsort()[-20:]:
        share = (ours == known[number]).all(axis=1).mean()
        expected = numbers[number] / len(theirs)
        assert abs(share - expected) < 5 * np.sqrt(2 * expected / len(ours))


def pairs(masks):
    return masks.T.astype(float) @ masks / len(masks)


def test_the_papers_bias_is_that_of_the_released_program():
    """Of 300 clips of the released program: row 0 42 %, row 1 67 %, the middle 88 %, the top 82 %, patch 0 never."""
    share = drawn(make(count=400), (64, 8), 400, 1000).mean(axis=0)
    rows = share.mean(axis=0)
    assert rows[[0, 1, 4, 7]] == pytest.approx([0.42, 0.67, 0.88, 0.82], abs=0.02)
    assert share[0, 0] == 0


def test_a_python_set_is_in_ascending_order_in_the_papers_settings():
    """So that `the first M of a set` are those of the lowest numbers."""
    chance = random.Random(0)
    for num_tokens, counts in ((512, (77, 100, 250, 400)), (2048, (307, 1500))):
        for count in counts:
            numbers = [chance.randrange(num_tokens) for _ in range(20 * num_tokens)]
            found = set()
            while len(found) <= count:
                found.add(numbers.pop())
            assert list(found)[:count] == sorted(found)[:count]


@pytest.mark.parametrize("grid", [(6, 4), (7, 3), (2, 5)])
def test_an_even_mask_hides_every_patch_equally_often(grid):
    count = grid[0] * grid[1] * 5 // 8
    found = drawn(make("even"), grid, count, 6000)
    chance = count / (grid[0] * grid[1])
    assert (np.abs(found.mean(axis=0) - chance) < 4.5 * np.sqrt(chance * (1 - chance) / len(found))).all()


def test_squares_of_an_even_mask_know_no_end():
    """Moving all squares moves what they hit: no place differs from another, so all are hidden equally often."""
    times, bins, generator = 7, 4, np.random.default_rng(1)
    starts, sides = generator.integers(times * bins, size=(5, 9)), generator.integers(3, 6, size=5)
    hits = first_hits(starts, sides, (times, bins), wraps=True).reshape(5, bins, times)
    up, along = np.divmod(starts, times)
    moved = (up + 3) % bins * times + (along + 2) % times
    again = first_hits(moved, sides, (times, bins), wraps=True).reshape(5, bins, times)
    np.testing.assert_array_equal(again, np.roll(hits, (3, 2), axis=(1, 2)))


@pytest.mark.parametrize("sampler", ["paper", "even"])
def test_squares_lie_together(sampler):
    found = drawn(make(sampler), (20, 8), 60, 300)
    alone = drawn(make("random"), (20, 8), 60, 300)
    both, apart = ((each[:, 5:14, 3:5] & each[:, 6:15, 3:5]).mean() for each in (found, alone))
    assert both > 1.5 * apart


def test_a_random_mask_is_uniform():
    found = drawn(make("random"), (6, 4), 9, 6000).reshape(-1, 24)
    assert np.abs(found.mean(axis=0) - 9 / 24).max() < 4.5 * np.sqrt(9 * 15 / 24**2 / 6000)
    expected = np.where(np.eye(24, dtype=bool), 9 / 24, 9 * 8 / (24 * 23))
    assert np.abs(pairs(found) - expected).max() < 0.03


@pytest.mark.parametrize("sampler", ["paper", "even"])
def test_frame_patches_are_hidden_at_random(sampler):
    for step in range(3):
        expected = make("random").mask(Draws(0, step, 4), "m", (512, 1), 400)
        np.testing.assert_array_equal(make(sampler).mask(Draws(0, step, 4), "m", (512, 1), 400), expected)


@pytest.mark.parametrize("sampler", ["random", "paper", "even"])
@pytest.mark.parametrize("grid", GRIDS)
def test_exactly_so_many_are_hidden_and_the_others_visible(sampler, grid):
    num_tokens = grid[0] * grid[1]
    for count in {1, num_tokens // 2, num_tokens - 2}:
        chosen = make(sampler, count).draw(Draws(1, 0, 5), "m", grid)
        assert (chosen.hidden.shape, chosen.visible.shape) == ((5, count), (5, num_tokens - count))
        for places in chosen:
            assert (places.diff(dim=1) > 0).all()
        assert torch.cat(chosen, dim=1).sort(dim=1).values.equal(torch.arange(num_tokens).expand(5, -1))


@pytest.mark.parametrize("sampler", ["random", "paper", "even"])
def test_a_mask_is_a_function_of_seed_step_and_clip(sampler, monkeypatch):
    # Few squares at a time, so that clips need different numbers of rounds.
    monkeypatch.setattr(masks_module, "squares_needed", lambda *_: 2)
    masks, grid = make(sampler, 60), (16, 8)
    whole = masks.draw(Draws(3, 4, 6), "m", grid).hidden
    for clip in range(6):
        part = Draws(3, 4, 6, start=clip, stop=clip + 1)
        assert masks.draw(part, "m", grid).hidden.equal(whole[clip : clip + 1])
    assert len({tuple(row) for row in whole.tolist()}) == 6
    for other in (Draws(3, 5, 6), Draws(4, 4, 6)):
        assert not masks.draw(other, "m", grid).hidden.equal(whole)
    assert not masks.draw(Draws(3, 4, 6), "n", grid).hidden.equal(whole)


@pytest.mark.parametrize("sampler", ["random", "paper", "even"])
def test_one_mask_for_the_batch_on_every_process(sampler):
    masks = make(sampler, 20, by="batch")
    whole = masks.draw(Draws(3, 4, 6), "m", (8, 4)).hidden
    assert whole.equal(whole[:1].expand(6, -1))
    assert masks.draw(Draws(3, 4, 6, start=4), "m", (8, 4)).hidden.equal(whole[4:])


@pytest.mark.parametrize("count", [100, 250, 400, 510])
def test_the_papers_counts_and_the_largest_are_reached(count):
    assert make(count=count).draw(Draws(0, 0, 3), "m", (64, 8)).hidden.shape == (3, count)


def test_a_fraction_goes_with_every_length():
    assert [make(count=400 / 512).num_hidden(grid) for grid in ((64, 8), (32, 8), (512, 1))] == [400, 200, 400]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 400}, "objective.masks.count=400: asks for 400 of the 256 patches of these clips, sampler=paper can "
         "hide 1 to 254; SSAST's own routine would never end; set objective.masks.count=200, or a fraction such as"),
        ({"count": 255}, "can hide 1 to 254"),
        ({"count": 256, "sampler": "even"}, "sampler=even can hide 1 to 255; set objective.masks.count=200"),
        ({"count": 0.001}, "asks for 0 of the 256"),
    ],
)  # fmt: skip
def test_what_a_grid_does_not_allow_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        make(**options).draw(Draws(0, 0, 2), "m", (32, 8))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="too few to hide any; use longer clips"):
        make(**options).num_hidden((1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "objective.masks.count=0: give a whole number of patches, or a fraction below 1"),
        ({"count": 1.5}, "objective.masks.count=1.5"),
        ({"cluster": [5, 3]}, "objective.masks.cluster=[5, 3]: give [least, largest] side"),
        ({"cluster": [0, 3]}, "objective.masks.cluster=[0, 3]"),
        ({"sampler": "papr"}, "objective.masks.sampler='papr': objective.masks expects one of random, paper, even"),
        ({"by": "epoch"}, "objective.masks.by='epoch'"),
        ({"ratio": 0.5}, "objective.masks.ratio: objective.masks has no such option"),
    ],
)
def test_wrong_options_are_named(options, message):
    usual = {"sampler": "paper", "count": 0.5, "cluster": [3, 5], "by": "clip"}
    with pytest.raises(ValueError, match=re.escape(message)):
        build_masks({**usual, **options})
