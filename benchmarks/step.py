"""Measure one training step several ways in one process.

python benchmarks/step.py [--model base] [--batch 96] [--frames 512 1024] [--t4] [--small] [--profile FOLDER]
python benchmarks/step.py --ssast [--model base] [--batch 8] [--frames 512]     # beside SSAST's step as released
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import ssast
from benchmarks.machine import T4_NOTE, Table, header, imitate_t4, matmul_peak, seconds_each
from benchmarks.trace import trace_step
from benchmarks.training import SMALL, build_training
from benchmarks.variants import NaiveVCR, ThesisVCR
from vcrast.config.compose import compose
from vcrast.objectives.vcr import VCR
from vcrast.training.device import resolve_precision
from vcrast.training.exact import Outcome, Split

PATCHES = {"patch": [16, 16], "frame": [2, 128]}
COLUMNS = ("step", "tokens", "frames", "batch", "cut", "loss", "samples/s", "ms", "peak GiB", "TFLOP/s", "of matmul")
TRACE_ROWS = 12


@dataclass(frozen=True)
class Case:
    """One row: what is run and how the batch is cut; `micro` None means whole, 0 means planned."""

    name: str
    tokens: str
    frames: int
    batch: int
    micro: int | None
    objective: type[VCR]
    attention: str
    precision: str
    compile: bool


def cases(arguments: argparse.Namespace, precision: str, device: torch.device) -> Iterator[Case]:
    """The rows, in the table's order."""
    for tokens in arguments.tokens:
        for frames in arguments.frames:
            exact = Case(
                "exact accumulation", tokens, frames, arguments.batch, arguments.micro, VCR, "memory_efficient",
                precision, arguments.compile,
            )  # fmt: skip
            old = "fp16" if device.type == "cuda" else precision
            batch = min(arguments.thesis_batch, arguments.batch)
            yield Case("thesis-style", tokens, frames, batch, None, ThesisVCR, "softmax", old, False)
            yield replace(exact, name="naive accumulation", objective=NaiveVCR)
            yield exact
            if device.type == "cuda":
                yield replace(exact, name="exact, planned", micro=0)
            yield replace(exact, name="full batch", micro=None)


def make_step(arguments: argparse.Namespace, case: Case, device: torch.device) -> tuple[Callable[[int], Outcome], int]:
    """A function that runs step number n of a case, and the operations that a step needs."""
    time, frequency = PATCHES[case.tokens]
    words = [
        f"model={arguments.model}", f"attention={case.attention}", f"model.patch_size=[{time},{frequency}]",
        f"views.patch_drop={arguments.patch_drop}", f"objective.projector_dims={[arguments.projector] * 3}",
        *(["attention.kernel=sdpa"] if arguments.t4 and case.attention == "memory_efficient" else []),
        *(SMALL if arguments.small else ()),
    ]  # fmt: skip
    training = build_training(
        compose(words), num_frames=case.frames, precision=case.precision, device=device, kind=case.objective,
        compile=case.compile,
    )  # fmt: skip
    wavs = training.noise(case.batch)
    split = training.plan(wavs) if case.micro == 0 else Split(case.micro)
    return lambda number: training.step(wavs, number, split), training.flops(case.batch)


def measure(arguments: argparse.Namespace, case: Case, device: torch.device, peak: float) -> list[str]:
    """One row of the table."""
    gc.collect()  # the last case's model
    if device.type == "cuda":
        torch.cuda.empty_cache()
    row = [case.name, case.tokens, str(case.frames), str(case.batch)]
    try:
        step, flops = make_step(arguments, case, device)
        outcome = step(0)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        for number in range(1, arguments.warmup):
            step(number)
        seconds = seconds_each(step, times=arguments.steps, device=device, first=arguments.warmup)
        if arguments.profile is not None:
            file = arguments.profile / f"{'_'.join(row[:3]).replace(', ', '_').replace(' ', '_')}.json"
            print_trace(file, trace_step(step, arguments.warmup + arguments.steps, device=device, file=file))
    except torch.OutOfMemoryError:
        return [*row, "does not fit", *["-"] * 6]
    size, num_kept = outcome.split
    shown = "whole" if size == case.batch else f"{size}, {num_kept} kept" if num_kept else str(size)
    if case.micro is None and size != case.batch:
        shown += " (whole does not fit)"
    rate = flops / seconds
    memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f}" if device.type == "cuda" else "-"
    speed = [f"{case.batch / seconds:.1f}", f"{1000 * seconds:.1f}"]
    return [*row, shown, f"{outcome.loss:.6f}", *speed, memory, f"{rate / 1e12:.3g}", f"{rate / peak:.1%}"]


