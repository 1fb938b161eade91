"""ENGINES: DeepSpeed's ZeRO, which splits optimiser, gradients and weights.

DeepSpeed is told that it trains in fp32, which is true of weights and gradients. Autocast and the loss scale are our
own. Its half-precision sections would cast the whole module, BatchNorm and loss included, and its `torch_autocast` has
a scaler that clips gradients before it takes the scale out of them and halves or doubles once per parameter group.

How a bad step is skipped. Where a loss is not finite, the gradients of biases and norms are made NaN as they arrive.
The average hands that to all processes, DeepSpeed finds the norm of the gradients not finite, as it does after an
overflow, and discards the step: on all of them, and without a question of ours to the device.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from vcrast.config.registry import ENGINES
from vcrast.training.dist import average, is_rank_zero, running, waiting_for
from vcrast.training.engine_base import MAX_BAD_STEPS, Engine, StepResult, too_many_bad_steps
from vcrast.training.exact import out_of_memory
from vcrast.training.optim import set_rates
from vcrast.training.reduce import BUCKET_BYTES
from vcrast.training.zero_state import Shards

STAGES = (1, 2, 3)
OFFLOAD = ("none", "cpu")
OUT_OF_MEMORY = (
    "out of memory in the middle of a step, which engine=deepspeed cannot repeat: its processes have already exchanged "
    "a part; set pretrain.micro_batch_size and finetune.micro_batch_size lower, engine.checkpoint_blocks=true or a "
    "higher engine.zero_stage, and go on from the last checkpoint"
)


@ENGINES.register("deepspeed")
class DeepSpeedEngine(Engine):
    """One device a process; the process group must exist, be it of one process.

    Args:
        module: the objective, on its device; stage 3 empties its weights outside of steps and `gathered_weights`.
        optimizer: AdamW over its parameters; from here on it holds this process's flat part of them.
        precision: `fp32`, `bf16` or `fp16`; parameters stay fp32, the encoder runs under autocast.
        device: where the module is.
        clip_grad_norm: largest norm of all gradients together; None leaves them as they are.
        zero_stage: what is split over the processes: 1 the optimiser's state, 2 also gradients, 3 also weights.
        offload: `cpu` keeps the optimiser's state in the host's memory and lets its step run there; or `none`.
        compile: torch.compile the encoder; not with stage 3.
        checkpoint_blocks: as in `TorchEngine`.

    Raises:
        ValueError: an option that cannot work here, another optimiser than AdamW, or DeepSpeed is not installed.
    """

    can_undo = False

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        *,
        precision: str,
        device: torch.device | str,
        clip_grad_norm: float | None,
        zero_stage: int,
        offload: str,
        compile: bool,
        checkpoint_blocks: bool,
    ) -> None:
        check(optimizer, zero_stage, offload, compile)
        super().__init__(
            module, optimizer, precision=precision, device=device, clip_grad_norm=clip_grad_norm,
            checkpoint_blocks=checkpoint_blocks, compile=compile,
        )  # fmt: skip
        deepspeed = import_deepspeed(self.device)
        self.stage = zero_stage
        self.skips = self.skips.cpu()  # read in every step
        self.complete = False  # a step's last backward has been run
        groups = [list(group["params"]) for group in optimizer.param_groups]
        settings = derive(clip_grad_norm, zero_stage, offload, pin_memory=self.device.type == "cuda")
        with chosen_device(self.device), waiting_for("the start of DeepSpeed"):
            self.zero, *_ = deepspeed.initialize(
                model=EmptyForward(module), optimizer=optimizer, config=settings, dist_init_required=False
            )
        self.shards = Shards(self.zero.optimizer, optimizer, groups, sharded=zero_stage == 3)
        self.nan_signal = torch.zeros((), device=self.device)
        for weight in small_parameters(groups):
            weight.register_hook(lambda gradient: gradient + self.nan_signal)

    def autocast(self) -> AbstractContextManager[Any]:
        """See `Engine`; with stage 3 weights are exchanged in it."""
        cast = super().autocast()
        return exchanging(cast) if self.stage == 3 else cast

    @classmethod
    def check_choice(cls, optimizer: Optimizer, options: Mapping[str, Any]) -> None:
        """See `Engine`."""
        refuse(optimizer, options["zero_stage"], options["offload"], options["compile"])

    def gathered_weights(self, *, write: bool = False) -> AbstractContextManager[Any]:
        """See `Engine`; with stage 1 and 2 they always are whole."""
        if self.stage < 3:
            return nullcontext()
        return writable(self.module) if write else unsplit(self.zero)

    def remember_buffers(self) -> None:
        """See `Engine`."""
        super().remember_buffers()
        self.zero()

    def backward(self, loss: Tensor, *, last: bool = False) -> None:
        """Add the gradients of a loss; with the step's last one, what is left of their average is exchanged."""
        bad = ~loss.detach().isfinite()
        self.bad_loss = self.bad_loss | bad
        self.nan_signal = torch.where(bad, torch.nan, torch.zeros_like(self.nan_signal))
        if self.loss_scale is not None:
            self.zero.optimizer.override_loss_scale(float(self.loss_scale.scale))
        self.zero.set_gradient_accumulation_boundary(last)
        with exchanging(waiting_for("the backward of DeepSpeed")):
            self.zero.backward(loss, scale_wrt_gas=False)
            if not last:
                self.zero()  # what DeepSpeed does at the start of a forward: the next gradients add to these
        self.complete = last

    def finish_backward(self) -> None:
        """Make sure that this process took part in the average.

        Raises:
            ValueError: it did not, for lack of memory.
        """
        if not self.complete:
            raise ValueError(OUT_OF_MEMORY)

    @torch.no_grad()
    def step(self, lr: float, progress: float = 0.0) -> StepResult:
        """See `Engine`."""
        if not self.complete:
            raise ValueError("no parameter has a gradient: call backward before step")
        self.complete = False
        self.num_steps += 1
        set_rates(self.optimizer, lr, progress)
        with waiting_for("the step of DeepSpeed"):
            self.zero.step()
        norm = torch.as_tensor(self.zero.get_global_grad_norm(), device=self.device)
        bad = torch.tensor(bool(self.zero.optimizer.overflow), device=self.device)
        self.finish_step(bool(bad))
        return StepResult(norm, bad)

    def finish_step(self, bad: bool) -> None:
        """Count, put buffers back after a bad step, stop a run whose steps stay bad.

        Raises:
            FloatingPointError: names the step, and whether the loss or a gradient was not finite.
        """
        if bad:
            for buffer, before in self.buffers:
                buffer.copy_(before)
        self.buffers = []
        if self.loss_scale is not None:
            self.loss_scale.update(torch.tensor(bad, device=self.device))
        self.skips = torch.stack([(self.skips[0] + 1) * bad, self.skips[1] + bad])
        scale = 1.0 if self.loss_scale is None or not bad else float(self.loss_scale.scale)
        in_a_row = int(self.skips[0])
        lost_loss = bad and bool(average(self.bad_loss.float()) > 0)
        self.bad_loss = torch.zeros_like(self.bad_loss)
        if lost_loss:
            self.tell_bad_loss(self.num_steps)
        if in_a_row < MAX_BAD_STEPS[self.precision] and scale >= 1:
            return
        what = "the loss" if lost_loss else "a gradient (engine=torch names it)"
        raise too_many_bad_steps(self.num_steps, what, in_a_row, scale)

    def state_dict(self) -> dict[str, Any]:
        """What `TorchEngine.state_dict` holds, whole, on the CPU of the first process; empty on the others.

        All processes call it. Tensors travel one at a time; the first process ends up with 12 bytes a parameter.
        """
        weights, moments = self.shards.module_state(self.module, gathered), self.shards.optimizer_state()
        if not is_rank_zero():
            return {}
        return {"module": weights, "optimizer": moments, **self.counters()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Engine`; each process is given all of the state."""
        self.check_loss_scale(state)
        self.shards.load_module(self.module, state["module"], gathered)
        self.shards.load_optimizer(state["optimizer"])
        self.load_counters(state)


class EmptyForward(nn.Module):
    """The module that DeepSpeed is given: an empty forward runs its hooks, our steps call the parts."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self) -> tuple[()]:
        """Nothing: DeepSpeed's own hooks around it prepare for a step."""
        return ()


def check(optimizer: Optimizer, zero_stage: int, offload: str, compile: bool) -> None:
    """Refuse what would fail later or, worse, be wrong silently."""
    refuse(optimizer, zero_stage, offload, compile)
    if not running():
        raise ValueError("engine=deepspeed needs a process group, be it of one process: vcrast.training.dist")


def refuse(optimizer: Optimizer, zero_stage: int, offload: str, compile: bool) -> None:
    """Refuse choices that do not go together, on any machine."""
    if zero_stage not in STAGES:
        raise ValueError(f"engine.zero_stage={zero_stage}: choose from 1, 2, 3; without splitting, use engine=torch")
    if offload not in OFFLOAD:
        raise ValueError(f"engine.offload={offload}: choose from {', '.join(OFFLOAD)}")
    if not isinstance(optimizer, AdamW):
        name = type(optimizer).__name__
        raise ValueError(
            f"optim={name.lower()} with engine=deepspeed: ZeRO flattens all matrices into one vector, so that LARS, "
            "which scales each by its norm, would take wrong steps silently; set optim=adamw or engine=torch"
        )
    if compile and zero_stage == 3:
        raise ValueError("engine.compile=true with engine.zero_stage=3: compiled code would not fetch the weights that "
                         "other processes hold; set engine.compile=false or zero_stage=2")  # fmt: skip


def derive(clip_grad_norm: float | None, zero_stage: int, offload: str, *, pin_memory: bool) -> dict[str, Any]:
    """DeepSpeed's settings from ours."""
    bucket = BUCKET_BYTES // 4  # its buckets count numbers; its default, 5e8, takes 2 GB
    zero: dict[str, Any] = {
        "stage": zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "stage3_prefetch_bucket_size": bucket,
        # Would replace torch.nn.functional.linear for good, for everything in the process.
        "memory_efficient_linear": False,
    }
    if offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pin_memory}
    return {
        # Bookkeeping only: the exact batch hands over one loss a step, whatever it was made of.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip_grad_norm or 0.0,  # its default clips at 1
        "zero_optimization": zero,
        # Its own CPU Adam is compiled when it is first used; PyTorch's fused AdamW is on the CPU, too.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "timers": {"throughput": {"enabled": False}},  # would wait for the device
    }


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, for this device.

    Raises:
        ValueError: not installed, or already in use for another kind of device.
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read once, at import
    # Its import looks for a CUDA compiler, and it calls exchanges by names that PyTorch is about to retire.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    try:
        import deepspeed
    except ImportError as error:
        raise ValueError(
            f"engine=deepspeed: DeepSpeed does not import ({error}); pip install 'vcrast[deepspeed]', or use "
            "engine=torch"
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it warns of every step that is skipped
    if device.type == "cpu":
        # An all-reduce through shared memory, compiled for minutes at the first exchange; gloo serves as well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    found = deepspeed.accelerator.get_accelerator().device_name()
    if found != device.type:
        raise ValueError(
            f"engine=deepspeed: DeepSpeed works on {found} in this process, the run on {device.type}; unset "
            "DS_ACCELERATOR or set run.device"
        )
    return deepspeed


def gathered(weights: list[nn.Parameter]) -> AbstractContextManager[Any]:
    """Stage 3: whole parameters, after which everybody has those of the first process."""
    from deepspeed.runtime.zero import GatheredParameters

    context: AbstractContextManager[Any] = GatheredParameters(weights, modifier_rank=0)
    return context


@contextmanager
def unsplit(zero: Any) -> Iterator[None]:
    """Stage 3: hold all weights on all processes; forwards exchange nothing, so that their number may differ."""
    from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

    with waiting_for("the gather of weights"), unwrap_model_for_generation(zero):
        yield


@contextmanager
def writable(module: nn.Module) -> Iterator[None]:
    """Stage 3: hold all weights on all processes; those that are not trained keep the first process's changes."""
    from deepspeed.runtime.zero import GatheredParameters

    weights = list(module.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    frozen = [weight for weight in weights if not weight.requires_grad]
    with (
        waiting_for("the gather of weights"),
        GatheredParameters(trained),
        gathered(frozen) if frozen else nullcontext(),
    ):
        yield


@contextmanager
def chosen_device(device: torch.device) -> Iterator[None]:
    """Let DeepSpeed, which takes LOCAL_RANK for the number of the GPU, use the device that we chose."""
    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LOCAL_RANK"]
        else:
            os.environ["LOCAL_RANK"] = before


def small_parameters(weights: list[list[nn.Parameter]]) -> list[nn.Parameter]:
    """Biases and norms, a thousandth of all numbers; all parameters where there are none."""
    every = [weight for group in weights for weight in group]
    return [weight for weight in every if weight.ndim <= 1] or every


@contextmanager
def exchanging(context: AbstractContextManager[Any]) -> Iterator[None]:
    """A context in which processes exchange parts: one that runs out of memory cannot begin again.

    Raises:
        ValueError: instead of torch.OutOfMemoryError.
    """
    try:
        with context:
            yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise ValueError(OUT_OF_MEMORY) from error
