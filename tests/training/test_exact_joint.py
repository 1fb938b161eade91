"""Check that every loss of views gives the whole batch's gradient under every cut."""

import copy

import pytest
import torch
from parts import make_batch
from test_exact import BATCH, COMPARING, assert_same_step, make_objective, make_wavs, relative_error, run

from vcrast.features.draws import Draws


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
