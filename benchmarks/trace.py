"""Profile one step: PyTorch's trace as a file, the largest operations as a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def trace_step(step: Callable[[int], object], number: int, *, device: torch.device, file: Path) -> list[list[str]]:
    """Run `step(number)` under the profiler.

    Args:
        step: a step that has run before, so that nothing is compiled or allocated for the first time.
        number: of the step.
        device: where it runs.
        file: of the trace, for chrome://tracing or Perfetto; its folder is made.

    Returns:
        Rows of (operation, calls, ms, share), the largest first: what each operation or kernel took by itself, on the
        GPU if there is one.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as seen:
        step(number)
        if on_gpu:
            torch.cuda.synchronize(device)
    file.parent.mkdir(parents=True, exist_ok=True)
    seen.export_chrome_trace(str(file))
    taken = [
        (entry.key, entry.count, entry.self_device_time_total if on_gpu else entry.self_cpu_time_total)
        for entry in seen.key_averages()
    ]
    total = sum(microseconds for _, _, microseconds in taken)
    return [
        [name, str(calls), f"{microseconds / 1000:.2f}", f"{microseconds / total:.1%}"]
        for name, calls, microseconds in sorted(taken, key=lambda row: -row[2])
    ]
