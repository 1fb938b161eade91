"""Begin, log, watch, save and stop a training stage."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from vcrast.config.metric import Metric
from vcrast.data.loader import Batch, NoBatchError
from vcrast.features.draws import Draws
from vcrast.models.export import describe, to_plain
from vcrast.objectives.base import Objective
from vcrast.runs import checkpoint
from vcrast.runs.bad_step import keep_bad_step
from vcrast.runs.clock import Clock, overall_speed, peak_memory_bytes
from vcrast.runs.interrupt import Interrupted
from vcrast.runs.job import Job
from vcrast.runs.progress import Progress
from vcrast.runs.validation import Validation
from vcrast.training.average import WeightAverage, Weights, lent
from vcrast.training.dist import all_reduce_max, broadcast_object, is_rank_zero, world_size
from vcrast.training.engine_base import Engine, StepResult
from vcrast.training.exact import Outcome, Split
from vcrast.training.plan import CudaMemory, Plan, plan_step
from vcrast.training.schedule import Schedule
from vcrast.training.watchdog import note_step

log = logging.getLogger(__name__)
T = TypeVar("T")

NUMBERS = {
    "steps": Metric("Steps", "count"),
    "loss": Metric("Loss", better="lower"),
}
COSTS = {
    "parameters": Metric("Trainable weights", "count", short="weights"),
    "samples_per_s": Metric("Samples per second", better="higher"),
    "data_s": Metric("Time waiting for data", "duration", "lower"),
    "compute_s": Metric("Time computing", "duration", "lower"),
    "peak_memory_bytes": Metric("Peak memory", "bytes", "lower", short="peak memory"),
    "wall_s": Metric("Wall time", "duration", "lower"),
}


class Options(Protocol):
    """Settings that every training stage has (`pretrain.*`, `finetune.*`)."""

    batch_size: int
    micro_batch_size: Any
    epochs: float
    steps: int | None
    log_every_steps: int


class Watch(NamedTuple):
    """Something that is measured every so many steps, and after the last one; called with the number of steps done."""

    every_steps: int
    measure: Callable[[int], None]


def total_steps(steps: int | None, epochs: float, steps_per_epoch: int) -> int:
    """Length of a stage: `steps` wins over `epochs`."""
    return steps if steps is not None else max(1, math.ceil(epochs * steps_per_epoch))


def plan_of(
    job: Job, engine: Engine, objective: Objective, draws: Draws, clip_shape: tuple[int, ...], asked: int | None
) -> Plan:
    """How this process's part of a batch is cut, measured on a GPU; `asked` is the micro-batch that is wanted."""
    batch = Batch(
        torch.zeros(draws.size, *clip_shape, device=job.device),
        torch.zeros(draws.size, len(job.classes), device=job.device),
        torch.arange(draws.size, device=job.device),
    )
    memory = CudaMemory(job.device) if job.device.type == "cuda" else None
    return plan_step(engine, objective, batch, draws, micro_batch_size=asked, memory=memory)


