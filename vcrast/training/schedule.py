"""SCHEDULES: warm-up, then a cosine, cuts at epochs, or cuts when the loss stops falling."""

from __future__ import annotations

import logging
import math
from typing import Any, Protocol

import torch
from torch import Tensor

from vcrast.config.registry import SCHEDULES

log = logging.getLogger(__name__)


class Schedule(Protocol):
    """What the loops need of a schedule."""

    def lr(self, step: int) -> float:
        """Learning rate of optimiser step `step`, from 0."""

    def observe(self, loss: Tensor | float) -> None:
        """Be told the loss of a step; call it once a step, after the step's `lr`."""

    def state_dict(self) -> dict[str, Any]:
        """What must be saved to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


class Warmup:
    """Linear from 0 to the peak; step 0 has rate 0, as in the VICReg authors' code.

    Args:
        lr: the peak.
        total_steps: of the stage.
        steps_per_epoch: turns epochs into steps.
        warmup_epochs: may be fractional.

    Raises:
        ValueError: a negative warm-up or a rate that is not positive.
    """

    def __init__(self, *, lr: float, total_steps: int, steps_per_epoch: int, warmup_epochs: float) -> None:
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs={warmup_epochs}: must not be negative")
        if not lr > 0:
            raise ValueError(f"lr={lr}: must be above 0; at rate 0 nothing is learnt")
        self.peak, self.total_steps, self.steps_per_epoch = lr, total_steps, steps_per_epoch
        self.warmup_steps = round(warmup_epochs * steps_per_epoch)
        if self.warmup_steps >= total_steps:
            reached = (total_steps - 1) / self.warmup_steps if self.warmup_steps else 1.0
            log.warning(
                "the run of %d steps ends within the warm-up of %d: the learning rate reaches %.0f %% of %g; "
                "set warmup_epochs lower or train longer",
                total_steps, self.warmup_steps, 100 * reached, lr,
            )  # fmt: skip

    def ramp(self, step: int) -> float:
        """Share of the peak, in [0, 1]."""
        return min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0


class ByStep(Warmup):
    """A schedule that is a pure function of the step."""

    def observe(self, loss: Tensor | float) -> None:
        """Nothing: the loss does not matter."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the step tells all."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


@SCHEDULES.register("cosine")
class Cosine(ByStep):
    """Warm-up, then half a cosine from the peak to `final_lr_ratio` of it; a pure function of the step.

    Source: the VICReg authors' code, which ends at 0.001 of the peak. Their cosine would end one step after the last,
    and so does this one: equal rates at equal steps.
    """

    def __init__(
        self,
        *,
        lr: float,
        total_steps: int,
        steps_per_epoch: int,
        warmup_epochs: float,
        final_lr_ratio: float,
    ) -> None:
        super().__init__(lr=lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch, warmup_epochs=warmup_epochs)
        if not 0 <= final_lr_ratio <= 1:
            raise ValueError(f"schedule.final_lr_ratio={final_lr_ratio}: must lie in [0, 1]")
        self.final_lr_ratio = final_lr_ratio

    def lr(self, step: int) -> float:
        """Learning rate of optimiser step `step`, from 0."""
        if step < self.warmup_steps:
            return self.peak * self.ramp(step)
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        share = self.share(min(1.0, done))
        return self.peak * (share + (1 - share) * self.final_lr_ratio)

    def share(self, done: float) -> float:
        """Of the way from the last rate to the peak, from 1 to 0, when `done` of the steps after the warm-up are."""
        return 0.5 * (1 + math.cos(math.pi * done))


@SCHEDULES.register("linear")
class Linear(Cosine):
    """Warm-up, then a straight line from the peak to `final_lr_ratio` of it: polynomial decay of power 1."""

    def share(self, done: float) -> float:
        """See `Cosine`."""
        return 1 - done


