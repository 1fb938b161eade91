"""The contract of an engine, and what all engines share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vcrast.training.device import AUTOCAST
from vcrast.training.loss_scale import LossScale

MAX_BAD_STEPS = {"fp32": 3, "bf16": 3, "fp16": 8}  # in a row; fp16 overflows now and then by design


class StepResult(NamedTuple):
    """What a step did; 0-d tensors on the device, so that nobody waits for them unless they are read."""

    grad_norm: Tensor  # before clipping
    skipped: Tensor  # bool


class Engine(ABC):
    """What turns losses into updates of the weights; registered in ENGINES.

    Builders are given `module` (the objective, on its device), `optimizer`, `precision`, `device`, `clip_grad_norm`.

    Attributes:
        can_undo: a step can be undone after its backward has begun, and so be tried out and repeated.
        loss_scale: of fp16; None in other precisions.
        num_steps: so far, skipped ones included.
        on_bad_loss: called once, on all processes, when a step is known whose loss is not finite, with its number from
            1. On CUDA that is one step later; the weights still are those that it began with.
    """

    can_undo: ClassVar[bool]

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        *,
        precision: str,
        device: torch.device | str,
        clip_grad_norm: float | None,
        checkpoint_blocks: bool,
        compile: bool,
    ) -> None:
        if precision not in AUTOCAST:
            raise ValueError(f"precision={precision}: choose from {', '.join(AUTOCAST)}")
        if clip_grad_norm is not None and not clip_grad_norm > 0:
            raise ValueError(f"clip_grad_norm={clip_grad_norm}: must be above 0; null switches clipping off")
        self.module, self.optimizer, self.precision = module, optimizer, precision
        self.device, self.clip_grad_norm = torch.device(device), clip_grad_norm
        self.loss_scale = LossScale(self.device) if precision == "fp16" else None
        self.num_steps = 0
        self.on_bad_loss: Callable[[int], None] | None = None
        self.bad_loss = torch.zeros((), dtype=torch.bool, device=self.device)
        self.skips = torch.zeros(2, device=self.device)  # in a row, in total
        self.buffers: list[tuple[Tensor, Tensor]] = []
        if checkpoint_blocks:
            checkpoint_encoder(module)
        if compile:
            compile_parts(module, self.device)

    @classmethod  # noqa: B027 - most refuse nothing
    def check_choice(cls, optimizer: Optimizer, options: Mapping[str, Any]) -> None:
        """Refuse, before a run begins, an optimiser or options of the user that the constructor would refuse.

        Raises:
            ValueError: names the setting; here nothing is refused.
        """

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which `represent` runs."""
        dtype = AUTOCAST[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    @abstractmethod
    def gathered_weights(self, *, write: bool = False) -> AbstractContextManager[Any]:
        """All weights whole on every process, to use the module outside of steps; all processes enter together.

        Args:
            write: changes of weights that are not trained (a teacher's) are kept; nothing may run forward meanwhile.
        """

    def remember_buffers(self) -> None:
        """Begin a step: keep the module's buffers, such as BatchNorm's running means, so that it can be undone."""
        self.buffers = [(buffer, buffer.detach().clone()) for buffer in self.module.buffers()]

    def undo_backward(self) -> None:
        """Undo what a forward and, where `can_undo`, a backward left behind."""
        self.bad_loss = torch.zeros_like(self.bad_loss)
        with torch.no_grad():
            for buffer, before in self.buffers:
                buffer.copy_(before)

    @abstractmethod
    def backward(self, loss: Tensor, *, last: bool = False) -> None:
        """Add the gradients of a loss; `last`: of the step, so that the processes' gradients can be averaged."""

    @abstractmethod
    def finish_backward(self) -> None:
        """Wait until gradients are those of all processes; on all of them, also after running out of memory."""

    @abstractmethod
    def step(self, lr: float, progress: float = 0.0) -> StepResult:
        """Unscale and clip the gradients, update the weights, forget the gradients; skip a step that is not finite.

        Args:
            lr: of this step; a group's own rate is this times its `lr_scale`.
            progress: share of the steps that are done; a weight decay that changes follows it.

        Raises:
            FloatingPointError: too many bad steps in a row, or an fp16 scale below 1.
            ValueError: no backward came before.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, scale and counters, whole, on the first process: all that the next step depends on."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, of either engine and any number of processes.

        Raises:
            ValueError: see `check_loss_scale`; other parameters.
        """

    def tell_bad_loss(self, number: int) -> None:
        """Call `on_bad_loss`, the first time."""
        tell, self.on_bad_loss = self.on_bad_loss, None
        if tell is not None:
            tell(number)

    def weights_before(self) -> dict[str, Tensor]:
        """The module's state before a forward of a step that is not over; with gathered weights."""
        before = {id(buffer): value for buffer, value in self.buffers}
        state = {name: before.get(id(buffer), buffer) for name, buffer in self.module.named_buffers()}
        return {name: state.get(name, value) for name, value in self.module.state_dict().items()}

    @property
    def num_skipped(self) -> int:
        """Bad steps so far; waits for the device."""
        return int(self.skips[1])

    def counters(self) -> dict[str, Any]:
        """What every engine saves beside weights and optimiser."""
        return {
            "loss_scale": None if self.loss_scale is None else self.loss_scale.state_dict(),
            "skips": self.skips.cpu(),
            "steps": self.num_steps,
        }

    def check_loss_scale(self, state: dict[str, Any]) -> None:
        """Refuse a saved state of another kind of precision.

        Raises:
            ValueError: fp16, which has a loss scale, goes on from another precision, or the reverse.
        """
        if (state["loss_scale"] is None) != (self.loss_scale is None):
            saved = "bf16 or fp32" if state["loss_scale"] is None else "fp16"
            raise ValueError(f"precision={self.precision}: the checkpoint was made with {saved}; go on with that")

    def load_counters(self, state: dict[str, Any]) -> None:
        """Take over what `counters` saved."""
        if self.loss_scale is not None:
            self.loss_scale.load_state_dict(state["loss_scale"])
        self.skips, self.num_steps = state["skips"].to(self.skips.device), int(state["steps"])


def too_many_bad_steps(step: int, what: str, in_a_row: int, scale: float) -> FloatingPointError:
    """Make the error that ends a run whose steps stay bad.

    Args:
        step: the last bad one.
        what: is not finite.
        in_a_row: bad steps up to this one.
        scale: of the loss, 1 without fp16; below 1 it is the reason.
    """
    why = f"{in_a_row} steps in a row" if scale >= 1 else f"the fp16 loss scale fell to {scale:g}"
    return FloatingPointError(
        f"step {step}: {what} is not finite ({why}; all were skipped, the weights are as before them); lower the "
        "learning rate, set clip_grad_norm, or set precision=fp32"
    )


def checkpoint_encoder(module: nn.Module) -> None:
    """Let the encoder's blocks run a second time in the backward instead of keeping their activations.

    Raises:
        ValueError: no part of the module can do that.
    """
    encoders = [part for part in module.modules() if hasattr(part, "checkpoint_blocks")]
    if not encoders:
        raise ValueError("engine.checkpoint_blocks=true: no encoder here has blocks to checkpoint; set it to false")
    for encoder in encoders:
        encoder.checkpoint_blocks = True  # type: ignore[assignment]  # a plain attribute, not a tensor


def compile_parts(module: nn.Module, device: torch.device) -> None:
    """Compile what the objective names in `compiled`, in place; names in checkpoints stay.

    Raises:
        ValueError: a GPU that Triton does not support.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        name = torch.cuda.get_device_name(device)
        raise ValueError(
            f"engine.compile=true: needs a GPU of capability 8 or newer, not {name}; set engine.compile=false"
        )
    for part in getattr(module, "compiled", ("encoder",)):
        module.get_submodule(part).compile()
