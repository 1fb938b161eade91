"""Describe the machine of a benchmark, take time, keep rows."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vcrast.models import attention_memory_efficient
from vcrast.runs.environment import describe_environment
from vcrast.training.device import AUTOCAST

T4_BYTES = 15 * 2**30
T4_NOTE = (
    "imitates a T4 on a larger card: memory capped at 15 GiB, fp16, memory-efficient attention kernel only, no "
    "compile; its memory limits hold, its speed is this card's"
)


def header(device: torch.device, precision: str, *notes: str) -> list[str]:
    """Hardware, versions, commit and what else must be known, one line each."""
    found = describe_environment()
    git = found["git"] or {"commit": "unknown", "dirty": False}
    hardware = f"{found['cpu']}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        hardware = f"{torch.cuda.get_device_name(device)}, CUDA {found['cuda']}"
    return [
        f"hardware: {hardware}; precision {precision}",
        f"versions: torch {torch.__version__}, Python {found['python']}",
        f"commit: {git['commit']}{' with changes' if git['dirty'] else ''}",
        *notes,
    ]


class Table:
    """Rows shown as Markdown as they come, and kept in a JSON file that is whole after each of them.

    Args:
        columns: names of the cells.
        file: to write to, or None.
        notes: lines of the header, kept in the file.
    """

    def __init__(self, columns: Sequence[str], file: Path | None = None, notes: Sequence[str] = ()) -> None:
        self.columns, self.file, self.notes = columns, file, notes
        self.rows: list[dict[str, str]] = []
        print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
        self.save()

    def add(self, cells: Sequence[str]) -> None:
        """Print and keep one row."""
        self.rows.append(dict(zip(self.columns, cells, strict=True)))
        print(f"| {' | '.join(cells)} |", flush=True)
        self.save()

    def save(self) -> None:
        """Write notes and rows, the file never half."""
        if self.file is not None:
            write_json(self.file, {"notes": list(self.notes), "rows": self.rows})


def write_json(file: Path, content: Any) -> None:
    """Write aside and rename, so that a process that is killed leaves the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.new")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, file)


def imitate_t4(device: torch.device) -> None:
    """Cap this process's GPU memory and kernels to a T4's.

    Raises:
        ValueError: no GPU, or one with less memory than that.
    """
    if device.type != "cuda":
        raise ValueError("--t4 needs a CUDA device: it caps a larger GPU")
    total = torch.cuda.get_device_properties(device).total_memory
    if total < T4_BYTES:
        raise ValueError(f"--t4: this GPU has {total / 2**30:.1f} GiB, less than the 15 GiB to imitate; leave it out")
    torch.cuda.set_per_process_memory_fraction(T4_BYTES / total, device)
    attention_memory_efficient.FUSED[:] = [torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_each(work: Callable[[int], object], *, times: int, device: torch.device, first: int = 0) -> float:
    """Mean wall time of `work(first)`, `work(first + 1)`, ..., with the device's work done."""
    synchronize(device)
    started = time.perf_counter()
    for number in range(first, first + times):
        work(number)
    synchronize(device)
    return (time.perf_counter() - started) / times


def matmul_peak(device: torch.device, precision: str, size: int) -> float:
    """Measured operations per second of a (size, size) matrix product in this precision; the best of five rounds."""
    dtype = AUTOCAST[precision] or torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def product(_: int) -> object:
        return torch.mm(a, b, out=out)

    seconds_each(product, times=3, device=device)
    best = min(seconds_each(product, times=5, device=device) for _ in range(5))
    return 2 * size**3 / best


def read_json(file: Path) -> Any:
    """What `write_json` wrote, or None if there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
