import pytest
import torch
from parts import JOINT, make_batch, make_joint

from vcrast.features.draws import Draws
from vcrast.objectives.joint import Projections


def three(num_whole=3, targets=None):
    return Projections(tuple(torch.full((2, 1), float(number)) for number in range(4)), num_whole, targets)


def values(pairs):
    return sorted((first[0, 0].item(), second[0, 0].item()) for first, second in pairs)


def test_local_views_are_compared_with_whole_ones_only():
    assert values(three(4).pairs) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert values(three(2).pairs) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    assert values(three(1).pairs) == [(0, 1), (0, 2), (0, 3)]
    assert three(2).centre[0, 0] == 0.5


def test_a_view_is_compared_with_what_the_teacher_makes_of_others():
    targets = (torch.full((2, 1), 10.0), torch.full((2, 1), 11.0))
    assert values(three(2, targets).pairs) == [(0, 11), (1, 10), (2, 10), (2, 11), (3, 10), (3, 11)]
    assert three(2, targets).centre[0, 0] == 10.5


def test_three_views_of_vcr_written_out(make_encoder, plain_views):
    objective = make_joint("vcr", make_encoder(), plain_views(num=2, num_local=1)).double()
    assert objective.names == ("a", "b", "local0")
    vectors = torch.randn(3, 9, 16, dtype=torch.float64)
    losses = objective.batch_losses(dict(zip(objective.names, vectors, strict=True)))
    z = [objective.projector(view) for view in vectors]
    invariance = sum((z[i] - z[j]).square().mean() for i, j in ((0, 1), (0, 2), (1, 2))) / 3
    variance = sum((1 - (view.var(dim=0) + 1e-4).sqrt()).relu().mean() for view in z) / 3
    covariances = [torch.cov(view.T) for view in z]
    off = sum((c - c.diag().diag()).square().sum() / len(c) for c in covariances) / 3
    torch.testing.assert_close(losses["loss"], 25 * invariance + 25 * variance + 2 * off, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", JOINT)
def test_equal_views_have_their_number_of_views_no_say(name, make_encoder, plain_views):
    """Two views twice: means over pairs and views are as they were, but for the pairs of a view with itself."""
    objective = make_joint(name, make_encoder(), plain_views()).double()
    objective.directions = torch.nn.functional.normalize(torch.randn(20, 7, dtype=torch.float64), dim=0)
    view = torch.randn(9, 20, dtype=torch.float64)
    two, four = (objective.compare(Projections((view,) * number, number))["loss"] for number in (2, 4))
    torch.testing.assert_close(two, four, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", JOINT)
def test_every_loss_and_its_parts_are_told(name, make_encoder, plain_views, make_draws):
    objective = make_joint(name, make_encoder(), plain_views())
    inputs = objective.prepare(make_batch(torch.randn(9, 64)), make_draws(9))
    losses = objective.batch_losses(objective.represent(inputs))
    assert set(losses) == {"loss", *objective.parts}
    assert all(value.isfinite() and value.ndim == 0 for value in losses.values())


class AsTheyAre(torch.nn.Identity):
    dim_out = 16


@pytest.mark.parametrize("name", JOINT)
def test_clips_that_are_all_alike_are_told(name, make_encoder, plain_views, make_draws):
    objective = make_joint(name, make_encoder(), plain_views(), dims=[16])
    objective.prepare(make_batch(torch.randn(24, 64)), make_draws(24))  # draws directions
    objective.projector = AsTheyAre()

    def told(vectors):
        parts = objective.batch_losses({"a": vectors, "b": vectors + 0.001 * torch.randn(24, 16)})
        assert all(value.isfinite() for value in parts.values())
        return objective.collapsed({name: float(value) for name, value in parts.items()}, 24)

    assert told(torch.randn(24, 16)) is None
    assert "the projections' std is 0.0" in told(torch.ones(24, 16) + 0.003 * torch.randn(24, 16))


def test_directions_are_unit_vectors_of_the_step(make_encoder, plain_views):
    objective = make_joint("sigreg", make_encoder(), plain_views(), num_directions=5)
    found = []
    for step, part in ((0, None), (0, (2, 5)), (1, None)):
        draws = Draws(7, step, 9)
        draws = draws if part is None else draws.slice(*part)
        objective.prepare(make_batch(torch.randn(draws.size, 64)), draws)
        found.append(objective.directions)
    assert found[0].shape == (20, 5)
    torch.testing.assert_close(found[0].norm(dim=0), torch.ones(5))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_sounds_of_a_pair_take_turns(make_encoder, plain_views, make_draws):
    objective = make_joint("vcr", make_encoder(), plain_views(num=3, num_local=1))
    pairs = torch.randn(5, 2, 64)
    inputs = objective.prepare(make_batch(pairs), make_draws(5))
    for number, view in enumerate(objective.names):
        assert torch.equal(inputs[view], objective.views.make(pairs[:, number % 2], make_draws(5), view))


@pytest.mark.parametrize("name", JOINT)
def test_the_teacher_answers_without_gradient(name, make_encoder, plain_views, make_draws):
    objective = make_joint(name, make_encoder(drop_path=0.5), plain_views(patch_drop=0.5, num_local=1), teacher="ema")
    inputs = objective.prepare(make_batch(torch.randn(9, 64)), make_draws(9))
    outputs = objective.represent(inputs)
    assert set(outputs) == {"a", "b", "local0", "a/target", "b/target"} == set(objective.gathered)
    objective.encoder.eval()
    plain = objective.encoder(inputs["a"], keep=inputs["a/keep"]).values.mean(dim=1)
    torch.testing.assert_close(outputs["a/target"], plain)  # the same tokens, no drop path
    losses = objective.batch_losses(outputs)
    losses["loss"].backward()
    assert not any(weight.requires_grad for weight in objective.teacher.parameters())
    assert objective.encoder.patch_embed.proj.weight.grad.abs().sum() > 0


def test_the_teachers_projector_takes_the_statistics_of_the_batch(make_encoder, plain_views):
    objective = make_joint("vcr", make_encoder(), plain_views(), teacher="ema").double()
    vectors = 5 + 3 * torch.randn(9, 16, dtype=torch.float64)
    torch.testing.assert_close(objective.teacher["projector"](vectors), objective.projector(vectors))


def test_the_teacher_follows_and_waits_when_a_step_is_skipped(make_encoder, plain_views):
    objective = make_joint("vcr", make_encoder(), plain_views(), teacher="ema", teacher_momentum=0.5).double()
    assert objective.moves_weights
    with torch.no_grad():
        for weight in (*objective.encoder.parameters(), *objective.projector.parameters()):
            weight.add_(1.0)
    before = [weight.clone() for weight in objective.teacher.parameters()]
    objective.after_step(0.5, torch.tensor(True))
    assert all(torch.equal(*both) for both in zip(before, objective.teacher.parameters(), strict=True))
    objective.after_step(0.5, torch.tensor(False))
    # Half a cosine after half of the steps: from 0.5 to 0.75.
    for old, new in zip(before, objective.teacher.parameters(), strict=True):
        moving = new - old
        torch.testing.assert_close(moving, torch.full_like(moving, 0.25) * (moving.abs() > 0))
    assert not make_joint("vcr", make_encoder(), plain_views()).moves_weights


@pytest.mark.parametrize("mode", ["drop", "mask"])
def test_what_the_report_shows(mode, make_encoder, plain_views, make_draws):
    views = plain_views(num=3, num_local=2, patch_drop=0.5, drop="time_frequency", patch_drop_mode=mode)
    objective = make_joint("vcr", make_encoder(), views)
    wavs, draws = torch.randn(3, 64), make_draws(3)
    shown = objective.examples(wavs, draws)
    assert list(shown) == ["view 1", "view 2", "view 3", "view 4 (local)", "view 5 (local)"]
    gone = shown["view 1"].isnan()
    assert (gone.all(dim=2) | ~gone.any(dim=2)).all()  # whole columns
    assert gone.any(dim=2).sum(dim=1).tolist() == [4, 4, 4]
    gone = shown["view 2"].isnan()
    assert (gone.all(dim=1) | ~gone.any(dim=1)).all()  # whole rows
    for name, title in zip(objective.names, shown, strict=True):
        left = ~shown[title].isnan()
        assert left.any()
        assert torch.equal(shown[title][left], objective.prepare(make_batch(wavs), draws)[name][left])
    assert [len(shown[f"view {number} (local)"][0]) for number in (4, 5)] == [4, 4]


@pytest.mark.parametrize(
    ("views", "options", "message"),
    [
        ({"num": 1}, {}, r"views\.num=1: this objective compares views"),
        ({}, {"teacher": "bema"}, "teacher=bema: choose from none, ema"),
        ({}, {"teacher_momentum": 1.5}, r"teacher_momentum=1\.5"),
    ],
)
def test_options_out_of_range_are_refused(views, options, message, make_encoder, plain_views):
    with pytest.raises(ValueError, match=message):
        make_joint("vcr", make_encoder(), plain_views(**views), **options)
