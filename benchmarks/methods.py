"""Time one step of every objective: same model, clips and precision, in one process.

python benchmarks/methods.py [--model tiny] [--batch 16] [--frames 512] [--rounds 5] [--methods ssast mae ...] [--small]

Beside them SSAST's step as it was released (`benchmarks/ssast.py`): two forwards, masks and losses in Python loops,
fp32; also ours in fp32, at one forward and at two. All take turns, so that noise of the machine falls on each.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import ssast
from benchmarks.machine import Table, header, seconds_each
from benchmarks.training import SMALL, build_training
from vcrast.config.compose import compose
from vcrast.training.device import resolve_precision

COLUMNS = ("method", "precision", "clips/s", "ms", "spread", "peak MiB", "GFLOP a clip", "to SSAST as released")
RELEASED = "SSAST as released"
NUM_CLASSES = 50
METHODS = {
    "vcr": ("objective=vcr",),
    "vcr, all tokens": ("objective=vcr", "views.patch_drop=0"),
    "barlow": ("objective=barlow",),
    "ntxent": ("objective=ntxent",),
    "sigreg": ("objective=sigreg",),
    "visreg": ("objective=visreg",),
    "mmcr": ("objective=mmcr",),
    "supervised": ("objective=supervised",),
    "ssast": ("objective=ssast",),
    "ssast, two forwards": ("objective=ssast", "objective.forwards=two"),
    "mae_ast": ("objective=mae_ast",),
    "mae": ("objective=mae",),
    "mae, local windows": ("objective=mae", "objective.decoder.window=[4,4]"),
    "asit": ("objective=asit",),
}
TOY = {
    **dict.fromkeys(("vcr", "barlow", "ntxent", "sigreg", "visreg", "mmcr"), ("objective.projector_dims=[64,64,64]",)),
    "mae": ("objective.decoder.depth=2",),
    "asit": ("objective.head_dims=[16,8]", "objective.num_prototypes=16", "objective.num_token_prototypes=8"),
}
"""Beside `SMALL`: what makes an objective's own networks toys."""


class Side(NamedTuple):
    """One of those that take turns."""

    name: str
    precision: str
    step: Callable[[int], object]


def sides(arguments: argparse.Namespace, device: torch.device, precision: str) -> list[Side]:
    """Build all that take turns."""
    old = ssast.released(arguments, device)
    found = [Side(RELEASED, old.precision, old.step)]
    chosen = [name for name in METHODS if not arguments.methods or name.split(",")[0] in arguments.methods]
    for name in chosen:
        kinds = ("fp32", precision) if name.startswith("ssast") else (precision,)
        found += [own(arguments, name, kind, device) for kind in dict.fromkeys(kinds)]
    return found


def own(arguments: argparse.Namespace, name: str, precision: str, device: torch.device) -> Side:
    """Build one step of ours."""
    objective = METHODS[name][0].partition("=")[2]
    toys = [word for word in SMALL if word.startswith("model.")] + list(TOY.get(objective, ()))
    words = [f"model={arguments.model}", *METHODS[name], *(toys if arguments.small else ())]
    training = build_training(
        compose(words), num_frames=arguments.frames[0], precision=precision, device=device,
        num_classes=NUM_CLASSES if objective == "supervised" else 0,
    )  # fmt: skip
    wavs = training.noise(arguments.batch)
    return Side(name, precision, lambda number: training.step(wavs, number))


def peak_mib(step: Callable[[int], object], device: torch.device) -> float:
    """Most that a step allocates at one time beyond what lies in memory before it, in MiB."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(0)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step(0)
    total = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    return peak / 2**20


def gflop(step: Callable[[int], object], batch: int) -> float:
    """Operations of a step's matrix products, convolutions and attention, in 10**9 a clip."""
    ops = torch.ops.aten

    def forward(*shapes: Any, **_: Any) -> int:
        return sdpa_flop_count(*shapes[:3])

    def backward(*shapes: Any, **_: Any) -> int:
        return sdpa_backward_flop_count(*shapes[:4])

    own = {
        ops._scaled_dot_product_flash_attention_for_cpu: forward,
        ops._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }  # which torch does not count by itself
    with FlopCounterMode(display=False, custom_mapping=own) as counter:
        step(0)
    return counter.get_total_flops() / batch / 1e9


def compare(arguments: argparse.Namespace, device: torch.device, precision: str, table: Table) -> None:
    """Measure all in turns and print a row of each."""
    turns = sides(arguments, device, precision)
    memory = [peak_mib(side.step, device) for side in turns]
    work = [gflop(side.step, arguments.batch) for side in turns]
    times: list[list[float]] = [[] for _ in turns]
    for number in range(1, 1 + arguments.rounds):
        for side, taken in zip(turns, times, strict=True):
            taken.append(seconds_each(side.step, times=1, device=device, first=number))
    first = statistics.median(times[0])
    for side, taken, mib, each in zip(turns, times, memory, work, strict=True):
        seconds = statistics.median(taken)
        table.add(
            [
                side.name, side.precision, f"{arguments.batch / seconds:.2f}", f"{1000 * seconds:.0f}",
                f"{1000 * min(taken):.0f}-{1000 * max(taken):.0f}", f"{mib:.0f}", f"{each:.1f}",
                f"{first / seconds:.2f}x",
            ]
        )  # fmt: skip


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time one step of every objective beside SSAST's as released.")
    parser.add_argument("--model", default="tiny", help="a file of configs/model")
    parser.add_argument("--batch", type=int, default=16, help="clips of a step, all at once")
    parser.add_argument("--frames", type=int, nargs=1, default=[512], help="of a clip")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these objectives")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="a toy model, four clips of 64 frames, one step")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    arguments = parser.parse_args(argv)
    known = {name.split(",")[0] for name in METHODS}
    if wrong := set(arguments.methods or ()) - known:
        parser.error(f"--methods {' '.join(sorted(wrong))}: choose from {', '.join(sorted(known))}")
    if arguments.small:
        arguments.batch, arguments.frames, arguments.rounds = 4, [128], 1
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Print the header and the table."""
    arguments = parse(argv)
    device = torch.device(arguments.device)
    precision = resolve_precision(arguments.precision, device)
    notes = [
        f"command: methods.py {' '.join(sys.argv[1:] if argv is None else argv)}",
        f"model {arguments.model}, batch {arguments.batch}, {arguments.frames[0]} frames, {arguments.rounds} rounds: "
        "median and range; peak: what a step allocates beyond model and optimiser's state",
    ]
    lines = header(device, precision, *notes)
    for text in lines:
        print(f"# {text}")
    compare(arguments, device, precision, Table(COLUMNS, arguments.json, lines))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"methods.py: error: {error}")
