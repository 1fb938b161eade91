"""Check that every loss of views gives the whole batch's gradient under every cut."""

import copy

import pytest
import torch
from parts import JOINT, make_ast, make_batch, make_engine, make_joint
from test_exact import (
    BATCH,
    COMPARING,
    assert_same_step,
    make_objective,
    make_views,
    make_wavs,
    relative_error,
    run,
)

from vcrast.features.draws import Draws
from vcrast.features.dropping import HOW
from vcrast.training.exact import Split, exact_backward


@pytest.mark.parametrize("kind", COMPARING)
def test_every_cut_gives_the_gradient_of_plain_autograd(kind):
    objective = make_objective(kind)
    plain = copy.deepcopy(objective).train()
    inputs = plain.prepare(make_batch(make_wavs()), Draws(5, 3, BATCH))
    loss = plain.batch_losses(plain.represent(inputs))["loss"]
    loss.backward()
    expected = {name: weight.grad for name, weight in plain.named_parameters() if weight.requires_grad}
    whole = run(objective, None)
    torch.testing.assert_close(whole[1].loss, loss.detach(), rtol=1e-12, atol=0)
    assert relative_error(whole[0], expected) < 1e-10
    for size, kept in ((1, 0), (4, 1)):
        assert_same_step(run(objective, size, kept=kept), whole)


def test_columns_and_rows_leave_the_encoder():
    objective = make_objective("ntxent, columns and rows")
    inputs = objective.prepare(make_batch(make_wavs()), Draws(5, 3, BATCH))
    assert inputs["a/keep"].shape == (BATCH, 2 * 2)  # 2 of 4 columns, of 2 rows
    assert inputs["b/keep"].shape == (BATCH, 4 * 1)  # 4 columns of 1 of 2 rows


def test_eight_views_share_two_forwards():
    objective = make_objective("vcr, eight views, teacher")
    calls = []
    objective.encoder.register_forward_hook(lambda module, inputs, _: calls.append(len(inputs[0])))
    objective.represent(objective.prepare(make_batch(make_wavs()), Draws(5, 3, BATCH)))
    assert calls == [2 * BATCH, 6 * BATCH]


def stepped(objective, engine, steps):
    for step in steps:
        exact_backward(engine, objective, make_batch(make_wavs()), Draws(5, step, BATCH), Split(4, 1))
        skipped = engine.step(lr=1e-2).skipped
        objective.after_step((step + 1) / 3, skipped)


@pytest.mark.parametrize("drop", HOW)
@pytest.mark.parametrize("name", JOINT)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(name, drop):
    def begin():
        torch.manual_seed(0)
        views = make_views(drop=drop, patch_drop=[0.5, 0.5, 0.5], num=3)
        objective = make_joint(name, make_ast(), views, teacher="ema")
        return objective, make_engine(objective)

    whole, engine = begin()
    before = whole.encoder.patch_embed.proj.weight.detach().clone()
    stepped(whole, engine, range(3))
    assert not torch.equal(before, whole.encoder.patch_embed.proj.weight)
    first, engine = begin()
    stepped(first, engine, range(1))
    state = copy.deepcopy(engine.state_dict())
    second, engine = begin()
    with torch.no_grad():
        for weight in second.parameters():
            weight.add_(1.0)
    engine.load_state_dict(state)
    stepped(second, engine, range(1, 3))
    for key, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key
