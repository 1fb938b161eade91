"""Check corruption by rectangles against a slow loop, its areas, its sources."""

import pytest
import torch

from vcrast.features.corruption import MAX_RECTANGLES, Corruption, covered
from vcrast.features.draws import Draws

USUAL = {"share": (0.5, 0.7), "other_probability": 0.5, "other_share": 0.3, "largest_side": 0.3, "align": (1, 1)}


def make(**options):
    return Corruption(**{**USUAL, **options})


def slow_rectangles(corruption, size, share, draws, name):
    """One rectangle after the other until enough is covered, cell by cell."""
    cells = [length // unit for length, unit in zip(size, corruption.align, strict=True)]
    drawn = {
        (axis, what): draws.uniform(f"{name}/corrupt_{axis}_{what}", MAX_RECTANGLES)
        for axis in ("time", "freq")
        for what in ("side", "place")
    }
    found = torch.zeros(len(share), *size, dtype=torch.bool)
    for clip in range(len(share)):
        grid = torch.zeros(*cells, dtype=torch.bool)
        for number in range(MAX_RECTANGLES):
            if int(grid.sum()) >= float(share[clip] * (cells[0] * cells[1])):
                break
            spans = []
            for axis, count in zip(("time", "freq"), cells, strict=True):
                longest = max(1, int(corruption.largest_side * count))
                width = 1 + int(drawn[axis, "side"][clip, number] * longest)
                start = int(drawn[axis, "place"][clip, number] * (count - width + 1))
                spans.append(slice(start, start + width))
            grid[spans[0], spans[1]] = True
        for time in range(size[0]):
            for frequency in range(size[1]):
                t, f = (
                    min(time // corruption.align[0], cells[0] - 1),
                    min(frequency // corruption.align[1], cells[1] - 1),
                )
                found[clip, time, frequency] = grid[t, f]
    return found


@pytest.mark.parametrize(
    ("size", "align"), [((23, 17), (1, 1)), ((23, 17), (4, 3)), ((5, 40), (1, 1)), ((2, 2), (1, 1))]
)
def test_rectangles_are_those_of_a_loop(size, align):
    corruption, draws = make(align=align), Draws(3, 1, 12)
    share = draws.uniform("share", low=0.2, high=0.8)
    found = corruption.rectangles(torch.Size(size), share, draws, "a")
    assert torch.equal(found, slow_rectangles(corruption, size, share, draws, "a"))


def test_cover_by_hand():
    starts = [torch.tensor([[0, 1]]), torch.tensor([[0, 1]])]
    stops = [torch.tensor([[2, 3]]), torch.tensor([[1, 3]])]
    one = covered(starts, stops, torch.tensor([1]), (3, 3))
    assert one[0].int().tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    two = covered(starts, stops, torch.tensor([2]), (3, 3))
    assert two[0].int().tolist() == [[1, 0, 0], [1, 1, 1], [0, 1, 1]]


def test_areas_and_contents():
    corruption, count = make(), 200
    fbank = 1 + torch.rand(count, 64, 32)
    area, other = [], []
    for step in range(3):
        draws = Draws(0, step, count)
        seen, hidden = corruption.apply(fbank, draws, "a")
        torch.testing.assert_close(seen[~hidden], fbank[~hidden])
        from_other = (seen != 0).all(dim=(1, 2))
        partner = draws.partners("a/corrupt_partner")
        torch.testing.assert_close(seen[from_other], torch.where(hidden, fbank[partner], fbank)[from_other])
        assert (seen[~from_other][hidden[~from_other]] == 0).all()
        area.append(hidden.float().mean(dim=(1, 2)))
        other.append(from_other)
    area, other = torch.cat(area), torch.cat(other)
    assert other.float().mean() == pytest.approx(0.5, abs=0.08)
    assert area[other].min() >= 0.3
    assert area[other].max() < 0.3 + 0.09  # the last rectangle adds at most 0.3 * 0.3
    assert area[~other].min() >= 0.5
    assert area[~other].max() < 0.7 + 0.09
    assert area[~other].std() > 0.04  # uniform on [0.5, 0.7] has 0.058


def test_a_clip_does_not_depend_on_the_cut_and_channels_share_a_place():
    corruption, draws, fbank = make(), Draws(5, 2, 8), torch.randn(8, 3, 20, 16)
    whole, hidden = corruption.apply(fbank, draws, "b")
    parts = [corruption.apply(fbank[a : a + 2], draws.slice(a, a + 2), "b") for a in range(0, 8, 2)]
    assert torch.equal(torch.cat([part for part, _ in parts]), whole)
    assert torch.equal(torch.cat([part for _, part in parts]), hidden)
    changed = (whole != fbank).any(dim=1)
    assert not (changed & ~hidden).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": (0.7, 0.5)}, r"x\.share=\[0\.7, 0\.5\]"),
        ({"other_probability": 2.0}, r"x\.other_probability=2\.0"),
        ({"largest_side": 1.0}, r"x\.largest_side=1\.0"),
        ({"align": (0, 1)}, r"x\.align=\[0, 1\]"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options).check("x")
