import logging
import math

import pytest
import torch
from shipped import shipped
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from vcrast.config.registry import SCHEDULES
from vcrast.training.schedule import Cosine, Linear, Plateau, Step


def cosine(**options):
    return Cosine(
        **shipped(
            "schedule/cosine", **{"lr": 2.0, "total_steps": 50, "steps_per_epoch": 5, "warmup_epochs": 2, **options}
        )
    )


def test_cosine_by_hand():
    schedule = cosine(final_lr_ratio=0.1)  # 10 steps of warm-up, 40 of cosine from 2.0 to 0.2
    assert schedule.lr(0) == 0.0
    assert schedule.lr(4) == pytest.approx(0.8)
    assert schedule.lr(10) == pytest.approx(2.0)
    assert schedule.lr(30) == pytest.approx(1.1)
    assert schedule.lr(20) == pytest.approx(0.2 + 1.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert schedule.lr(50) == pytest.approx(0.2)
    assert schedule.lr(60) == pytest.approx(0.2)


def test_cosine_equals_the_authors_formula():
    schedule = Cosine(**shipped("schedule/cosine", lr=0.3, total_steps=480, steps_per_epoch=16, warmup_epochs=10))
    for step in range(480):
        if step < 160:
            expected = 0.3 * step / 160
        else:
            q = 0.5 * (1 + math.cos(math.pi * (step - 160) / (480 - 160)))
            expected = 0.3 * q + 0.3 * 0.001 * (1 - q)
        assert schedule.lr(step) == pytest.approx(expected)


def test_no_warmup_starts_at_the_peak_and_fractions_round():
    assert cosine(warmup_epochs=0).lr(0) == 2.0
    assert cosine(warmup_epochs=0.5).warmup_steps == 2


def test_a_run_inside_the_warmup_warns(caplog):
    schedule = cosine(total_steps=8)
    assert "reaches 70 % of 2" in caplog.text
    assert schedule.lr(7) == pytest.approx(1.4)


def test_a_straight_line_from_the_peak():
    options = {"lr": 2.0, "total_steps": 50, "steps_per_epoch": 5, "warmup_epochs": 2, "final_lr_ratio": 0.1}
    found = [Linear(**shipped("schedule/linear", **options)).lr(step) for step in (0, 5, 10, 20, 30, 50)]
    assert found == pytest.approx([0, 1, 2, 2 - 1.8 / 4, 2 - 1.8 / 2, 0.2])


@pytest.mark.parametrize(
    ("factor", "first", "every", "milestones"),
    [(0.85, 5, 1, range(5, 26)), (0.5, 10, 5, [10, 15, 20, 25]), (0.5, 2, 1, range(2, 26))],
)
def test_steps_are_those_of_torch_as_the_ast_sets_them(factor, first, every, milestones):
    options = {"lr": 3.0, "total_steps": 100, "steps_per_epoch": 4, "warmup_epochs": 1.5}
    ours = Step(**shipped("schedule/step", **options, factor=factor, first_epoch=first, every_epochs=every))
    weight = torch.nn.Parameter(torch.zeros(1))
    theirs = MultiStepLR(torch.optim.SGD([weight], lr=3.0), milestones=list(milestones), gamma=factor)
    for step in range(100):
        expected = theirs.get_last_lr()[0] * min(1.0, step / 6)
        assert ours.lr(step) == pytest.approx(expected)
        if step % 4 == 3:
            theirs.step()


@pytest.mark.parametrize("options", [{"factor": 0.0}, {"first_epoch": 0}, {"every_epochs": 0}])
def test_wrong_steps_are_named(options):
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"schedule.{name}={value}"):
        Step(**shipped("schedule/step", lr=1.0, total_steps=10, steps_per_epoch=2, **options))


def test_plateau_agrees_with_torch_given_the_loss_not_its_negative():
    ours = Plateau(
        **shipped(
            "schedule/plateau",
            lr=1.0,
            total_steps=999,
            steps_per_epoch=1,
            warmup_epochs=0,
            factor=0.5,
            patience_epochs=2,
            min_lr_ratio=0.0,
        )
    )
    weight = torch.nn.Parameter(torch.zeros(()))
    theirs = ReduceLROnPlateau(torch.optim.SGD([weight], lr=1.0), mode="min", factor=0.5, patience=2)
    generator = torch.Generator().manual_seed(0)
    rates = []
    for epoch in range(60):
        loss = 5.0 + 20.0 * 0.9**epoch + 0.3 * torch.rand((), generator=generator).item()
        ours.observe(loss)
        theirs.step(loss)
        rates.append(ours.lr(epoch + 1))
        assert rates[-1] == pytest.approx(theirs.get_last_lr()[0])
    assert rates[15] == 1.0  # still improving: the rate stays
    assert rates[-1] < 0.2


def test_plateau_compares_means_of_epochs():
    schedule = Plateau(
        **shipped("schedule/plateau", lr=1.0, total_steps=99, steps_per_epoch=2, warmup_epochs=0, patience_epochs=0)
    )
    for loss in (4.0, 2.0, 6.0, 0.0):  # means 3 and 3: the second is no new best
        schedule.observe(torch.tensor(loss))
    assert schedule.lr(4) == 0.5


def test_plateau_does_not_cut_during_warmup_and_has_a_floor():
    schedule = Plateau(
        **shipped(
            "schedule/plateau",
            lr=1.0,
            total_steps=99,
            steps_per_epoch=1,
            warmup_epochs=10,
            patience_epochs=0,
            min_lr_ratio=0.1,
        )
    )
    for _ in range(10):
        schedule.observe(1.0)
    assert schedule.lr(5) == 0.5
    assert schedule.lr(10) == 1.0
    for _ in range(40):
        schedule.observe(1.0)
    assert schedule.lr(60) == pytest.approx(0.1)


def test_plateau_goes_on_from_its_state(tmp_path):
    options = {"lr": 1.0, "total_steps": 99, "steps_per_epoch": 3, "warmup_epochs": 0, "patience_epochs": 1}
    whole, first = Plateau(**shipped("schedule/plateau", **options)), Plateau(**shipped("schedule/plateau", **options))
    losses = [torch.tensor(5 + math.sin(number)) for number in range(40)]
    for loss in losses[:17]:
        whole.observe(loss)
        first.observe(loss)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Plateau(**shipped("schedule/plateau", **options))
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for number, loss in enumerate(losses[17:]):
        whole.observe(loss)
        second.observe(loss)
        assert whole.lr(number) == second.lr(number)
    assert whole.lr(40) < 1.0


def test_cosine_has_no_state():
    schedule = cosine()
    schedule.observe(torch.tensor(1.0))
    assert schedule.state_dict() == {}


def test_configs_and_mistakes(caplog):
    caplog.set_level(logging.ERROR)
    options = {"name": "cosine", "module": "vcrast.training.schedule", "warmup_epochs": 1, "final_lr_ratio": 0.0}
    assert SCHEDULES.build(options, lr=1.0, total_steps=10, steps_per_epoch=5).lr(5) == 1.0
    with pytest.raises(ValueError, match="at rate 0 nothing is learnt"):
        cosine(lr=0.0)
    with pytest.raises(ValueError, match="warmup_epochs=-1"):
        cosine(warmup_epochs=-1)
    with pytest.raises(ValueError, match="final_lr_ratio=2"):
        cosine(final_lr_ratio=2)
    with pytest.raises(ValueError, match=r"schedule\.factor=1"):
        Plateau(**shipped("schedule/plateau", lr=1.0, total_steps=9, steps_per_epoch=1, warmup_epochs=0, factor=1.0))
