"""Train the toy of `toy.py` under every cut of the batch, on both engines."""

import copy

import pytest
import torch
from parts import make_batch, make_engine
from test_exact import BATCH, SCALE, InFloat64, assert_same_step, make_objective, make_wavs, relative_error, run

from vcrast.features.draws import Draws
from vcrast.objectives.base import WEIGHT
from vcrast.training.exact import Split, exact_backward
from vcrast.training.plan import Memory, plan_step


def by_hand(objective, step=3):
    """Loss and gradients of the whole batch, written out: every masked token counts alike."""
    objective = copy.deepcopy(objective).train()
    toy, inputs = objective.objective, objective.prepare(make_batch(make_wavs()), Draws(5, step, BATCH))
    weight = inputs.pop(WEIGHT)
    out = toy.represent(inputs)
    mask = out["mask"]
    per_token = (out["predicted"] - out["target"]).square().mean(dim=2)[mask]
    per_clip = (out["vector"] - out["teacher"]).square().mean(dim=1)
    spread = toy.batch_losses({"vector": out["vector"]})["spread"]
    loss = per_token.mean() + 0.5 * (weight * per_clip).sum() + 0.3 * spread
    loss.backward()
    gradients = {name: value.grad for name, value in objective.named_parameters() if value.requires_grad}
    return loss.detach(), per_token.mean().detach(), gradients


def test_masks_are_of_unequal_size():
    objective = make_objective("toy")
    inputs = objective.prepare(make_batch(make_wavs()), Draws(5, 3, BATCH))
    assert len(set(inputs["mask"].sum(dim=1).tolist())) > 2
    torch.testing.assert_close(inputs[WEIGHT].sum(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("size", "kept"), [(None, 0), (1, 0), (2, 0), (3, 0), (4, 0), (4, 2), (5, 1), (10, 1)])
def test_every_cut_gives_the_gradient_written_out(size, kept):
    objective = make_objective("toy")
    loss, reconstruction, expected = by_hand(objective)
    step = run(objective, size, kept=kept)
    torch.testing.assert_close(step[1].loss, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(step[1].parts["reconstruction"], reconstruction, rtol=1e-12, atol=0)
    assert relative_error(step[0], expected) < 1e-10
    assert_same_step(step, run(objective, None))
    assert all(weight.grad is None for weight in objective.objective.teacher.parameters())


def stepped(objective, engine, steps, *, poison=None):
    for step in steps:
        wavs = make_wavs() * (torch.nan if step == poison else 1.0)
        exact_backward(engine, objective, make_batch(wavs), Draws(5, step, BATCH), Split(4, 1))
        skipped = engine.step(lr=1e-2).skipped
        objective.after_step((step + 1) / 4, skipped)


def teacher_of(objective):
    return [weight.detach().clone() for weight in objective.objective.teacher.parameters()]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_skipped_step_does_not_move_the_teacher(precision):
    objective = make_objective("toy", dtype=torch.float32)
    objective = InFloat64(objective).float() if not isinstance(objective, InFloat64) else objective
    engine = make_engine(objective, precision=precision)
    if engine.loss_scale is not None:
        engine.loss_scale.scale.fill_(SCALE)
    objective.prepare = lambda batch, draws: objective.objective.prepare(batch, draws)
    before = teacher_of(objective)
    stepped(objective, engine, [0])
    moved = teacher_of(objective)
    assert not all(torch.equal(*pair) for pair in zip(before, moved, strict=True))
    stepped(objective, engine, [1], poison=1)
    assert all(torch.equal(*pair) for pair in zip(moved, teacher_of(objective), strict=True))
    assert objective.objective.steps == 1


def test_the_teacher_is_the_average_written_out():
    objective = make_objective("toy")
    engine = make_engine(objective)
    expected = teacher_of(objective)
    for step in range(3):
        stepped(objective, engine, [step])
        momentum = 1 - 0.1 * (step + 1) / 4
        students = list(objective.objective.encoder.parameters())
        expected = [momentum * own + (1 - momentum) * new for own, new in zip(expected, students, strict=True)]
    for found, own in zip(teacher_of(objective), expected, strict=True):
        torch.testing.assert_close(found, own.detach(), rtol=1e-12, atol=1e-14)


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit():
    start = make_objective("toy")
    whole = copy.deepcopy(start)
    stepped(whole, make_engine(whole), range(4))
    first = copy.deepcopy(start)
    engine = make_engine(first)
    stepped(first, engine, range(2))
    state = copy.deepcopy(engine.state_dict())
    second = make_objective("toy")
    with torch.no_grad():
        for weight in second.parameters():
            weight.add_(1.0)
    engine = make_engine(second)
    engine.load_state_dict(state)
    stepped(second, engine, range(2, 4))
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


class Bytes(Memory):
    """Counts the bytes of tensors that a step makes, as an allocator would: enough for lines through two sizes."""

    def __init__(self, capacity):
        self.room = capacity
        self.reads = 0

    def capacity(self):
        return self.room

    def allocated(self):
        return 0

    def reset_peak(self):
        self.reads += 1

    def peak(self):
        return 1000 * self.reads

    def release(self):
        pass


@pytest.mark.parametrize("kind", ["toy", "vcr", "supervised"])
def test_the_planner_runs_on_what_the_objective_hands_on(kind):
    # On a CPU with the memory interface of a GPU: outputs of four axes, integers, several losses must pass.
    objective = make_objective(kind)
    engine = make_engine(objective)
    labels = torch.eye(3, dtype=torch.float64)[torch.arange(BATCH) % 3]
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    plan = plan_step(
        engine, objective, make_batch(make_wavs(), labels), Draws(5, 0, BATCH), micro_batch_size=None,
        memory=Bytes(10**9),
    )  # fmt: skip
    assert plan.split.micro_batch_size == BATCH
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert all(weight.grad is None for weight in objective.parameters())