@SCHEDULES.register("step")
class Step(ByStep):
    """Warm-up, then the peak, which is multiplied by `factor` after `first_epoch` epochs and every so many more.

    Args:
        lr: the peak.
        total_steps: of the stage.
        steps_per_epoch: turns epochs into steps.
        warmup_epochs: may be fractional.
        factor: of a cut, in (0, 1].
        first_epoch: epochs before the first cut.
        every_epochs: between cuts.

    Source: Gong et al. 2021, arXiv:2104.01778: 0.85 after each epoch from the fifth (ESC-50, Speech Commands), a half
    after epochs 10, 15 and 20 (AudioSet's balanced part) or each from the second (all of it).
    """

    def __init__(
        self,
        *,
        lr: float,
        total_steps: int,
        steps_per_epoch: int,
        warmup_epochs: float,
        factor: float,
        first_epoch: int,
        every_epochs: int,
    ) -> None:
        super().__init__(lr=lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch, warmup_epochs=warmup_epochs)
        if not 0 < factor <= 1:
            raise ValueError(f"schedule.factor={factor}: must lie in (0, 1]")
        for name, value in (("first_epoch", first_epoch), ("every_epochs", every_epochs)):
            if value < 1:
                raise ValueError(f"schedule.{name}={value}: must be 1 or more")
        self.factor, self.first_epoch, self.every_epochs = factor, first_epoch, every_epochs

    def lr(self, step: int) -> float:
        """Learning rate of optimiser step `step`, from 0."""
        beyond = step // self.steps_per_epoch - self.first_epoch
        cuts = 0 if beyond < 0 else 1 + beyond // self.every_epochs
        return self.peak * self.ramp(step) * self.factor**cuts


@SCHEDULES.register("plateau")
class Plateau(Warmup):
    """Warm-up, then the rate is cut whenever the epoch's mean loss has set no new best for some epochs.

    The thesis hands PyTorch's rule the negative loss without setting its mode, which cuts the rate while training
    improves; here it is the loss itself, and lower is better. Close to its floor the loss barely moves, so this rule is
    a poor guide for small batches; the cosine is the default.

    Args:
        lr: the peak.
        total_steps: of the stage.
        steps_per_epoch: losses that are averaged before they are compared.
        warmup_epochs: no cut before they are over.
        factor: of a cut, in (0, 1).
        patience_epochs: epochs without a new best that are borne; the next one cuts.
        threshold: a new best is below best * (1 - threshold).
        min_lr_ratio: of the peak, below which no cut goes.
    """

    def __init__(
        self,
        *,
        lr: float,
        total_steps: int,
        steps_per_epoch: int,
        warmup_epochs: float,
        factor: float,
        patience_epochs: int,
        threshold: float,
        min_lr_ratio: float,
    ) -> None:
        super().__init__(lr=lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch, warmup_epochs=warmup_epochs)
        if not 0 < factor < 1:
            raise ValueError(f"schedule.factor={factor}: must lie between 0 and 1")
        if patience_epochs < 0 or threshold < 0:
            raise ValueError(
                f"schedule.patience_epochs={patience_epochs}, schedule.threshold={threshold}: must not be negative"
            )
        if not 0 <= min_lr_ratio <= 1:
            raise ValueError(f"schedule.min_lr_ratio={min_lr_ratio}: must lie in [0, 1]")
        self.factor, self.patience_epochs = factor, patience_epochs
        self.threshold, self.min_lr_ratio = threshold, min_lr_ratio
        self.share, self.best, self.bad_epochs = 1.0, math.inf, 0
        self.total: Tensor | float = 0.0
        self.seen = 0

    def lr(self, step: int) -> float:
        """Learning rate of optimiser step `step`, given the losses observed so far."""
        return self.peak * min(self.ramp(step), self.share)

    def observe(self, loss: Tensor | float) -> None:
        """Add a step's loss; at the end of an epoch compare the mean with the best."""
        # Summed on the device: reading every loss would make the CPU wait for every step.
        self.total = self.total + (loss.detach().double() if isinstance(loss, Tensor) else loss)
        self.seen += 1
        if self.seen % self.steps_per_epoch:
            return
        mean, self.total = float(self.total) / self.steps_per_epoch, 0.0
        if self.seen > self.warmup_steps:
            self.compare(mean)

    def compare(self, mean: float) -> None:
        """Count an epoch without a new best, and cut when there were too many."""
        if mean < self.best - self.threshold * abs(self.best if math.isfinite(self.best) else 0.0):
            self.best, self.bad_epochs = mean, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > self.patience_epochs:
            self.share, self.bad_epochs = max(self.min_lr_ratio, self.share * self.factor), 0
            log.info("no lower loss for %d epochs: learning rate %g", self.patience_epochs + 1, self.peak * self.share)

    def state_dict(self) -> dict[str, Any]:
        """The rule's memory."""
        return {
            "share": self.share,
            "best": self.best,
            "bad_epochs": self.bad_epochs,
            "total": torch.as_tensor(self.total, dtype=torch.float64).cpu(),
            "seen": self.seen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.share, self.best, self.bad_epochs = state["share"], state["best"], state["bad_epochs"]
        self.total, self.seen = float(state["total"]), state["seen"]
