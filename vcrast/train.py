"""The one loop: any objective, labelled or not, on any engine."""

from __future__ import annotations

from collections.abc import Iterator

from vcrast.objectives.base import Batch
from vcrast.runs.stage import Stage
from vcrast.training.exact import exact_backward


def train(stage: Stage, batches: Iterator[Batch]) -> None:
    """Run the steps of a stage that are not done yet.

    A step is a pure function of weights, optimiser state, seed and step, so a resumed stage is the uninterrupted one.

    Args:
        stage: knows where to begin, and after each step logs, watches, saves and stops.
        batches: of this process, from step `stage.first` on.

    Raises:
        Interrupted: a signal asked the run to stop; everything is saved.
        NoBatchError: no batch comes; see `Stage.next_batch`.
        FloatingPointError: too many steps in a row were not finite.
    """
    engine, objective, schedule = stage.engine, stage.objective, stage.schedule
    with stage.progress:
        for step in range(stage.first, stage.num_steps):
            if stage.over:
                break
            stage.begin_step()
            batch = stage.next_batch(batches, step)  # wav (b, S), on the device
            stage.data_ready()
            outcome = exact_backward(engine, objective, batch, stage.draws(step), stage.split)
            stepped = engine.step(lr=schedule.lr(step), progress=step / stage.num_steps)  # clip, update, zero
            schedule.observe(outcome.loss)
            if objective.moves_weights:  # a teacher, say
                with engine.gathered_weights(write=True):
                    objective.after_step((step + 1) / stage.num_steps, stepped.skipped)
            stage.end_of_step(step, outcome, stepped)  # log, watch, save, stop
