import logging
from types import SimpleNamespace

import pytest
import torch

from vcrast.features.draws import Draws
from vcrast.runs import stage as stage_module
from vcrast.runs.stage import Stage
from vcrast.training.exact import Outcome
from vcrast.training.plan import Plan


@pytest.fixture
def made(monkeypatch):
    """A stage whose planning is replaced, and what the planner was asked."""
    asked = []

    def plan_step(engine, objective, wavs, labels, draws, *, micro_batch_size, memory):
        asked.append((tuple(wavs.shape), tuple(labels.shape), draws.size, micro_batch_size, memory))
        return Plan(len(wavs), micro_batch_size or 4, kept=1)

    monkeypatch.setattr(stage_module, "plan_step", plan_step)
    job = SimpleNamespace(
        fold="1", device=torch.device("cpu"), num_samples=800, classes=("a", "b", "c"),
        draws=lambda stage, step, batch_size: Draws(7, step, batch_size),
    )  # fmt: skip
    return Stage(job, "pretrain", None, None, num_steps=5, steps_per_epoch=1), asked


def test_auto_plans_once_and_says_it(made, caplog):
    stage, asked = made
    with caplog.at_level(logging.INFO):
        stage.plan(None, batch_size=12, micro_batch_size="auto")
    assert asked == [((12, 800), (12, 3), 12, None, None)]
    assert (stage.micro_batch_size, stage.kept) == (4, 1)
    assert "fold 1 pretrain: 12 clips in 3 micro-batches of 4, 1 of which" in caplog.text
    assert "22% extra compute" in caplog.text


def test_a_resumed_cut_stays_unless_another_is_asked_for(made):
    stage, asked = made
    stage.micro_batch_size, stage.kept = 6, 2
    stage.plan(None, batch_size=12, micro_batch_size="auto")
    assert (asked, stage.micro_batch_size, stage.kept) == ([], 6, 2)
    stage.plan(None, batch_size=12, micro_batch_size=3)
    assert (asked[0][3], stage.micro_batch_size, stage.kept) == (3, 3, 1)


def test_a_retreat_is_remembered(made):
    stage, _ = made
    stage.note(Outcome(torch.zeros(()), {}, 2, 0))
    assert (stage.micro_batch_size, stage.kept) == (2, 0)
