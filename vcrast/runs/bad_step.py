"""Keep the first step of a run whose loss is not finite, so that it can be repeated.

A step is a pure function of weights, seed and number, so weights and number are enough: its clips and random numbers
are made again. The weights are still those of the step when it becomes known, since a bad step changes none.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vcrast.runs import checkpoint
from vcrast.runs.job import Job
from vcrast.training.dist import broadcast_object, gather_rows, is_rank_zero
from vcrast.training.engine_base import Engine

log = logging.getLogger(__name__)

FOLDER = "bad_step"


def find_bad_step(run_dir: Path) -> Path | None:
    """The file that a run has kept; None where no loss of it was other than finite."""
    return checkpoint.find_latest(run_dir / FOLDER)


def keep_bad_step(job: Job, stage: str, step: int, engine: Engine, clips: Mapping[int, Tensor]) -> None:
    """Keep a step whose loss is not finite; all processes call, the first one writes. A run keeps one, its first.

    Args:
        job: the fold.
        stage: `pretrain` or `finetune`.
        step: from 0.
        engine: whose weights are those that the step began with.
        clips: (b,) places of this process's clips in the training clips, by step; empty where it is not known.
    """
    where, place = f"fold {job.fold} {stage}, step {step + 1}", job.run_dir / FOLDER
    if broadcast_object(find_bad_step(job.run_dir) is not None if is_rank_zero() else None):
        log.warning("%s: the loss is not finite; %s keeps the first such step of the run", where, place)
        return
    numbers = gather_rows(clips[step].cpu()).tolist() if step in clips else None
    with engine.gathered_weights():
        if not is_rank_zero():
            return
        content = {
            "stage": stage, "fold": job.fold, "step": step, "precision": job.precision, "device": job.device.type,
            "mean": job.mean, "std": job.std, "clips": numbers,
            "loss_scale": None if engine.loss_scale is None else engine.loss_scale.state_dict(),
            "module": engine.weights_before(),
        }  # fmt: skip
        try:
            checkpoint.save(place, step + 1, content, keep=1)
        except OSError as error:  # a full disk must not end a run that may recover
            log.warning("%s: the loss is not finite, and the step could not be kept: %s", where, error)
            return
    text = f"{where}: the loss is not finite; `vcrast replay {shlex.quote(str(job.run_dir))}` repeats it and says where"
    log.warning("%s", text)
    job.summary.warn(text)
