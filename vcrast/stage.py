"""Begin, save and stop a training stage; the loop itself is written out in `pretrain.py` and `finetune.py`."""

from __future__ import annotations

import logging
import math
from typing import Any

from torch import nn

from vcrast.job import Job
from vcrast.training import checkpoint
from vcrast.training.schedule import Schedule

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """A signal asked the run to stop; everything needed to go on is on disk."""

    def __init__(self, signal_name: str, where: str) -> None:
        super().__init__(f"stopped by {signal_name} {where}")
        self.signal_name = signal_name


def total_steps(steps: int | None, epochs: float, steps_per_epoch: int) -> int:
    """Length of a stage: `steps` wins over `epochs`."""
    return steps if steps is not None else max(1, math.ceil(epochs * steps_per_epoch))


class Stage:
    """A training stage's place on disk: where it begins, when it saves, how it stops."""

    def __init__(
        self, job: Job, name: str, engine: Any, schedule: Schedule, *, num_steps: int, save_every: int
    ) -> None:
        self.job, self.name, self.engine, self.schedule = job, name, engine, schedule
        self.num_steps, self.save_every = num_steps, save_every
        self.micro_batch_size: int | None = None

    def begin(self) -> int:
        """The step to start from: after this run's newest valid checkpoint, else 0.

        The order of all stages: this run's own checkpoint; weights given by `model.checkpoint` or by the stage before
        (loaded when the objective was built); random weights.
        """
        found = checkpoint.find_latest(self.job.checkpoints(self.name))
        step = self._restore(found) if found else 0
        self.job.log.rewind(self.name, self.job.fold, step)
        return step

    def _restore(self, path: Any) -> int:
        tensors, state = checkpoint.load(path)
        content = checkpoint.unflatten_state(tensors, state["skeleton"])
        if content["num_steps"] != self.num_steps:
            raise ValueError(
                f"{path}: was made for {content['num_steps']} steps, this run has {self.num_steps}; the learning rate "
                "depends on it, so start anew in another run.dir"
            )
        self.engine.load_state_dict(content["engine"])
        self.schedule.load_state_dict(content["schedule"])
        self.micro_batch_size = content["micro_batch_size"]
        log.info("fold %s %s: going on after step %d of %d", self.job.fold, self.name, content["step"], self.num_steps)
        return int(content["step"])

    def save(self, step: int) -> None:
        """Write a checkpoint that holds the state after `step` steps."""
        content = {
            "engine": self.engine.state_dict(),
            "schedule": self.schedule.state_dict(),
            "micro_batch_size": self.micro_batch_size,
            "num_steps": self.num_steps,
            "step": step,
        }
        tensors, skeleton = checkpoint.flatten_state(content)
        folder = self.job.checkpoints(self.name)
        checkpoint.save(folder, step, tensors, {"skeleton": skeleton}, keep=self.job.config.checkpoint.keep)

    def end_of_step(self, step: int) -> None:
        """Save when it is time, and stop when a signal asked for it.

        Raises:
            Interrupted: after saving.
        """
        asked = self.job.interrupt.requested
        if asked or step % self.save_every == 0 or step == self.num_steps:
            self.save(step)
        if asked and step < self.num_steps:
            raise Interrupted(asked, f"after step {step} of {self.num_steps} ({self.name}, fold {self.job.fold})")


def num_parameters(module: nn.Module) -> int:
    """Trainable numbers in a module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
