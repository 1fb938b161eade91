"""Build what both training stages need: optimiser, engine, schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from vcrast.config.registry import ENGINES, OPTIMS, SCHEDULES, check_options
from vcrast.objectives.base import Objective
from vcrast.runs.job import Job
from vcrast.runs.stage import Options, total_steps
from vcrast.training.engine_base import Engine
from vcrast.training.schedule import Schedule


class EngineOptions(Options, Protocol):
    """Settings of a stage that concern its engine."""

    clip_grad_norm: float | None


def peak_lr(optim: Mapping[str, Any], batch_size: int) -> float:
    """Rate after warm-up: `lr`, or that scaled by batch_size / `lr_per_batch` where the latter is set.

    Raises:
        ValueError: one of the two is no number, or not positive.
    """
    rate = {key: optim[key] for key in ("lr", "lr_per_batch")}
    check_options("optim", _scaled, rate, given=["batch_size"])
    return _scaled(**rate, batch_size=batch_size)


def _scaled(*, lr: float, lr_per_batch: float | None, batch_size: int) -> float:
    if not lr > 0:
        raise ValueError(f"optim.lr={lr}: must be above 0; at rate 0 nothing is learnt")
    if lr_per_batch is not None and not lr_per_batch > 0:
        raise ValueError(f"optim.lr_per_batch={lr_per_batch}: must be above 0; null takes lr as it is")
    return float(lr) * (1.0 if lr_per_batch is None else batch_size / lr_per_batch)


def build_engine(job: Job, objective: Objective, optim: Mapping[str, Any], options: EngineOptions) -> Engine:
    """The engine that `engine=...` names, with the optimiser that `optim` describes; errors as in `Registry.build`."""
    own = {key: value for key, value in optim.items() if key != "lr_per_batch"}
    optimizer = OPTIMS.build(own, module=objective, lr=peak_lr(optim, options.batch_size))
    engine: Engine = ENGINES.build(
        job.config.engine, module=objective, optimizer=optimizer, precision=job.precision, device=job.device,
        clip_grad_norm=options.clip_grad_norm,
    )  # fmt: skip
    return engine


def build_schedule(
    schedule: Mapping[str, Any], optim: Mapping[str, Any], options: Options, steps_per_epoch: int
) -> Schedule:
    """The learning rate's course over a stage; errors as in `Registry.build`."""
    built: Schedule = SCHEDULES.build(
        schedule, lr=peak_lr(optim, options.batch_size), steps_per_epoch=steps_per_epoch,
        total_steps=total_steps(options.steps, options.epochs, steps_per_epoch),
    )  # fmt: skip
    return built