def print_trace(file: Path, rows: list[list[str]]) -> None:
    """The largest operations, to standard error: the table of steps on standard output stays whole."""
    lines = [f"{file}:", *(f"  {ms:>10} ms {share:>6} {calls:>6} x {name[:80]}" for name, calls, ms, share in rows)]
    print("\n".join(lines[: TRACE_ROWS + 1]), file=sys.stderr)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time one training step: thesis-style, naive, exact, full batch.")
    parser.add_argument("--model", default="base", help="a file of configs/model")
    parser.add_argument("--batch", type=int, help="clips of the loss (96)")
    parser.add_argument(
        "--micro", type=int, default=None, help="clips at once when accumulating (a quarter of the batch)"
    )
    parser.add_argument("--thesis-batch", type=int, default=12, help="clips of the thesis-style step, at most --batch")
    parser.add_argument("--frames", type=int, nargs="+", help="per clip (512 1024)")
    parser.add_argument("--tokens", nargs="+", choices=list(PATCHES), default=list(PATCHES))
    parser.add_argument("--projector", type=int, default=4096, help="width of the projector's three layers")
    parser.add_argument("--patch-drop", type=float, default=0.0, help="share of tokens taken away")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--compile", action="store_true", help="torch.compile the encoder, except thesis-style")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="timed, after --warmup (10)")
    parser.add_argument("--warmup", type=int, help="steps before (3)")
    parser.add_argument(
        "--small", action="store_true", help="a toy model whatever --model and --projector say, batch 8, one step"
    )
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="also run each step once under the profiler; traces go here"
    )
    parser.add_argument("--ssast", action="store_true", help="only: SSAST's step as released and ours, taking turns")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="only steps whose name begins with one of these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there, each as it is done")
    parser.add_argument("--t4", action="store_true", help="a T4's memory and kernels on a larger card")
    arguments = parser.parse_args(argv)
    small = {"batch": 8, "frames": [64, 96], "steps": 1, "warmup": 1}
    usual = {"batch": 96, "frames": [512, 1024], "steps": 10, "warmup": 3}
    for name, value in (small if arguments.small else usual).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    arguments.micro = arguments.micro or max(2, arguments.batch // 4)
    if arguments.batch % arguments.micro == 1:
        parser.error(f"--micro {arguments.micro}: leaves one clip over, which has no statistics; choose another")
    if arguments.t4 and (arguments.compile or arguments.precision not in ("auto", "fp16")):
        parser.error("--t4: a T4 has neither torch.compile nor bf16; leave --compile and --precision out")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Print the header and the table."""
    arguments = parse(argv)
    device = torch.device(arguments.device)
    if arguments.t4:
        imitate_t4(device)
    precision = resolve_precision("fp16" if arguments.t4 else arguments.precision, device)
    size = 512 if device.type == "cpu" else 8192
    peak = matmul_peak(device, precision, size)
    notes = [
        f"command: step.py {' '.join(sys.argv[1:] if argv is None else argv)}",
        f"matmul peak: {peak / 1e12:.3g} TFLOP/s, measured here on {size} x {size}",
        "TFLOP/s: of the model's own forward and backward; running a micro-batch twice is not counted as work",
        *([T4_NOTE] if arguments.t4 else []),
    ]
    lines = header(device, precision, *notes)
    for text in lines:
        print(f"# {text}")
    table = Table(ssast.COLUMNS if arguments.ssast else COLUMNS, arguments.json, lines)
    if arguments.ssast:
        for cells in ssast.compare(arguments, device, precision, size):
            table.add(cells)
        return 0
    for case in cases(arguments, precision, device):
        if not arguments.cases or case.name.startswith(tuple(arguments.cases)):
            table.add(measure(arguments, case, device, peak))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"step.py: error: {error}")
