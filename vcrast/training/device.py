"""Resolve `run.device` and `precision`: device and number type of this process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from vcrast.config.words import suggest
from vcrast.training.dist import torchrun_rank

DEVICES = ("cpu", "cuda", "cuda:0", "mps")
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# As Linux names them in /proc/cpuinfo.
CPU_INSTRUCTIONS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"}}
CPU_BF16 = {"avx512_bf16", "amx_bf16"}  # where bf16 was measured to pay; Arm's was not
CPUINFO = Path("/proc/cpuinfo")


def existing_device(setting: str, name: str | torch.device, *, also: tuple[str, ...] = ()) -> torch.device:
    """The device that a setting names; `also`: other values of the setting, for its message.

    Raises:
        ValueError: no such device, or one that this machine lacks.
    """
    try:
        found = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f"{setting}={name}: no such device; {suggest(str(name), (*also, *DEVICES))}") from None
    if found.type == "cpu":
        return torch.device("cpu")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"{setting}={name}: torch {torch.__version__} sees no CUDA device; use cpu, or see `vcrast doctor`"
        )
    here = torch.accelerator.current_accelerator(check_available=True)
    if here is None or here.type != found.type:
        raise ValueError(f"{setting}={name}: this machine has none; choose from cpu{f', {here}' if here else ''}")
    count = torch.accelerator.device_count()
    if found.index is not None and found.index >= count:
        names = ", ".join(f"{found.type}:{number}" for number in range(count))
        raise ValueError(f"{setting}={name}: this machine has {count}; choose from cpu, {names}")
    return found


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; `cuda` is the GPU of this process's place on its machine.

    Raises:
        ValueError: a device that this machine lacks.
    """
    here = torchrun_rank()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = existing_device("run.device", name, also=("auto",))
    if device.type != "cuda" or here.local_world_size == 1:
        return device
    if device.index is not None:
        raise ValueError(f"run.device={name}: {here.local_world_size} processes cannot share one GPU; use cuda or auto")
    number = torch.cuda.device_count()
    if number == 1 and "CUDA_VISIBLE_DEVICES" in os.environ:  # a scheduler has hidden those of the other processes
        return torch.device("cuda", 0)
    if number < here.local_world_size:
        raise ValueError(f"launch.num_processes={here.local_world_size}: there are {number} GPUs here; each takes one")
    return torch.device("cuda", here.local_rank)


def resolve_precision(precision: str, device: torch.device | str, cpuinfo: Path = CPUINFO) -> str:
    """`auto` is bf16 where it is native (on a CPU: AVX-512 bf16 or AMX), else fp16 on a GPU and fp32 on a CPU.

    Raises:
        ValueError: an unknown precision, or bf16 on a GPU that only emulates it.
    """
    device = torch.device(device)
    if precision not in ("auto", *AUTOCAST):
        raise ValueError(f"precision={precision}: choose from auto, bf16, fp16, fp32")
    if device.type != "cuda":
        native = not CPU_BF16.isdisjoint(cpu_flags(cpuinfo) or ())
        return ("bf16" if native else "fp32") if precision == "auto" else precision
    # Not torch.cuda.is_bf16_supported(): it says yes on a T4, which emulates bf16, slowly.
    native = torch.cuda.get_device_capability(device) >= (8, 0)
    if precision == "bf16" and not native:
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"precision=bf16: {name} only emulates it, slowly; set precision=fp16")
    return ("bf16" if native else "fp16") if precision == "auto" else precision


def cpu_computes(precision: str, cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor has instructions for 16-bit numbers; without them they are many times slower than fp32.

    True as well where that cannot be found out.
    """
    flags, names = cpu_flags(cpuinfo), CPU_INSTRUCTIONS.get(precision)
    return flags is None or names is None or not names.isdisjoint(flags)


def cpu_flags(cpuinfo: Path = CPUINFO) -> set[str] | None:
    """Names of the processor's instruction sets, or None where the system does not say."""
    try:
        match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    return set(match[1].split()) if match else None


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Let PyTorch use deterministic algorithms alone, where `run.deterministic` asks for it; before CUDA is used.

    Raises:
        ValueError: an operation that has no deterministic version here.
    """
    if not asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).partition(". ")[0]
        raise ValueError(f"run.deterministic=true: {reason}; set it to false") from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
