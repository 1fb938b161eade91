"""Compute how long AudioSet-2M takes on one T4, 8 A100 and 32 H100.

python benchmarks/sizing.py [--out docs/images]       # prints the tables of docs/cluster.md, draws scaling.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cost import (
    A100,
    ALONE,
    DGX_A100,
    DGX_H100,
    ETHERNET,
    FP32_SHARE,
    H100,
    LINK_SHARE,
    T4,
    Device,
    Fabric,
    Job,
    Step,
    step_cost,
)
from vcrast.runs.report.style import COLOURS, GREY, MARKERS, house_style, new_figure

NUM_CLIPS = 2_042_985 + 22_176  # unbalanced and balanced, as AudioSet states
EPOCHS = 10
BATCH = 1024
MACHINES: tuple[tuple[str, Device, Fabric, int], ...] = (
    ("1 T4", T4, ALONE, 1),
    ("8 A100, one node", A100, DGX_A100, 8),
    ("32 H100, four nodes", H100, DGX_H100, 32),
    ("32 H100, slow network", H100, ETHERNET, 32),
)
CURVES = (
    ("A100, 8 x 200 Gb/s a node", A100, DGX_A100),
    ("H100, 8 x 400 Gb/s a node", H100, DGX_H100),
    ("H100, 100 Gb/s a node", H100, ETHERNET),
)
GPUS = tuple(2**power for power in range(10))
WEAK_CLIPS = 32  # a GPU
STRONG_BATCH = 4096
SAMPLE_BYTES = 2 * 16000 * 10  # a clip of 10 s in 16-bit samples

COST = ("machine", "clips a GPU", "cut", "encoder", "head", "gradients", "gather", "agreements", "step")
TOTAL = ("machine", "clips/s", "read", "sent by a GPU, a step", "steps", "hours", "GPU hours")
ASSUMED = ("", "half precision", "reached", "fp32", "memory", "source")
LINKS = ("", "in a node, each way", "of a node, each way", "empty message", "source")
SCALING = ("GPUs", *(f"{kind}: {name}" for kind in ("weak", "strong") for name, *_ in CURVES))


def num_steps() -> int:
    """Of the whole job."""
    return EPOCHS * (NUM_CLIPS // BATCH)


def costs(job: Job) -> list[tuple[str, Step]]:
    """A step on each machine."""
    return [
        (name, step_cost(job, device, fabric, world_size=number, batch_size=BATCH))
        for name, device, fabric, number in MACHINES
    ]


def cost_row(name: str, step: Step) -> list[str]:
    """Where the time of a step goes, in milliseconds."""
    plan = step.plan
    size = plan.split.micro_batch_size
    cut = f"{plan.num_micro_batches} x {size}, {plan.extra_compute:.0%} more" if plan.num_micro_batches > 1 else "whole"
    parts = (step.encoder_s, step.head_s, step.gradients_s, step.gather_s, step.agreements_s, step.seconds)
    return [name, str(plan.batch_size), cut, *(f"{1e3 * part:,.1f} ms" for part in parts)]


def total_row(name: str, step: Step) -> list[str]:
    """What the whole job takes."""
    hours = num_steps() * step.seconds / 3600
    sent = (step.gradient_bytes + step.gather_bytes) / 1e6
    read = step.clips_per_s * SAMPLE_BYTES / 1e6
    return [
        name, f"{step.clips_per_s:,.0f}", f"{read:,.0f} MB/s", f"{sent:,.0f} MB", f"{num_steps():,}", f"{hours:.3g}",
        f"{hours * step.world_size:.0f}",
    ]  # fmt: skip


def scaling(job: Job, device: Device, fabric: Fabric) -> tuple[list[float], list[float]]:
    """Clips per second and GPU over `GPUS`, relative to one GPU: with the batch growing, and with it fixed."""

    def speed(number: int, batch_size: int) -> float:
        return step_cost(job, device, fabric, world_size=number, batch_size=batch_size).clips_per_s / number

    weak = [speed(number, number * WEAK_CLIPS) for number in GPUS]
    strong = [speed(number, STRONG_BATCH) for number in GPUS]
    return [each / weak[0] for each in weak], [each / strong[0] for each in strong]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def assumed_rows() -> list[list[str]]:
    """The devices."""
    return [
        [each.name, f"{each.half / 1e12:g} TFLOP/s", f"{each.share:.0%}", f"{each.single / 1e12:g} TFLOP/s",
         f"{each.memory / 2**30:.1f} GiB", each.source]
        for each in (T4, A100, H100)
    ]  # fmt: skip


def link_rows() -> list[list[str]]:
    """The links."""
    return [
        [each.name, f"{each.inside / 1e9:g} GB/s", f"{each.between / 1e9:g} GB/s", f"{1e6 * each.hop_s:.0f} us",
         each.source]
        for each in (DGX_A100, DGX_H100, ETHERNET)
    ]  # fmt: skip


def scaling_rows(job: Job) -> list[list[str]]:
    """Efficiencies of every curve."""
    curves = [scaling(job, device, fabric) for _, device, fabric in CURVES]
    return [
        [str(number), *(f"{weak[i]:.0%}" for weak, _ in curves), *(f"{strong[i]:.0%}" for _, strong in curves)]
        for i, number in enumerate(GPUS)
    ]


def tables(job: Job) -> list[str]:
    """Every table of docs/cluster.md that is computed."""
    steps = costs(job)
    return [
        *table(ASSUMED, assumed_rows()), "", *table(LINKS, link_rows()), "",
        *table(COST, [cost_row(*each) for each in steps]), "", *table(TOTAL, [total_row(*each) for each in steps]), "",
        *table(SCALING, scaling_rows(job)),
    ]  # fmt: skip


def draw(path: Path, job: Job) -> None:
    """Efficiency against the number of GPUs: with a batch that grows, and with a fixed one."""
    with house_style():
        figure, (left, right) = new_figure(10, 4, 1, 2, sharey=True)
        for number, (name, device, fabric) in enumerate(CURVES):
            for axes, line in zip((left, right), scaling(job, device, fabric), strict=True):
                axes.plot(GPUS, line, color=COLOURS[number], marker=MARKERS[number], markersize=4, label=name)
        for axes, title in (
            (left, f"Weak: {WEAK_CLIPS} clips a GPU"),
            (right, f"Strong: batch {STRONG_BATCH}, shared"),
        ):
            axes.axhline(1, color=GREY, linewidth=1)
            axes.set(title=title, xscale="log", xlabel="GPUs", ylim=(0, 1.08))
            axes.set_xticks(GPUS, [str(number) for number in GPUS])
            axes.minorticks_off()
        left.set_ylabel("speed of a GPU, relative to one alone")
        right.legend(loc="upper right", title="computed, not measured")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def main(argv: list[str] | None = None) -> int:
    """Print the tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for scaling.png")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to recipe=audioset: model=small")
    arguments = parser.parse_args(argv)
    job = Job.of_recipe("recipe=audioset", *arguments.overrides)
    print(f"# computed from formulas and the makers' peaks: {job.num_parameters / 1e6:.1f} M weights, {job.num_frames}")
    print(
        f"# frames, {job.num_tokens} tokens a view; links reach {LINK_SHARE:.0%}, fp32 {FP32_SHARE:.0%} of their peak"
    )
    print("\n".join(tables(job)))
    if arguments.out:
        draw(arguments.out / "scaling.png", job)
        print(f"written: {arguments.out / 'scaling.png'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"sizing.py: error: {error}")
