"""Turn minutes of pretraining into steps, measured once for each run."""

from __future__ import annotations

import logging
import statistics
import time
from typing import Any

import torch

from vcrast.data.loader import Batch
from vcrast.objectives.base import Objective
from vcrast.runs.job import Job
from vcrast.runs.parts import build_engine
from vcrast.runs.stage import plan_of
from vcrast.training.dist import broadcast_object
from vcrast.training.exact import exact_backward

log = logging.getLogger(__name__)

WARM_UP = 1
ENOUGH_S = 6.0  # of steps that are timed ...
ENOUGH_STEPS = (3, 200)  # ... and how many of them at least and at most


def seconds_a_step(job: Job, objective: Objective, clip_shape: tuple[int, ...]) -> float:
    """Seconds that a step of pretraining computes, on one thread's share of a CPU or on a GPU; waiting does not count.

    On a CPU it is CPU time over the number of threads: other work on the machine lengthens it little, where cores share
    a cache or are two threads of one. The median of some steps on noise, since their cost does not depend on the sound.
    All processes take part and get the first one's.

    Args:
        job: a fold of the run.
        objective: as it will be trained; its weights are changed, so hand over one of its own.
        clip_shape: of what it is given for a clip: (S,) or (2, S).
    """
    options = job.config.pretrain
    engine = build_engine(job, objective, job.config.optim, options)
    draws = job.draws("pretrain", 0, options.batch_size)
    noise = torch.randn(draws.size, *clip_shape, generator=torch.Generator().manual_seed(0)).mul(0.1)
    labels = torch.zeros(draws.size, len(job.classes))
    if labels.shape[1]:
        labels[:, 0] = 1
    batch = Batch(noise.to(job.device), labels.to(job.device), torch.arange(draws.size, device=job.device))
    asked = None if options.micro_batch_size == "auto" else options.micro_batch_size
    split = plan_of(job, engine, objective, draws, clip_shape, asked).split

    def step() -> None:
        nonlocal split
        split = exact_backward(engine, objective, batch, draws, split).split
        engine.step(lr=1e-6)

    for _ in range(WARM_UP):
        step()
    taken: list[float] = []
    begun = _clock(job.device)
    least, most = ENOUGH_STEPS
    while len(taken) < least or (sum(taken) < ENOUGH_S and len(taken) < most):
        step()
        now = _clock(job.device)
        taken.append(broadcast_object(now - begun))
        begun = now
    return statistics.median(taken)


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def planned(minutes: float, step_s: float) -> dict[str, Any]:
    """What the summary keeps: so many steps are `minutes`, at least 1."""
    steps = max(1, round(60 * minutes / step_s))
    log.info("pretrain: %g minutes are %d steps of %.3g s", minutes, steps, step_s)
    return {"minutes": minutes, "step_s": step_s, "steps": steps}
