"""ENGINES: plain PyTorch; bad gradients never reach the weights.

Several processes hold the same weights and average their gradients once a step, so that each makes the same update.

How a bad step is skipped without waiting for the device. One tensor, `bad`, is true if the loss or the norm of the
gradients is not finite. It is handed to the optimiser as `found_inf`, which PyTorch's fused AdamW and our LARS read on
the device: then they change neither weights nor momenta, to the bit. Running statistics of BatchNorm, which the forward
has already written, are put back in the same way. The CPU learns of it one step later: the counters travel into pinned
memory behind the step's work and are read when the next step begins, when they have long arrived. So on CUDA a hopeless
run stops one step late, with the same weights. On a CPU the counters are read at once.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vcrast.config.registry import ENGINES
from vcrast.training.dist import average, running
from vcrast.training.engine_base import MAX_BAD_STEPS, Engine, StepResult, too_many_bad_steps
from vcrast.training.optim import parameters_of, set_rates
from vcrast.training.reduce import GradientAverage
from vcrast.training.watchdog import watched


@ENGINES.register("torch")
class TorchEngine(Engine):
    """One device a process, any number of processes.

    Args:
        module: the objective, on its device.
        optimizer: over its parameters.
        precision: `fp32`, `bf16` or `fp16`; parameters stay fp32, the encoder runs under autocast.
        device: where the module is.
        clip_grad_norm: largest norm of all gradients together; None leaves them as they are.
        compile: torch.compile the encoder.
        checkpoint_blocks: each block of the encoder keeps its input only and runs again in the backward. Exact, at a
            third more compute, for everything. Micro-batches cost no more and keep what fits, so it pays only where a
            single clip does not: long recordings, small strides.

    Raises:
        ValueError: an option that cannot work here.
    """

    can_undo = True

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        *,
        precision: str,
        device: torch.device | str,
        clip_grad_norm: float | None,
        compile: bool,
        checkpoint_blocks: bool,
    ) -> None:
        super().__init__(
            module, optimizer, precision=precision, device=device, clip_grad_norm=clip_grad_norm,
            checkpoint_blocks=checkpoint_blocks, compile=compile,
        )  # fmt: skip
        self.parameters = parameters_of(optimizer)
        self.gradients = GradientAverage(self.parameters)
        self.names = {id(weight): name for name, weight in module.named_parameters()}
        self.report = Report(self.device)

    def gathered_weights(self, *, write: bool = False) -> AbstractContextManager[Any]:  # noqa: ARG002 - the contract's
        """Nothing to do: weights always are whole."""
        return nullcontext()

    def undo_backward(self) -> None:
        """Undo what a forward and backward left behind: gradients, a bad loss, buffers."""
        self.optimizer.zero_grad(set_to_none=True)
        super().undo_backward()

    def backward(self, loss: Tensor, *, last: bool = False) -> None:
        """Add the gradients of a loss; `last`: of the step, so that the processes' gradients can be averaged."""
        if last:
            self.gradients.arm()
        # Noted apart from the gradients: max(0, NaN) has gradient 0.
        self.bad_loss = self.bad_loss | ~loss.detach().isfinite()
        (loss if self.loss_scale is None else loss * self.loss_scale.scale).backward()

    def finish_backward(self) -> None:
        """Wait until gradients are those of all processes; on all of them, also after running out of memory."""
        self.gradients.finish()
        if running():
            self.bad_loss = average(self.bad_loss.float()) > 0

    @torch.no_grad()
    def step(self, lr: float, progress: float = 0.0) -> StepResult:
        """See `Engine`; an error about a bad step names the tensor."""
        self.check()
        self.num_steps += 1
        weights = [weight for weight in self.parameters if weight.grad is not None]
        if not weights:
            raise ValueError("no parameter has a gradient: call backward before step")
        grads = [weight.grad for weight in weights if weight.grad is not None]
        norms = torch.stack(torch._foreach_norm(grads))
        norm = norms.norm()
        bad = self.bad_loss | ~norm.isfinite()
        norm = self.unscale_and_clip(grads, norm)
        self.apply(lr, progress, bad)
        self.finish_step(bad, norms, weights)
        return StepResult(norm, bad)

    def unscale_and_clip(self, grads: list[Tensor], norm: Tensor) -> Tensor:
        """Divide the gradients by the loss scale, shorten them if they are too long; returns the unscaled norm."""
        factor = torch.ones_like(norm)
        if self.loss_scale is not None:
            factor = factor / self.loss_scale.scale
            norm = norm * factor
        if self.clip_grad_norm is not None:
            factor = factor * (self.clip_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        if self.loss_scale is not None or self.clip_grad_norm is not None:
            torch._foreach_mul_(grads, factor)
        return norm

    def apply(self, lr: float, progress: float, bad: Tensor) -> None:
        """Let the optimiser step, unless the step is bad."""
        set_rates(self.optimizer, lr, progress)
        if getattr(self.optimizer, "_step_supports_amp_scaling", False):
            self.optimizer.grad_scale, self.optimizer.found_inf = None, bad.float()  # type: ignore[attr-defined]
            self.optimizer.step()
            del self.optimizer.grad_scale, self.optimizer.found_inf  # type: ignore[attr-defined]
        elif not bool(bad):  # an optimiser that cannot decide on the device: wait for it
            self.optimizer.step()

    def finish_step(self, bad: Tensor, norms: Tensor, weights: list[Tensor]) -> None:
        """Count, put buffers back after a bad step, forget the gradients."""
        for buffer, before in self.buffers:
            buffer.copy_(torch.where(bad, before, buffer))
        self.buffers = []
        if self.loss_scale is not None:
            self.loss_scale.update(bad)
        self.skips = torch.stack([torch.where(bad, self.skips[0] + 1, 0.0), self.skips[1] + bad])
        scale = self.loss_scale.scale if self.loss_scale is not None else torch.ones_like(self.skips[0])
        culprit = norms.isfinite().logical_not().float().argmax()
        finite = norms.isfinite().all()
        numbers = torch.stack([*self.skips, scale, culprit.float(), finite.float(), self.bad_loss.float()])
        self.report.send(numbers, [self.names.get(id(weight), "?") for weight in weights], self.num_steps)
        self.bad_loss = torch.zeros_like(self.bad_loss)
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type != "cuda":
            self.check()

    def check(self) -> None:
        """Stop a run whose gradients stay bad, going by the last step whose counters were sent.

        Raises:
            FloatingPointError: names the step, the tensor and what to try.
        """
        found = self.report.receive()
        if found is None:
            return
        (in_a_row, _, scale, culprit, finite, bad_loss), names, step = found
        if bad_loss:
            self.tell_bad_loss(step)
        if in_a_row < MAX_BAD_STEPS[self.precision] and scale >= 1:
            return
        what = "the loss" if finite and bad_loss else f"the gradient of {names[int(culprit)]}"
        if not finite and bad_loss:
            what = f"the loss, and {what},"
        raise too_many_bad_steps(step, what, int(in_a_row), scale)

    def state_dict(self) -> dict[str, Any]:
        """See `Engine`; on every process."""
        self.check()
        return {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), **self.counters()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Engine`."""
        self.check_loss_scale(state)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.load_counters(state)


class Report:
    """A few numbers on their way from the device to the CPU, read one step later."""

    def __init__(self, device: torch.device) -> None:
        self.event = torch.cuda.Event() if device.type == "cuda" else None
        self.inbox: Tensor | None = None
        self.names: list[str] = []
        self.step = 0

    def send(self, numbers: Tensor, names: list[str], step: int) -> None:
        """Start the copy; `receive` must have been called since the last one."""
        if self.event is None:
            self.inbox = numbers
        else:
            if self.inbox is None:
                self.inbox = torch.empty(numbers.shape, pin_memory=True)
            self.inbox.copy_(numbers, non_blocking=True)
            self.event.record()
        self.names, self.step = names, step

    def receive(self) -> tuple[list[float], list[str], int] | None:
        """The numbers sent last; None if there were none yet."""
        if self.inbox is None:
            return None
        if self.event is not None:
            # Here the CPU waits for the GPU, and so for exchanges over NCCL that never end.
            with watched("the work of the step before"):
                self.event.synchronize()
        return self.inbox.tolist(), self.names, self.step