class Stage:
    """One training stage of one fold.

    Args:
        job: the fold.
        name: `pretrain` or `finetune`.
        options: of the stage.
        objective: what is trained, on the device.
        engine: of that objective.
        schedule: of the learning rate.
        steps_per_epoch: optimiser steps.
        watches: what is measured along the way, on the averaged weights where there are such.
        ema_decay: of an average of the weights, see `WeightAverage`; None keeps none.
        validation: what one of the watches tells its values, to choose the best weights.
        numbers: how further numbers of the stage are shown.

    Attributes:
        first: the step to start from.
        done: steps that are done.
        num_steps: of the whole stage.
        split: how this process's part of the batch is cut.
    """

    def __init__(
        self,
        job: Job,
        name: str,
        options: Options,
        *,
        objective: Objective,
        engine: Engine,
        schedule: Schedule,
        steps_per_epoch: int,
        watches: Sequence[Watch] = (),
        ema_decay: float | None = None,
        validation: Validation | None = None,
        numbers: Mapping[str, Metric] | None = None,
    ) -> None:
        self.job, self.name, self.options = job, name, options
        self.objective, self.engine, self.schedule, self.watches = objective, engine, schedule, watches
        self.steps_per_epoch, self.numbers = steps_per_epoch, numbers or {}
        self.num_steps = total_steps(options.steps, options.epochs, steps_per_epoch)
        self.ema_decay, self.validation = ema_decay, validation
        self.average: WeightAverage | None = None
        self.first, self.done, self.split = 0, 0, Split()
        self.saved_at = time.monotonic()
        self.earlier_s, self.started = 0.0, time.perf_counter()
        self.clock, self.progress = Clock(), self._progress()
        self.clips: dict[int, Tensor] = {}  # of the last two steps: a bad one is known when the next has begun

    def _progress(self) -> Progress:
        return Progress(self.name, self.job.fold, self.num_steps, start_step=self.first, shown=is_rank_zero())

    def begin(self, clip_shape: tuple[int, ...]) -> None:
        """Find where to start, and decide how the batch is cut.

        The order of all stages: this run's own checkpoint; weights given by `model.checkpoint` or by the stage before
        (loaded when the objective was built); random weights.

        Args:
            clip_shape: of what the objective is given for a clip: (S,) or (2, S).
        """
        if self.ema_decay is not None:
            with self.engine.gathered_weights():
                self.average = WeightAverage(self.objective, self.ema_decay)
        found = broadcast_object(checkpoint.find_latest(self.job.checkpoints(self.name)) if is_rank_zero() else None)
        self.first = self.done = self._restore(found) if found else 0
        self.job.log.rewind(self.name, self.job.fold, self.first or -1)  # step 0 is measured anew, too
        self.job.summary.describe(
            self.name, self.described(), parts=tuple(self.objective.parts), note=self.objective.note
        )
        self.progress = self._progress()
        self.engine.on_bad_loss = lambda number: keep_bad_step(self.job, self.name, number - 1, self.engine, self.clips)
        self._plan(clip_shape)

    def described(self) -> dict[str, Metric]:
        """How the stage's numbers are shown."""
        return {**NUMBERS, **self.objective.parts, **self.numbers, **COSTS}

    def _restore(self, path: Path) -> int:
        content = checkpoint.load(path)
        done, planned = int(content["step"]), content["num_steps"]
        if done > self.num_steps or (done == self.num_steps != planned):
            raise ValueError(
                f"{path}: {done} steps of {planned} are done, this run has {self.num_steps}; ask for more, or start "
                "anew in another run.dir"
            )
        self.engine.load_state_dict(content["engine"])
        self.schedule.load_state_dict(content["schedule"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        if self.validation is not None:
            self.validation.load_state_dict(content["validation"])
        if content["world_size"] == world_size():
            self.split = Split(content["micro_batch_size"], content["num_kept_graphs"])
        self._tell_changes(content)
        self.earlier_s = content["wall_s"]
        log.info("fold %s %s: going on after step %d of %d", self.job.fold, self.name, done, self.num_steps)
        return done

    def _tell_changes(self, content: Mapping[str, Any]) -> None:
        """Say what may change between two starts and rounds differently; another number type is also kept."""
        for name, now in self._circumstances().items():
            before = content.get("circumstances", {}).get(name, now)
            if before == now:
                continue
            text = f"fold {self.job.fold} {self.name}: goes on with {name}={now} after {name}={before}"
            log.warning("%s; the rest rounds differently", text)
            if name == "precision":
                self.job.summary.warn(text)

    def _circumstances(self) -> dict[str, Any]:
        return {
            "precision": self.job.precision, "engine": self.job.config.engine["name"],
            "device": self.job.device.type, "world_size": world_size(),
        }  # fmt: skip

    def _plan(self, clip_shape: tuple[int, ...]) -> None:
        """Decide how this process's part of the batch is cut, and say it.

        A resumed stage keeps its cut, since other micro-batches round differently, unless another one is asked for or
        the number of processes has changed.
        """
        micro_batch_size = self.options.micro_batch_size
        asked = self.split.micro_batch_size if micro_batch_size == "auto" else micro_batch_size
        if asked is not None and asked == self.split.micro_batch_size:
            return
        plan = plan_of(self.job, self.engine, self.objective, self.draws(0), clip_shape, asked)
        on_each = f", on each of {world_size()} processes" if world_size() > 1 else ""
        log.info("fold %s %s: %s%s", self.job.fold, self.name, plan.text(), on_each)
        self.split = plan.split

    def draws(self, step: int) -> Draws:
        """The random numbers of a step for this process's part of the batch."""
        return self.job.draws(self.name, step, self.options.batch_size)

    def begin_step(self) -> None:
        """Note that the step begins: waiting for its batch counts as waiting for data."""
        self.clock.begin_step()

    def next_batch(self, batches: Iterator[T], step: int) -> T:
        """Return the batch of a step.

        Raises:
            Interrupted, NoBatchError: it does not come; what is done so far is saved, where this is the only process:
                several can save only together, and the others wait in the step.
        """
        try:
            batch = next(batches)
        except (Interrupted, NoBatchError):
            if world_size() == 1 and step > self.first:
                self.save(step)
            raise
        self.clips = {number: self.clips[number] for number in (step - 1,) if number in self.clips}
        if isinstance(batch, Batch):
            self.clips[step] = batch.index
        return batch

    def data_ready(self) -> None:
        """Note that the batch is here."""
        self.clock.data_ready()

    def end_of_step(self, step: int, outcome: Outcome, stepped: StepResult) -> None:
        """Log, watch, save when it is time, and stop when a signal asked for it: all processes, at the same step.

        Raises:
            Interrupted: after saving.
        """
        done, is_last = step + 1, step + 1 == self.num_steps
        self.done = done
        self.split = outcome.split
        self.clock.step_done(self.options.batch_size)
        if self.average is not None:
            with self.engine.gathered_weights():
                self.average.follow(stepped.skipped)
        if done % self.options.log_every_steps == 0 or is_last:
            self._log(done, outcome, stepped, lr=self.schedule.lr(step))
        for watch in self.watches:
            if done % watch.every_steps == 0 or is_last:
                with self.averaged_weights():
                    watch.measure(done)
        self._save_or_stop(done)

    def _log(self, done: int, outcome: Outcome, stepped: StepResult, *, lr: float) -> None:
        speed = self.clock.read(outcome.loss)
        values: dict[str, Tensor | float] = {
            "loss": outcome.loss,
            **outcome.parts,
            "grad_norm": stepped.grad_norm,
            "lr": lr,
            **speed,
        }
        if self.engine.loss_scale is not None:
            values |= {"loss_scale": self.engine.loss_scale.scale, "skipped_steps": self.engine.skips[1]}
        self.job.log.log(self.name, self.job.fold, done, values)
        self.progress.update(done, loss=outcome.loss, parts=outcome.parts, samples_per_s=speed["samples_per_s"])

    def _save_or_stop(self, done: int) -> None:
        note_step(f"{self.name} of fold {self.job.fold}, step {done}")
        # The clock of the first process decides: those of others may be a moment ahead.
        number, due = all_reduce_max(self.job.interrupt.number, float(is_rank_zero() and self.due(done)))
        asked = self.job.interrupt.name(number)
        if asked or done == self.num_steps or due or self.over:
            self.save(done)
            self.saved_at = time.monotonic()
        if asked and done < self.num_steps:
            raise Interrupted(asked, f"after step {done} of {self.num_steps} ({self.name}, fold {self.job.fold})")

    def save(self, done: int) -> None:
        """Write a checkpoint that holds the state after `done` steps; all processes call, the first one writes."""
        content = {
            "engine": self.engine.state_dict(),
            "schedule": self.schedule.state_dict(),
            "micro_batch_size": self.split.micro_batch_size,
            "num_kept_graphs": self.split.num_kept_graphs,
            "world_size": world_size(),
            "circumstances": self._circumstances(),
            "num_steps": self.num_steps,
            "wall_s": self.wall_s,
            "step": done,
            "export": self.description,
        }
        if self.average is not None:
            content["average"] = self.average.state_dict()
        if self.validation is not None:
            content["validation"] = self.validation.state_dict()
        if not is_rank_zero():
            return
        checkpoint.save(self.job.checkpoints(self.name), done, content, keep=self.job.config.checkpoint.keep)

    @property
    def over(self) -> bool:
        """Whether the stage ends before its last step, because it gets no better."""
        return self.validation is not None and self.validation.over

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the average of the weights into the objective, where there is one, for the time of the block."""
        with self._lent(None if self.average is None else self.average.weights):
            yield

    @contextmanager
    def final_weights(self) -> Iterator[None]:
        """Put what the stage has made into the objective: the best weights, else their average, else the last."""
        best = self.validation.weights if self.validation is not None else None
        with self._lent(best) if best is not None else self.averaged_weights():
            yield

    @contextmanager
    def _lent(self, weights: Weights | None) -> Iterator[None]:
        # Lent ones are taken back before the engine has its own again: nothing is written.
        with self.engine.gathered_weights(), nullcontext() if weights is None else lent(self.objective, weights):
            yield

    @cached_property
    def description(self) -> dict[str, Any]:
        """What `model.json` would say of the encoder: a run that is stopped for good still has a model."""
        options = self.job.export_options()
        found: dict[str, Any] = to_plain(describe(self.objective.encoder, head=None, **options), "the checkpoint")
        return found

    def due(self, done: int) -> bool:
        """Whether a checkpoint should follow this step."""
        options = self.job.config.checkpoint
        if options.every_steps is not None:
            return done % options.every_steps == 0
        # A large model is saved in seconds, a small set's epoch may be as short: saving must stay a small share.
        waited = time.monotonic() - self.saved_at >= options.min_interval_s
        return waited and done % self.steps_per_epoch == 0

    @property
    def wall_s(self) -> float:
        """Seconds that the stage has taken, earlier processes of the run included."""
        return self.earlier_s + time.perf_counter() - self.started

    def results(self) -> dict[str, Any]:
        """The stage's numbers, from what was logged; on the first process."""
        lines = list(self.job.log.lines(self.name, self.job.fold))
        last = next(line for line in reversed(lines) if "loss" in line)
        return {
            "steps": self.done,
            **{name: last[name] for name in ("loss", *self.objective.parts) if name in last},
            **overall_speed(lines),
            "parameters": num_parameters(self.objective),
            "peak_memory_bytes": peak_memory_bytes(self.job.device),
            "wall_s": self.wall_s,
        }


def num_parameters(module: nn.Module) -> int:
    """Trainable numbers in a module; of one whose weights are spread over processes (ZeRO 3) those of all."""
    own = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return sum(int(getattr(parameter, "ds_numel", parameter.numel())) for parameter in own)
