"""Begin, save and stop a training stage; the loop itself is written out in `pretrain.py` and `finetune.py`."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import torch
from torch import nn

from vcrast.runs import checkpoint
from vcrast.runs.job import Job
from vcrast.training.dist import all_reduce_max, broadcast_object, is_rank_zero, world_size
from vcrast.training.exact import Outcome
from vcrast.training.plan import CudaMemory, plan_step
from vcrast.training.schedule import Schedule
from vcrast.training.watchdog import note_step

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
        self, job: Job, name: str, engine: Any, schedule: Schedule, *, num_steps: int, steps_per_epoch: int
    ) -> None:
        self.job, self.name, self.engine, self.schedule = job, name, engine, schedule
        self.num_steps, self.steps_per_epoch = num_steps, steps_per_epoch
        self.saved_at = time.monotonic()
        self.micro_batch_size: int | None = None
        self.kept = 0
        self.earlier_s, self.started = 0.0, time.perf_counter()

    def begin(self) -> int:
        """The step to start from: after this run's newest valid checkpoint, else 0.

        The order of all stages: this run's own checkpoint; weights given by `model.checkpoint` or by the stage before
        (loaded when the objective was built); random weights.
        """
        found = broadcast_object(checkpoint.find_latest(self.job.checkpoints(self.name)) if is_rank_zero() else None)
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
        if content.get("world_size", 1) == world_size():
            self.micro_batch_size, self.kept = content["micro_batch_size"], content.get("kept", 0)
        self.earlier_s = content["wall_s"]
        log.info("fold %s %s: going on after step %d of %d", self.job.fold, self.name, content["step"], self.num_steps)
        return int(content["step"])

    def plan(
        self, objective: Any, *, batch_size: int, micro_batch_size: Any, clip_shape: tuple[int, ...] | None = None
    ) -> None:
        """Decide how this process's part of the batch is cut, and say it.

        A resumed stage keeps its cut, since other micro-batches round differently, unless another one is asked for or
        the number of processes has changed.

        Args:
            objective: what is trained.
            batch_size: of the loss, over all processes.
            micro_batch_size: `auto`, or a number.
            clip_shape: of what the objective is given for a clip; None is (S,).
        """
        asked = None if micro_batch_size == "auto" else int(micro_batch_size)
        if self.micro_batch_size is not None and asked is None:
            return
        job, device, draws = self.job, self.job.device, self.job.draws(self.name, 0, batch_size)
        plan = plan_step(
            self.engine,
            objective,
            torch.zeros(draws.size, *(clip_shape or (job.num_samples,)), device=device),
            torch.zeros(draws.size, len(job.classes), device=device),
            draws,
            micro_batch_size=asked,
            memory=CudaMemory(device) if device.type == "cuda" else None,
        )
        on_each = f", on each of {world_size()} processes" if world_size() > 1 else ""
        log.info("fold %s %s: %s%s", job.fold, self.name, plan.text(), on_each)
        self.micro_batch_size, self.kept = plan.micro_batch_size, plan.kept

    def note(self, outcome: Outcome) -> None:
        """Go on with the cut that fitted."""
        self.micro_batch_size, self.kept = outcome.micro_batch_size, outcome.kept

    def save(self, step: int) -> None:
        """Write a checkpoint that holds the state after `step` steps; all processes call, the first one writes."""
        content = {
            "engine": self.engine.state_dict(),
            "schedule": self.schedule.state_dict(),
            "micro_batch_size": self.micro_batch_size,
            "kept": self.kept,
            "world_size": world_size(),
            "num_steps": self.num_steps,
            "wall_s": self.wall_s,
            "step": step,
        }
        if not is_rank_zero():
            return
        tensors, skeleton = checkpoint.flatten_state(content)
        folder = self.job.checkpoints(self.name)
        checkpoint.save(folder, step, tensors, {"skeleton": skeleton}, keep=self.job.config.checkpoint.keep)

    def due(self, step: int) -> bool:
        """Whether a checkpoint should follow this step."""
        options = self.job.config.checkpoint
        if options.every_steps is not None:
            return step % options.every_steps == 0
        # A large model is saved in seconds, a small set's epoch may be as short: saving must stay a small share.
        waited = time.monotonic() - self.saved_at >= options.min_interval_s
        return waited and step % self.steps_per_epoch == 0

    @property
    def wall_s(self) -> float:
        """Seconds that the stage has taken, earlier processes of the run included."""
        return self.earlier_s + time.perf_counter() - self.started

    def end_of_step(self, step: int) -> None:
        """Save when it is time, and stop when a signal asked for it: all processes, at the same step.

        Raises:
            Interrupted: after saving.
        """
        note_step(f"{self.name} of fold {self.job.fold}, step {step}")
        # The clock of the first process decides: those of others may be a moment ahead.
        number, due = all_reduce_max(self.job.interrupt.number, float(is_rank_zero() and self.due(step)))
        asked = self.job.interrupt.name(number)
        if asked or step == self.num_steps or due:
            self.save(step)
            self.saved_at = time.monotonic()
        if asked and step < self.num_steps:
            raise Interrupted(asked, f"after step {step} of {self.num_steps} ({self.name}, fold {self.job.fold})")


def num_parameters(module: nn.Module) -> int:
    """Trainable numbers in a module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
